"""What the embedded MLflow server refuses: changes of registered files, routes that run programs.

Files: every route of MLflow that writes or deletes artifacts (the artifact proxy, uploads of its
pages, traces) ends in its repository for local files, after it has decoded the path. So the rule is
there, and not at the routes: no spelling of a path passes it, and it is checked once more in the
moment in which an upload that began before the registration would replace a file.

Routes: MLflow has no authentication here, so whoever reaches it could use them: the assistant runs
tools on this machine, the gateway and webhooks send requests to addresses that a caller chooses,
and jobs evaluate with both. This product uses none of them. MLflow's own tables of routes decide
what is refused, after they have matched a request. No rule reads paths of requests, so no spelling
of a path passes one.
"""

import asyncio
import functools
import json
import os
import urllib.parse
from collections.abc import AsyncIterable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import sqlalchemy as sa
from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED, TEMPORARILY_UNAVAILABLE
from mlflow.store.artifact.artifact_repository_registry import get_registered_artifact_repositories
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from starlette.routing import BaseRoute, Match

from rossmann.errors import first_line
from rossmann.installation import shell_command

if TYPE_CHECKING:
    from fastapi import FastAPI
    from flask import Flask, Response
    from starlette.types import Receive, Scope, Send

_PROXY_ROUTE: Final = "/api/2.0/mlflow-artifacts/artifacts/"
_LOCKS: Final = {
    "sqlite": "BEGIN IMMEDIATE",
    "postgresql": "LOCK TABLE model_versions IN SHARE MODE",
}
"""By the database: until the connection is closed, no version can be registered."""
_LOCK_SECONDS: Final = 20
"""As long as MLflow itself waits for its SQLite database."""
_KNOWN_PLACES: Final = 10_000
_PLACES: Final = sa.text(
    "SELECT v.name, v.version, v.storage_location, v.source, r.artifact_uri"
    " FROM model_versions v LEFT JOIN runs r ON r.run_uuid = v.run_id"
    " WHERE v.current_stage IS NULL OR v.current_stage <> :deleted"
)
"""``storage_location`` is where a source such as ``models:/m-…`` was when it was registered."""
_REFUSED: Final = ("/gateway", "/jobs", "/invoke", "promptlab", "online-config")
"""Parts of the paths that MLflow's own table names."""
_WEBHOOKS: Final = "/webhooks"
_READS: Final = {"GET", "HEAD", "OPTIONS", "DELETE"}
"""Webhooks of an earlier release can still be listed, and deleted: that sends nothing."""
_MESSAGE: Final = (
    "this server has no assistant, gateway, jobs and webhooks: they run programs or send requests"
    " for anyone who reaches it. Start an MLflow server of your own for them, and name it in"
    " ROSSMANN_MLFLOW_TRACKING_URI"
)
_BODY: Final = json.dumps({"error_code": "PERMISSION_DENIED", "message": _MESSAGE})


def protect_registered_files(database: str, folder: Path) -> None:
    """From now on MLflow changes no file of registered versions, and none outside ``folder``.

    This holds for the process. A refused request is answered 403. ``database``: URL of MLflow's
    tables. ``folder``: that of the artifacts.
    """
    files = _RegisteredFiles(database, folder)
    repository = functools.partial(_ProtectedArtifacts, files)
    repositories: dict[str, Any] = get_registered_artifact_repositories()
    repositories.update({"": repository, "file": repository})


