"""The server process: uvicorn with one worker or several, and the checks before it starts."""

import errno
import os
import resource
import socket
import sys
import time
from contextlib import suppress
from ipaddress import ip_network
from typing import TYPE_CHECKING, Final

from uvicorn.supervisors import Multiprocess

from rossmann.addresses import exempt_from_proxies, host_and_port, is_loopback
from rossmann.errors import PortInUseError, RossmannError, ServiceError, SettingsError
from rossmann.filesystem.atomic_write import private_files
from rossmann.installation import shell_command
from rossmann.logging_config import configure_library_logging, configure_logging, get_logger
from rossmann.serving.http_protocol import BoundedRequestProtocol, FairAcceptProtocol, ServerConfig
from rossmann.serving.observability.metrics import MULTIPROC_DIR_VARIABLE, multiprocess_dir
from rossmann.settings import Settings, load_settings

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
"""Seconds, between two looks at workers that end one after another."""


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
    ``PortInUseError``, ``SettingsError``, ``DataNotFoundError``, and ``ServiceError`` where the
    server or a worker did not start.
    """
    raise_open_files_limit()
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
                _run_one(server_config(app, settings), listener)
            else:
                require_servable_model(settings)
                logger.info("serving", url=url, workers=settings.workers)
                _run_many(settings, listener)
        except KeyboardInterrupt:
            logger.info("stopped")


def raise_open_files_limit() -> None:
    """Raise the limit of open files to what the system allows, also for workers started later.

    Each idle connection is an open file: at the usual 1024 a thousand of them stop a service from
    accepting.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS refuses its own "unlimited"
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


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
    from rossmann.serving.runtime.registry_view import require_startable
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
    """App factory of one worker of several; ends the process with 1 where it cannot start."""
    settings = load_settings()
    _configure_logs(settings)
    try:
        return build_app(settings)
    except RossmannError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(1) from None


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


def server_config(app: "FastAPI | str", settings: Settings) -> ServerConfig:
    """Uvicorn's configuration; ``app`` may name a factory that each worker calls."""
    is_single = settings.workers == 1
    config = ServerConfig(
        app,
        factory=isinstance(app, str),
        workers=settings.workers,
        loop="uvloop",
        http=BoundedRequestProtocol if is_single else FairAcceptProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        # Without trusted proxies a client could claim another address.
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        # Longer than clients keep idle connections: none is closed while a request arrives.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=20,
        # A worker that is busy or starting needs some seconds to answer the health check.
        timeout_worker_healthcheck=15,
    )
    config.request_seconds = settings.max_body_seconds
    return config


def _run_one(config: "uvicorn.Config", listener: socket.socket) -> None:
    import uvicorn

    server = uvicorn.Server(config)
    server.run(sockets=[listener])
    if not server.started:
        raise ServiceError("the service did not start: its log says why")


class _Workers(Multiprocess):
    """Supervisor of workers: one that ends is replaced, with a line in the log and a back-off.

    A worker is replaced at once; one that follows within a minute waits for the pause of uvicorn's
    next look at the workers, which is twice as long each time, up to a minute. While none has
    served yet, a worker that cannot start ends them all: the others could not either.
    """

    def __init__(self, config: ServerConfig, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self.failed = False
        self._has_served = False
        self._pause, self._next_look = _FIRST_PAUSE, 0.0

    def keep_subprocess_alive(self) -> None:
        now = time.monotonic()
        if now < self._next_look or self.should_exit.is_set():
            return
        before = list(self.processes)
        self._has_served = self._has_served or any(worker.is_ready(1) for worker in before)
        if not self._has_served and any(worker.exitcode for worker in before):
            self.should_exit.set()
        else:
            super().keep_subprocess_alive()
        self.failed = self.should_exit.is_set()
        replaced = [pair for pair in zip(before, self.processes, strict=True) if pair[0] != pair[1]]
        for old, new in replaced:
            get_logger("server").warning(
                "a worker ended or did not answer: its requests are lost, a new one starts",
                pid=old.pid,
                exit_code=old.exitcode,
                new_pid=new.pid,
            )
        if replaced:
            self._next_look = now + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        elif now > self._next_look + _LONGEST_PAUSE:
            self._pause = _FIRST_PAUSE


def _run_many(settings: Settings, listener: socket.socket) -> None:
    config = server_config("rossmann.serving.server:worker_app", settings)
    with multiprocess_dir() as folder:
        os.environ[MULTIPROC_DIR_VARIABLE] = str(folder)  # workers inherit it
        workers = _Workers(config, [listener])
        workers.run()
    if workers.failed:
        raise ServiceError("a worker could not start: the lines above say why")
