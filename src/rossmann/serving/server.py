"""The server process: uvicorn with one worker or several, and the checks before it starts."""

import errno
import os
import socket
import sys
import time
from contextlib import suppress
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rossmann.addresses import exempt_from_proxies, host_and_port, is_loopback
from rossmann.errors import PortInUseError, RossmannError, ServiceError, SettingsError
from rossmann.filesystem.atomic_write import private_files
from rossmann.installation import shell_command
from rossmann.logging_config import configure_library_logging, configure_logging, get_logger
from rossmann.serving.observability.metrics import MULTIPROC_DIR_VARIABLE, multiprocess_dir
from rossmann.settings import Settings, load_settings

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

_ACCEPT_PAUSE: Final = 1e-4
"""Seconds in which another worker wakes up, on a busy machine too."""
MAX_HEADER_BYTES: Final = 65_536
"""Length limit of a request's URL and headers."""
_TOO_LONG_BODY: Final = (
    b'{"detail":[{"loc":["header"],"msg":"the headers of a request may hold at most 64 KB",'
    b'"type":"too_many_bytes"}],"request_id":""}'
)
_TOO_LONG: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(_TOO_LONG_BODY), _TOO_LONG_BODY)
)


def main() -> int:
    """Serve with the settings of the environment; returns the exit code."""
    try:
        with private_files():
            run(load_settings())
    except RossmannError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def run(settings: Settings) -> None:
    """Serve until a signal; raises ``ModelUnavailableError`` without a version,
    ``PortInUseError``, ``SettingsError``, ``DataNotFoundError``.
    """
    _configure_logs(settings)
    logger = get_logger("server")
    log_access_policy(settings)
    check_tracing()
    with bind(settings.host, settings.api_port) as listener:
        url = f"http://{host_and_port(settings.host, settings.api_port)}{settings.api_base_path}"
        try:
            if settings.workers == 1:
                os.environ.pop(MULTIPROC_DIR_VARIABLE, None)  # it would be another program's
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
    """Log who may call; raises ``SettingsError`` for invalid keys or limits."""
    from rossmann.serving.access.access_control import access_summary

    logger = get_logger("security")
    is_open, details = access_summary(settings)
    keys = shell_command("keys new")
    if not is_open:
        logger.info("callers need a key", **details)
    elif is_loopback(settings.host):
        logger.info(f"open to all on this machine; make keys with: {keys}", **details)
    else:
        logger.warning(
            f"open to all: anyone who reaches the port may call; make keys with: {keys}",
            host=settings.host,
            **details,
        )
    if everyone := believes_everyone(settings.trusted_proxies):
        logger.warning(
            f"ROSSMANN_TRUSTED_PROXIES={everyone} believes X-Forwarded-For of everyone, so that"
            " any caller can name another address and pass the limits: name the proxies only"
        )


def believes_everyone(trusted_proxies: str) -> str:
    """The first entry that stands for all addresses, or for half of them; empty: none."""
    for entry in filter(None, map(str.strip, trusted_proxies.split(","))):
        if entry == "*":
            return entry
        with suppress(ValueError):
            if ip_network(entry, strict=False).prefixlen <= 1:
                return entry
    return ""


def check_tracing() -> None:
    """Prepare for traces; raises ``SettingsError`` where the exporter is not installed."""
    if any(name.startswith("OTEL_") for name in os.environ):
        from rossmann.serving.observability.tracing import tracing_enabled

        if tracing_enabled(os.environ):
            # The exporter is a client of its own, which would call a collector here by a proxy.
            exempt_from_proxies("localhost", "127.0.0.1", "::1")


def require_servable_model(settings: Settings) -> None:
    """Raise ``ModelUnavailableError`` where no worker could start; loads nothing."""
    from rossmann.serving.runtime.registry_snapshot import require_startable
    from rossmann.serving.runtime.service import open_registry, startup_timeout

    registry = open_registry(settings)
    with startup_timeout(registry, settings):
        require_startable(registry, settings.model_cache_dir)


def build_app(settings: Settings) -> "FastAPI":
    """The application over a loaded service."""
    from rossmann.serving.runtime.service import build_service

    service = build_service(settings)
    from rossmann.serving.app import create_app

    return create_app(settings, service)


def worker_app() -> "FastAPI":
    """App factory of one worker of several."""
    settings = load_settings()
    _configure_logs(settings)
    return build_app(settings)


def _configure_logs(settings: Settings) -> None:
    configure_logging(settings.log_level, settings.log_format)
    configure_library_logging(settings.log_level, settings.log_format)


def bind(host: str, port: int, setting: str = "ROSSMANN_API_PORT") -> socket.socket:
    """A bound socket, before anything slow; ``::`` takes IPv4 too.

    ``setting``: the variable of the port. Raises ``PortInUseError`` or ``SettingsError``.
    """
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
                f"port {port} on {host} is taken by something else; choose another with {setting}"
            ) from error
        raise SettingsError(
            f"cannot listen on {host_and_port(host, port)}: {error.strerror};"
            " ROSSMANN_HOST must be an address of this machine"
        ) from error
    listener.set_inheritable(True)
    return listener


def server_config(
    app: "FastAPI | str", workers: int = 1, trusted_proxies: str = ""
) -> "uvicorn.Config":
    """Uvicorn's configuration; ``app`` may name a factory that each worker calls."""
    import uvicorn

    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        workers=workers,
        loop="uvloop",
        http=BoundedHeadersProtocol if workers == 1 else FairAcceptProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        # Without trusted proxies a client could claim another address.
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=trusted_proxies,
        # Longer than clients keep idle connections: none is closed while a request arrives.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=20,
        # A worker that is busy or starting needs some seconds to answer the health check.
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


class BoundedHeadersProtocol(HttpToolsProtocol):
    """HTTP protocol that answers 431 to headers, trailers or a URL of more than 64 KB.

    The parser has no limit, and joins a long header again with each part that arrives: 40 MB took
    1.8 s of processor time.
    """

    _unparsed = 0
    """Bytes since the last part of a body or the end of the headers."""

    def data_received(self, data: bytes) -> None:
        """Parse ``data``; refuse it where a head is not complete with it, but too long."""
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > MAX_HEADER_BYTES and not self.transport.is_closing():
            self._refuse_headers()

    def on_headers_complete(self) -> None:
        """Start the request, unless its head is too long."""
        received, self._unparsed = self._unparsed, 0
        if self.transport.is_closing():
            return
        # The same read may hold much of the body too.
        if received > MAX_HEADER_BYTES:
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > MAX_HEADER_BYTES:
                self._refuse_headers()
                return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass a part of the body on."""
        self._unparsed = 0
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Tell the request that its body is complete."""
        self._unparsed = 0
        if not self.transport.is_closing():
            super().on_message_complete()

    def _refuse_headers(self) -> None:
        # While another response is sent, the connection is closed without one.
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(_TOO_LONG)
        self.transport.close()


class FairAcceptProtocol(BoundedHeadersProtocol):
    """HTTP protocol that pauses after each new connection, so that another worker takes the next.

    All workers accept from one socket, and the first to wake up takes all pending connections: of
    32 that a connection pool opens at once, one worker got 28. With the pause it is 17 to 15.
    libuv once did the same (``UV_TCP_SINGLE_ACCEPT``). One socket for each worker
    (``SO_REUSEPORT``) would drop the pending connections of a killed worker.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # It blocks the loop, but a new connection costs more than that anyway.
        time.sleep(_ACCEPT_PAUSE)
