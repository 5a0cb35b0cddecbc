"""The files of the page at /docs, by name: no path of a client reaches the file system."""

from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send


class Assets:
    """Answers ``/<name>`` for each file of a folder, which is listed once."""

    def __init__(self, folder: Path) -> None:
        self._files = {f"/{path.name}": path for path in folder.iterdir() if path.is_file()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file; raises ``HTTPException`` (404, 405)."""
        file = self._files.get(scope["path"].removeprefix(scope.get("root_path", "")))
        if file is None:
            raise HTTPException(404)
        if scope["method"] not in {"GET", "HEAD"}:
            raise HTTPException(405, headers={"Allow": "GET, HEAD"})
        await FileResponse(file)(scope, receive, send)


def close_assets(app: Starlette) -> None:
    """Put ``Assets`` in the place of each folder that is served by path."""
    for route in app.routes:
        folder = getattr(getattr(route, "app", None), "directory", None)
        if isinstance(route, Mount) and folder is not None:
            route.app = Assets(Path(folder))
