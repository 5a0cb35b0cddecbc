"""CPU time of access control per request: key, token, rate limits, headers; the best of 20.

python benchmarks/access_control.py
"""

import asyncio
import shutil
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from rossmann.serving.access import oidc_tokens
from rossmann.serving.access.access_control import AccessControl
from rossmann.serving.access.api_keys import Permission, generate_key
from rossmann.serving.error_handlers import handle_product_error
from rossmann.serving.middleware import SecurityHeadersMiddleware
from rossmann.serving.observability.access_log import REQUEST_RECORD_KEY, RequestRecord
from rossmann.settings import load_settings

Clock = Callable[[], float]
ROUNDS, CALLS = 20, 500
HIGH_LIMIT = "100000000/minute"


def make_scope(name: bytes = b"accept", value: bytes = b"*/*") -> Scope:
    """A request with one additional header."""
    headers = [(b"host", b"127.0.0.1:8000"), (b"user-agent", b"x"), (b"content-length", b"200")]
    record = RequestRecord("id", "POST", "/predict")
    return {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "headers": [*headers, (name, value)],
        "client": ("127.0.0.1", 1),
        "state": {REQUEST_RECORD_KEY: record},
    }


async def measure(
    name: str, call: Callable[[], Awaitable[Any]], clock: Clock = time.process_time
) -> None:
    """Print the time of a call, the best of several rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = clock()
        for _ in range(CALLS):
            await call()
        best = min(best, (clock() - start) / CALLS)
    print(f"{name:44} {best * 1e6:7.1f} µs")


async def measure_all(folder: Path) -> None:
    """Measure every case."""
    key, record = generate_key(Permission.PREDICT, "shop")
    with_key = make_scope(b"x-api-key", key.encode())
    cases: dict[str, tuple[dict[str, Any], Scope]] = {
        "open": ({}, make_scope()),
        "key": ({"api_keys": record.file_line}, with_key),
        "key, limit of calls": ({"api_keys": record.file_line, "rate_limit": HIGH_LIMIT}, with_key),
        "the same, shared by workers": (
            {"api_keys": record.file_line, "rate_limit": HIGH_LIMIT, "workers": 2},
            with_key,
        ),
        "the same, and a limit of rows": (
            {
                "api_keys": record.file_line,
                "rate_limit": HIGH_LIMIT,
                "rate_limit_rows": HIGH_LIMIT,
                "workers": 2,
            },
            with_key,
        ),
    }
    for name, (values, scope) in cases.items():
        access = AccessControl(
            load_settings(**{"data_dir": folder, "rate_limit_rows": "none", **values})
        )
        await measure(name, authorize(access, scope, rows=1))
        await access.close()
    await measure("token, cached", authorize(*with_token(folder)))
    access, scope = with_token(folder)
    verified = access._tokens._verified  # type: ignore[union-attr]

    async def verify_again() -> None:
        verified.clear()
        await access.authorize(Request(scope), Permission.PREDICT)

    await measure("token, not cached (RSA 2048)", verify_again)
    with run_redis(folder) as url:
        if url:
            values = {
                "api_keys": record.file_line,
                "rate_limit": HIGH_LIMIT,
                "rate_limit_store": url,
            }
            access = AccessControl(
                load_settings(**{"data_dir": folder, "rate_limit_rows": "none", **values})
            )
            await measure(
                "key, limit by Redis here (time, not CPU)",
                authorize(access, with_key),
                time.perf_counter,
            )
            await access.close()
    await measure_headers()


def authorize(access: AccessControl, scope: Scope, rows: int = 0) -> Callable[[], Awaitable[Any]]:
    """A call that authorizes the request, and counts its rows."""

    async def call() -> None:
        request = Request(scope)
        await access.authorize(request, Permission.PREDICT)
        if access.counts_rows:
            await access.reserve_rows(request, rows)
            scope["state"][REQUEST_RECORD_KEY].rows = rows
            await access.count_rows(scope)

    return call


def with_token(folder: Path) -> tuple[AccessControl, Scope]:
    """Access control with the keys of a token provider, and a request with a token."""
    secret = rsa.generate_private_key(65537, 2048)
    issuer = "http://127.0.0.1/realm"
    claims = {"iss": issuer, "aud": "us", "sub": "a", "scope": "predict", "exp": time.time() + 600}
    token = jwt.encode(claims, secret, "RS256", headers={"kid": "k"})
    jwk = jwt.algorithms.RSAAlgorithm.to_jwk(secret.public_key(), as_dict=True)
    keys = {"k": jwt.PyJWK({**jwk, "kid": "k"}, "RS256")}
    oidc_tokens.fetch_jwks = lambda issuer: keys
    settings = load_settings(
        data_dir=folder, oidc_issuer=issuer, oidc_audience="us", rate_limit_rows="none"
    )
    return AccessControl(settings), make_scope(b"authorization", f"Bearer {token}".encode())


@contextmanager
def run_redis(folder: Path) -> Iterator[str]:
    """URL of a Redis that runs during the block; empty where none is installed."""
    program = shutil.which("redis-server")
    if program is None:
        yield ""
        return
    socket = folder / "redis.sock"
    command = [program, "--port", "0", "--unixsocket", str(socket), "--save", ""]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    while not socket.exists():
        time.sleep(0.01)
    yield f"unix://{socket}"
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)


async def measure_headers() -> None:
    """Measure the middleware of the security headers."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Message) -> None:
        pass

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    access = AccessControl(load_settings())
    middleware, scope = SecurityHeadersMiddleware(app, access, handle_product_error), make_scope()
    await measure("(an empty response)", lambda: app(scope, receive, send))
    await measure("... with headers", lambda: middleware(scope, receive, send))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(measure_all(Path(name)))
