"""The embedded MLflow server in one process: its command line, environment and entry point.

``mlflow server`` starts a parent that imports MLflow, then a child that imports it again: 12 to 14
seconds, two processes. Here one process prepares the database and then serves: half the time, half
the memory, and a signal reaches the server itself, with no child left to look after.
"""

import argparse
import logging
import os
import re
import shlex
import socket
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from rossmann.addresses import host_and_port, reachable_hosts, redact_password
from rossmann.errors import RossmannError, ServiceError, SettingsError, first_line
from rossmann.filesystem.atomic_write import make_private_folder, private_files
from rossmann.serving.server import bind
from rossmann.settings import Settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_BACKEND = "_MLFLOW_SERVER_FILE_STORE"
_ARTIFACT_ROOT = "_MLFLOW_SERVER_ARTIFACT_ROOT"
_ARTIFACT_FOLDER = "_MLFLOW_SERVER_ARTIFACT_DESTINATION"
_SERVE_ARTIFACTS = "_MLFLOW_SERVER_SERVE_ARTIFACTS"
_ALLOWED_HOSTS = "MLFLOW_SERVER_ALLOWED_HOSTS"
_ALLOWED_ORIGINS = "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"
_PLAIN_TEXT = [(b"content-type", b"text/plain")]
_FOREIGN_PAGE = b"changes from pages of other sites are refused"
_BELOW_A_NAME = r"\*\.[^*?\[\]]*[A-Za-z][^*?\[\]]*"
_KEPT = {
    *(_BACKEND, _ARTIFACT_ROOT, _ARTIFACT_FOLDER, _SERVE_ARTIFACTS),
    *(_ALLOWED_HOSTS, _ALLOWED_ORIGINS),
    *("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "MLFLOW_ENABLE_AI_GATEWAY"),
    "MLFLOW_DISABLE_TELEMETRY",
}
"""Other variables of MLflow are of a user's other server: they move tables, or stop the start."""
_PROXY_ROOT = "mlflow-artifacts:/"
_SHUTDOWN_SECONDS = 5
"""Requests that run when the server ends may take this long."""


def server_command(settings: Settings) -> list[str]:
    """Command line of the server; run it with ``server_environment`` added to the environment.

    It answers ``GET /health`` with 200 once the database is ready. SIGTERM and SIGINT end it
    within seconds; after SIGTERM its exit code is -15, as for a program that does not catch it.
    """
    return [
        *(sys.executable, "-m", "rossmann.launcher.mlflow_server"),
        *("--host", settings.host),
        *("--port", str(settings.mlflow_port)),
        *("--folder", str(settings.mlflow_dir)),
    ]


def server_environment(settings: Settings) -> dict[str, str]:
    """Variables that the server needs in addition to the present environment."""
    folder = settings.mlflow_dir
    return {
        _BACKEND: settings.mlflow_store,
        _ARTIFACT_ROOT: _PROXY_ROOT,
        _ARTIFACT_FOLDER: (folder / "artifacts").as_uri(),
        _SERVE_ARTIFACTS: "true",
        _ALLOWED_HOSTS: allowed_hosts(settings.host, settings.mlflow_port, settings.allowed_hosts),
        # The job runner is eight more processes for features that are not used here.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # Its pages, whose requests are refused, are not shown.
        "MLFLOW_ENABLE_AI_GATEWAY": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }


def allowed_hosts(host: str, port: int, names: Iterable[str] = ()) -> str:
    """Host headers that are accepted, commas between: exact names and addresses, no patterns.

    Those of this machine and ``host``, ``names``, and those in MLflow's own variable
    ``MLFLOW_SERVER_ALLOWED_HOSTS``, in which ``*.name`` may stand for all names below one. For a
    server that listens on every address they are the addresses that this machine has now. Raises
    ``SettingsError`` for another pattern: ``10.*`` would accept ``10.evil.example``.
    """
    wildcard = [os.uname().nodename] if host in {"0.0.0.0", "::"} else []
    known = reachable_hosts(host, [], [*wildcard, *(name.lower() for name in wildcard), *names])
    configured = re.split(r"[\s,]+", os.environ.get(_ALLOWED_HOSTS, ""))
    for pattern in configured:
        if "*" in pattern and not re.fullmatch(
            r"\*\.[^*?\[\]]*[a-z][^*?\[\]]*", pattern, re.IGNORECASE
        ):
            raise SettingsError(
                f"{_ALLOWED_HOSTS}: {pattern[:60]} would accept names of others (such as"
                " 10.evil.example for 10.*); give names and addresses, or *.name for all below one"
            )
    hosts = [*sorted(f"[{name}]" if ":" in name else name for name in known), *configured]
    with_port = [f"{name}:{port}" for name in hosts if name and not re.search(r":\d+$", name)]
    return ",".join(dict.fromkeys([*filter(None, hosts), *with_port]))


def _prepare_database(folder: Path) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.server.handlers import initialize_backend_stores
    from sqlalchemy.exc import SQLAlchemyError

    make_private_folder(folder)
    make_private_folder(folder / "artifacts")
    store = os.environ[_BACKEND]
    shown = redact_password(store)
    try:
        _check_schema(store)
        initialize_backend_stores(store, store, _PROXY_ROOT)
    except (MlflowException, SQLAlchemyError) as error:
        reason = first_line(error)
        raise ServiceError(f"MLflow cannot use its database {shown}: {reason}") from error


def _check_schema(store: str) -> None:
    """Raise ``ServiceError`` for the database of another MLflow, older or newer.

    MLflow calls each an old one, and advises an upgrade, which fails for a newer one.
    """
    import mlflow
    import sqlalchemy as sa
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    engine = sa.create_engine(store)
    try:
        with engine.connect() as connection:
            found = MigrationContext.configure(connection).get_current_heads()
    finally:
        engine.dispose()
    migrations = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    known = {script.revision for script in migrations.walk_revisions()}
    unknown = ", ".join(sorted(set(found) - known))
    shown = redact_password(store)
    if unknown:
        raise ServiceError(
            f"the database {shown} was written by a newer MLflow: MLflow {mlflow.__version__} does"
            f" not know its schema version {unknown}. Update this program, or choose another data"
            " folder: ROSSMANN_DATA_DIR"
        )
    if found and set(found) != set(migrations.get_heads()):
        raise ServiceError(
            f"the database {shown} was written by an older MLflow. Copy it to a safe place, then:"
            f" {shlex.quote(sys.executable)} -m mlflow db upgrade {shlex.quote(shown)}"
        )


def _refuse_pages_of_others(app: "ASGIApp") -> "ASGIApp":
    """The app without changes that a browser sends from a page of another origin.

    MLflow lets every page on localhost write, whatever its port: any program's page there could set
    tags and overwrite artifacts. Origins in MLflow's own variable stay allowed.
    """
    allowed = set(filter(None, re.split(r"[\s,]+", os.environ.get(_ALLOWED_ORIGINS, ""))))

    async def checked(scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] == "http" and scope["method"] not in {"GET", "HEAD", "OPTIONS"}:
            headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
            origin, host = headers.get(b"origin"), headers.get(b"host", "")
            if origin and origin.partition("://")[2] != host and origin not in allowed:
                start = {"type": "http.response.start", "status": 403, "headers": _PLAIN_TEXT}
                await send(start)
                await send({"type": "http.response.body", "body": _FOREIGN_PAGE})
                return
        await app(scope, receive, send)

    return checked


class _AnnouncedServer(uvicorn.Server):
    """Logs its address when it serves, as uvicorn does for sockets that it opens itself."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            address = host_and_port(*listener.getsockname()[:2])
            logging.getLogger("uvicorn.error").info("Uvicorn running on http://%s", address)


def run(host: str, port: int, folder: Path) -> None:
    """Serve until a signal ends the process; the environment is ``server_environment``'s.

    Raises ``PortInUseError`` or ``SettingsError`` for the address, at once rather than after the
    long import, and ``ServiceError`` when the database cannot be used.
    """
    for name in list(os.environ):
        if re.match(r"_?MLFLOW_", name) and name not in _KEPT:
            del os.environ[name]
    with bind(host, port, "ROSSMANN_MLFLOW_PORT") as listener:
        _prepare_database(folder)
        from mlflow.server import app as pages
        from mlflow.server.fastapi_app import app

        from rossmann.launcher.mlflow_guard import protect_registered_files, refuse_unused_routes

        protect_registered_files(os.environ[_BACKEND], folder / "artifacts")
        refuse_unused_routes(app, pages)
        config = uvicorn.Config(
            _refuse_pages_of_others(app),
            access_log=False,
            log_level="info",
            workers=1,  # else by WEB_CONCURRENCY
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        )
        _AnnouncedServer(config).run(sockets=[listener])


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m rossmann.launcher.mlflow_server``; returns the exit code."""
    parser = argparse.ArgumentParser(description="MLflow server in one process.")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--folder", required=True, type=Path)
    options = parser.parse_args(arguments)
    try:
        with private_files():
            run(options.host, options.port, options.folder)
    except RossmannError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
