"""What web applications of this product share: content security policies, and the documentation.

A policy allows inline scripts of a page by digest. The built documentation is an ASGI application,
for the API, for the dashboard, or on its own.
"""

import base64
import hashlib
import re
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Final
from urllib.parse import urljoin

from starlette.datastructures import URL, Headers
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

_SCRIPT: Final = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
OWN_FILES_ONLY: Final = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self' 'unsafe-inline'",  # style sheets that scripts make in the page
    "img-src": "'self' data:",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
"""Directives of a page that loads from its own address only, and that no other page shows."""
PATH: Final = "/documentation"
"""Where the API and the dashboard mount it."""
_ROUTE: Final = SimpleNamespace(path=PATH)
_NOT_BUILT: Final = "The documentation is not built yet. Build it with: rossmann docs --build\n"
_NO_CONTENT: Final = {"content-security-policy": "default-src 'none'; frame-ancestors 'none'"}
_POLICY: Final = {"font-src": "'self' data:", "worker-src": "'self' blob:"}
_MARKDOWN: Final = "text/markdown"
_TEXT_HEADERS: Final = {"cache-control": "no-cache", "vary": "Accept, Host"}
_TEXT_TYPES: Final = {".md": _MARKDOWN, ".txt": "text/plain"}
_LINK: Final = re.compile(r"(?<=\]\()[^)\s#][^)\s]*")
CODE_BLOCK: Final = re.compile(r"(^```.*?^```[ \t]*$)", re.DOTALL | re.MULTILINE)
"""A fenced block of Markdown."""


def content_policy(page: bytes, changes: dict[str, str] | None = None) -> str:
    """The policy of an HTML page: ``OWN_FILES_ONLY`` with ``changes``, and its inline scripts."""
    directives = OWN_FILES_ONLY | (changes or {})
    digests = [
        f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"
        for script in _SCRIPT.findall(page)
    ]
    directives["script-src"] = " ".join((directives["script-src"], *digests))
    return "; ".join(f"{name} {value}" for name, value in directives.items())


class DocumentationSite(StaticFiles):
    """Files of a folder that ``rossmann docs --build`` makes; the folder may come later.

    A page ``a/b/`` is also ``a/b.md``; a caller that prefers Markdown gets it at both addresses.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(directory=folder, html=True, check_dir=False)
        self._folder = folder
        self.config_checked = True  # the folder's existence is asked for each time

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file's response; a page that is not there is 404, with the site's own page."""
        scope["route"] = _ROUTE  # its name in metrics and the access log
        if not (self._folder / "index.html").is_file():
            return PlainTextResponse(_NOT_BUILT, 404, _NO_CONTENT)
        if scope["method"] not in {"GET", "HEAD"}:
            raise HTTPException(405, headers={"Allow": "GET, HEAD"})
        if (self._folder / path).is_dir() and not scope["path"].endswith("/"):
            # A path only: an address would be made of the caller's Host.
            return RedirectResponse(f"{scope['path'].rpartition('/')[2]}/", 308)
        markdown = self._markdown_path(path)
        if markdown and _prefers_markdown(Headers(scope=scope).get("accept", "")):
            path = markdown
        if Path(path).suffix in _TEXT_TYPES and (self._folder / path).is_file():
            return self._text(path, scope)
        response = await super().get_response(path, scope)
        self._add_headers(response, markdown)
        return response

    def _text(self, path: str, scope: Scope) -> Response:
        """A text with absolute links: a reader of the text alone has no address."""
        text = (self._folder / path).read_text("utf-8")
        # The text's own address, also where a page's address was asked for.
        path_of_text = f"{scope.get('root_path', '')}/{path}"
        address = URL(scope=scope).replace(path=path_of_text, query="")
        content = absolute_links(text, str(address))
        media_type = _TEXT_TYPES[Path(path).suffix]
        return Response(content, media_type=media_type, headers=_TEXT_HEADERS)

    def _markdown_path(self, path: str) -> str:
        """The Markdown file of a page's path; "" where the path is no page."""
        name = "index.md" if path in {".", "index.html"} else f"{path.rstrip('/')}.md"
        return name if (self._folder / name).is_file() else ""

    def _add_headers(self, response: Response, markdown: str) -> None:
        file = Path(getattr(response, "path", ""))
        page = file.suffix == ".html"
        response.headers["cache-control"] = "no-cache" if page else "max-age=3600"
        if page:
            response.headers["content-security-policy"] = _page_policy(file, file.stat().st_mtime)
        if markdown:
            response.headers["vary"] = "Accept"


@lru_cache(maxsize=256)
def _page_policy(file: Path, modified: float) -> str:
    return content_policy(file.read_bytes(), _POLICY)


def absolute_links(text: str, address: str) -> str:
    """Markdown with whole links, from its own address; code blocks stay as they are."""
    parts = CODE_BLOCK.split(text)
    parts[::2] = [_LINK.sub(lambda link: urljoin(address, link[0]), part) for part in parts[::2]]
    return "".join(parts)


def _prefers_markdown(accept: str) -> bool:
    """Whether an ``Accept`` header names Markdown, with at least the weight of HTML."""
    weights = {"text/html": 0.0, _MARKDOWN: 0.0}
    for part in accept.split(","):
        name, _, parameters = part.strip().partition(";")
        if name.strip() in weights:
            _, _, weight = parameters.partition("q=")
            try:
                weights[name.strip()] = float(weight) if weight else 1.0
            except ValueError:
                weights[name.strip()] = 0.0
    return 0 < weights[_MARKDOWN] >= weights["text/html"]
