"""Start rules: a service without a model does not start, and says why within seconds.

MERGED: How workers share the connections of one port.
"""

import errno
import os
import socket
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rossmann.errors import PortInUseError, RossmannError, ServiceError, SettingsError
from rossmann.logging_config import configure_library_logging, configure_logging, get_logger
from rossmann.serving.observability.metrics import MULTIPROC_DIR_VARIABLE, multiprocess_dir
from rossmann.settings import Settings, load_settings

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI


def main() -> int:
    """Serve with the settings of the environment; an exit code, errors in one line on stderr."""
    try:
        run(load_settings())
    except RossmannError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def run(settings: Settings) -> None:
    """Serve until told to stop.

    Raises ``NoModel`` where no version can be had, ``PortTaken``, ``SettingsError``,
    ``MissingData``.
    """
    _configure_logs(settings)
    logger = get_logger("server")
    log_access_policy(settings)
    check_tracing()
    with bind(settings.host, settings.api_port) as listener:
        url = f"http://{settings.host}:{settings.api_port}"
        try:
            if settings.workers == 1:
                os.environ.pop(
                    MULTIPROC_DIR_VARIABLE, None
                )  # another program's: alone, no folder is needed
                app = build_app(settings)
                logger.info("serving", url=url)
                _run_one(server_config(app, trusted_proxies=settings.trusted_proxies), listener)
            else:
                require_servable_model(settings)
                logger.info("serving", url=url, workers=settings.workers)
                _run_many(settings, listener)
        except KeyboardInterrupt:
            logger.info("stopped")


def log_access_policy(settings: Settings) -> None:
    """Log who is let in; raises ``SettingsError`` where keys or limits cannot be."""
    from rossmann.serving.access.access_control import access_summary, is_loopback

    logger = get_logger("security")
    is_open, told = access_summary(settings)
    if not is_open:
        logger.info("callers need a key", **told)
    elif is_loopback(settings.host):
        logger.info("open to all on this machine; make keys with: rossmann keys new", **told)
    else:
        logger.warning(
            "open to all: anyone who reaches the port may call; make keys with: rossmann keys new",
            host=settings.host,
            **told,
        )


def check_tracing() -> None:
    """Raise ``SettingsError`` where the environment asks for traces that cannot be had."""
    if any(name.startswith("OTEL_") for name in os.environ):
        from rossmann.serving.observability.tracing import tracing_enabled

        tracing_enabled(os.environ)


def require_servable_model(settings: Settings) -> None:
    """Raise ``NoModel`` where no worker could start; loads nothing."""
    from rossmann.serving.runtime.registry_snapshot import require_startable
    from rossmann.serving.runtime.service import open_registry, startup_timeout

    registry = open_registry(settings)
    with startup_timeout(registry, settings):
        require_startable(registry, settings.model_cache_dir)


def build_app(settings: Settings) -> "FastAPI":
    """The application with its real parts."""
    from rossmann.serving.runtime.service import build_service

    service = build_service(settings)
    from rossmann.serving.app import create_app

    return create_app(settings, service)


def worker_app() -> "FastAPI":
    """The application of one worker of several."""
    settings = load_settings()
    _configure_logs(settings)
    return build_app(settings)


def _configure_logs(settings: Settings) -> None:
    configure_logging(settings.log_level, settings.log_format)
    configure_library_logging(settings.log_level, settings.log_format)


def bind(host: str, port: int) -> socket.socket:
    """Take the address before anything slow; raises ``PortTaken`` or ``SettingsError``."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise SettingsError(f"ROSSMANN_HOST: {host} is no address of this machine") from error
    listener = socket.socket(family, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(
                f"port {port} on {host} is taken by something else; "
                "choose another with ROSSMANN_API_PORT"
            ) from error
        raise SettingsError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    listener.set_inheritable(True)
    return listener


def server_config(
    app: "FastAPI | str", workers: int = 1, trusted_proxies: str = ""
) -> "uvicorn.Config":
    """How the service is served; ``app`` may name a function that makes one per worker."""
    import uvicorn

    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        workers=workers,
        loop="uvloop",
        http="httptools" if workers == 1 else FairAcceptProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        # Else a client could say that it is another one.
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=trusted_proxies,
        # Longer than clients keep idle connections, so that none is closed under a request.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=20,
        # A worker that does not answer for so long is ended; busy or just starting is not dead.
        timeout_worker_healthcheck=15,
    )


def _run_one(config: "uvicorn.Config", listener: socket.socket) -> None:
    import uvicorn

    server = uvicorn.Server(config)
    server.run(sockets=[listener])
    if not server.started:
        raise ServiceError("the service did not start: its log says why")


def _run_many(settings: Settings, listener: socket.socket) -> None:
    from uvicorn.supervisors import Multiprocess

    config = server_config(
        "rossmann.serving.server:worker_app", settings.workers, settings.trusted_proxies
    )
    with multiprocess_dir() as folder:
        os.environ[MULTIPROC_DIR_VARIABLE] = str(folder)  # workers inherit it
        Multiprocess(config, sockets=[listener]).run()


_PAUSE: Final = 1e-4
"""Seconds, in which another worker wakes up even on a busy machine; a hundredth of them did only
on an idle one."""


class FairAcceptProtocol(HttpToolsProtocol):
    """HTTP for one of several workers: it lets another take the next connection.

    All of them wait at one port, and whoever wakes up first takes all that knock until none is
    left. A client that opens 32 at once, as pools do, would keep one worker busy and the others
    idle for as long as it stays: 28 to 4 of them was the rule. The pause in between makes it 17 to
    15. It was libuv's own remedy (``UV_TCP_SINGLE_ACCEPT``), until it went. A socket for each
    worker (``SO_REUSEPORT``) would share as well, but break the connections that wait at a worker
    when it is killed: from one socket another takes them.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # It does hold up the loop: a new connection costs more than that anyway.
        time.sleep(_PAUSE)