class _RegisteredFiles:
    """The files of registered versions and of their runs, as MLflow's tables name them."""

    def __init__(self, database: str, root: Path) -> None:
        self._root = root
        url = sa.make_url(database)
        options = {"timeout": _LOCK_SECONDS} if url.get_backend_name() == "sqlite" else {}
        self._engine = sa.create_engine(url, connect_args=options)
        self._lock = _LOCKS.get(url.get_backend_name())
        self._folder = functools.lru_cache(_KNOWN_PLACES)(self._find_folder)

    def check(self, path: str) -> None:
        """Raise ``MlflowException`` (403) where a change of ``path`` would change such a file.

        That is a file or folder of a version, one below it, or a folder that holds it.
        """
        with self._connect() as connection:
            self._check(connection, path)

    @contextmanager
    def hold_unregistered(self, path: str) -> Iterator[None]:
        """``check``, and nothing can be registered until the end of the block."""
        with self._connect() as connection:
            if self._lock:
                connection.exec_driver_sql(self._lock)
            self._check(connection, path)
            yield

    @contextmanager
    def _connect(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except sa.exc.SQLAlchemyError as error:
            raise MlflowException(
                f"nothing was changed: the database could not be read ({first_line(error)});"
                " try again",
                error_code=TEMPORARILY_UNAVAILABLE,
            ) from error

    def _check(self, connection: sa.Connection, path: str) -> None:
        target = os.path.normpath(path)
        relative = os.path.relpath(target, self._root)
        if relative == os.pardir or relative.startswith(f"{os.pardir}{os.sep}"):
            raise MlflowException(
                f"this server changes no files outside its artifact folder: {target}",
                error_code=PERMISSION_DENIED,
            )
        rows = connection.execute(_PLACES, {"deleted": STAGE_DELETED_INTERNAL})
        key = _comparable(target)
        for name, version, *places in rows:
            folders = [self._folder(place) for place in places if place]
            if any(f and (key.startswith(f) or f.startswith(key)) for f in folders):
                raise MlflowException(
                    f"the files of a registered version cannot be changed: {relative} is, holds or"
                    f" belongs to files of {name} version {version}. Write all files before they"
                    f" are registered; for other files register a new version"
                    f" ({shell_command('train')})",
                    error_code=PERMISSION_DENIED,
                )

    def _find_folder(self, uri: str) -> str:
        """The folder of this server that ``uri`` names, comparable; empty where it is elsewhere."""
        parts = urllib.parse.urlsplit(uri)
        path = _unquote(parts.path)
        if parts.scheme in {"http", "https"} and _PROXY_ROUTE in path:
            path = path.partition(_PROXY_ROUTE)[2]
        elif parts.scheme != "mlflow-artifacts":
            is_local = parts.scheme == "file" or uri.startswith("/")
            return _comparable(urllib.parse.unquote(parts.path)) if is_local else ""
        return _comparable(str(self._root / path.lstrip("/")))


def _comparable(path: str) -> str:
    """Begins with that of each folder that holds it; upper and lower case are one, as on macOS."""
    return f"{os.path.normpath(path)}/".casefold()


def _unquote(path: str) -> str:
    """Decoded as often as MLflow decodes a path that it is sent."""
    while (decoded := urllib.parse.unquote(path)) != path:
        path = decoded
    return path


class _ProtectedArtifacts(LocalArtifactRepository):
    """MLflow's repository for local files, without changes of the files in ``files``."""

    def __init__(
        self,
        files: _RegisteredFiles,
        artifact_uri: str,
        tracking_uri: str | None = None,
        registry_uri: str | None = None,
    ) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        self._files = files

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        self._files.check(self._path(artifact_path, Path(local_file).name))
        super().log_artifact(local_file, artifact_path)  # type: ignore[no-untyped-call]

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        with self._files.hold_unregistered(self._path(artifact_path)):
            super().log_artifacts(local_dir, artifact_path)  # type: ignore[no-untyped-call]

    def log_artifact_from_stream(
        self, stream: BinaryIO, artifact_file_name: str, artifact_path: str | None = None
    ) -> None:
        self._files.check(self._path(artifact_path, artifact_file_name))
        super().log_artifact_from_stream(stream, artifact_file_name, artifact_path)

    async def log_artifact_from_async_stream(
        self,
        chunks: AsyncIterable[bytes],
        artifact_file_name: str,
        artifact_path: str | None = None,
    ) -> None:
        path = self._path(artifact_path, artifact_file_name)
        try:
            await asyncio.to_thread(self._files.check, path)
        except MlflowException:
            async for _ in chunks:  # a client that still sends would not see the answer
                pass
            raise
        await super().log_artifact_from_async_stream(chunks, artifact_file_name, artifact_path)

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        with self._files.hold_unregistered(self._path(artifact_path)):
            super().delete_artifacts(artifact_path)  # type: ignore[no-untyped-call]

    def _publish_staged_artifact(
        self,
        temp_file_path: str,
        destination_file_path: str,
        finalize_temp_path: Callable[[str], Any] | None = None,
    ) -> None:
        """The last step of every upload, which may have begun before the registration."""
        with self._files.hold_unregistered(destination_file_path):
            super()._publish_staged_artifact(
                temp_file_path, destination_file_path, finalize_temp_path
            )

    def _path(self, artifact_path: str | None, name: str = "") -> str:
        return str(Path(self.artifact_dir, artifact_path or "", name))


def refuse_unused_routes(app: "FastAPI", pages: "Flask") -> None:
    """From now on the routes are answered 403, for this process; ``pages``: mounted in ``app``."""
    from mlflow.server.assistant.api import assistant_router
    from mlflow.server.gateway_api import gateway_router
    from mlflow.server.job_api import job_api_router

    routers = (assistant_router, gateway_router, job_api_router)
    endpoints = {_endpoint(route) for router in routers for route in router.routes} - {None}
    routes = app.router.routes
    routes[:] = [_RefusedRoute(route) if _leads_to(route, endpoints) else route for route in routes]
    for rule in pages.url_map.iter_rules():
        is_change = bool((rule.methods or set()) - _READS)
        if any(part in rule.rule for part in _REFUSED) or (_WEBHOOKS in rule.rule and is_change):
            pages.view_functions[rule.endpoint] = _refuse_page


def _leads_to(route: BaseRoute, endpoints: set[object]) -> bool:
    """Whether it is, or includes, a route of one of the endpoints; FastAPI has had both forms."""
    included = getattr(route, "original_router", None)
    parts = included.routes if included else [route]
    return any(_endpoint(part) in endpoints for part in parts)


def _endpoint(route: BaseRoute) -> object:
    return getattr(route, "endpoint", None)


class _RefusedRoute(BaseRoute):
    """Matches what the route in it matches, and answers 403."""

    def __init__(self, route: BaseRoute) -> None:
        self._route = route

    def matches(self, scope: "Scope") -> "tuple[Match, Scope]":
        return self._route.matches(scope)

    async def handle(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        from starlette.responses import Response

        await Response(_BODY, 403, media_type="application/json")(scope, receive, send)


def _refuse_page(**_: object) -> "Response":
    from flask import Response

    return Response(_BODY, 403, mimetype="application/json")
