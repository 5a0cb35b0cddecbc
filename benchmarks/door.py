"""What the door costs a request: key, token, limits, headers. CPU time on one core, the best of 20.

python benchmarks/door.py
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

from rossmann.serving.access import oidc_tokens as security_tokens
from rossmann.serving.access.access_control import AccessControl
from rossmann.serving.access.api_keys import Permission, generate_key
from rossmann.serving.middleware.security_headers import SecurityHeadersMiddleware
from rossmann.serving.observability.access_log import RequestRecord
from rossmann.settings import load_settings

ROUNDS, CALLS = 20, 500
MANY = "100000000/minute"


def scope_with(name: bytes = b"accept", value: bytes = b"*/*") -> Scope:
    """A request with one header more."""
    usual = [(b"host", b"127.0.0.1:8000"), (b"user-agent", b"x"), (b"content-length", b"200")]
    line = RequestRecord("id", "POST", "/predict")
    return {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "headers": [*usual, (name, value)],
        "client": ("127.0.0.1", 1),
        "state": {"line": line},
    }


async def measure(name: str, call: Callable[[], Awaitable[Any]], clock: Any) -> None:
    """Print the time of a call, the best of several rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        begun = clock()
        for _ in range(CALLS):
            await call()
        best = min(best, (clock() - begun) / CALLS)
    print(f"{name:44} {best * 1e6:7.1f} µs")


async def play(folder: Path) -> None:
    """Measure them all."""
    key, entry = generate_key(Permission.PREDICT, "shop")
    sent = scope_with(b"x-api-key", key.encode())
    cases = {
        "open": ({}, scope_with()),
        "key": ({"api_keys": entry.line}, sent),
        "key, limit of calls": ({"api_keys": entry.line, "rate_limit": MANY}, sent),
        "the same, shared by workers": (
            {"api_keys": entry.line, "rate_limit": MANY, "workers": 2},
            sent,
        ),
        "the same, and a limit of rows": (
            {"api_keys": entry.line, "rate_limit": MANY, "rate_limit_rows": MANY, "workers": 2},
            sent,
        ),
    }
    for name, (values, scope) in cases.items():
        guard = AccessControl.from_settings(load_settings(data_dir=folder, **values))
        await measure(name, admission(guard, scope), time.process_time)
        await guard.close()
    await measure("token, seen before", admission(*with_token(folder)), time.process_time)
    guard, scope = with_token(folder)
    judged = guard._tokens._judged  # type: ignore[union-attr]

    async def anew() -> None:
        judged.clear()
        await guard.authorize(Request(scope), Permission.PREDICT)

    await measure("token, seen for the first time (RSA 2048)", anew, time.process_time)
    with redis(folder) as url:
        if url:
            values = {"api_keys": entry.line, "rate_limit": MANY, "rate_limit_store": url}
            guard = AccessControl.from_settings(load_settings(data_dir=folder, **values))
            await measure("key, limit by Redis here (time, not CPU)", admission(guard, sent), clock)
            await guard.close()
    await headers()


clock = time.perf_counter


def admission(guard: AccessControl, scope: Scope) -> Callable[[], Awaitable[Any]]:
    """A call that lets the request in."""
    return lambda: guard.authorize(Request(scope), Permission.PREDICT)


def with_token(folder: Path) -> tuple[AccessControl, Scope]:
    """A door with a provider whose keys are at hand, and a request with its token."""
    secret = rsa.generate_private_key(65537, 2048)
    issuer = "http://127.0.0.1/realm"
    claims = {"iss": issuer, "aud": "us", "sub": "a", "scope": "predict", "exp": time.time() + 600}
    token = jwt.encode(claims, secret, "RS256", headers={"kid": "k"})
    listed = jwt.algorithms.RSAAlgorithm.to_jwk(secret.public_key(), as_dict=True)
    keys = {"k": jwt.PyJWK({**listed, "kid": "k"}, "RS256")}
    security_tokens.fetch_jwks = lambda _: keys
    settings = load_settings(data_dir=folder, oidc_issuer=issuer, oidc_audience="us")
    return AccessControl.from_settings(settings), scope_with(
        b"authorization", f"Bearer {token}".encode()
    )


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """The address of a Redis for a while; empty where none is installed."""
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


async def headers() -> None:
    """Measure what dresses an answer."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Message) -> None:
        pass

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    guard = AccessControl.from_settings(load_settings())
    dressed, scope = SecurityHeadersMiddleware(app, guard, tls_in_front=False), scope_with()
    await measure("(an answer of nothing)", lambda: app(scope, receive, send), time.process_time)
    await measure("... with headers", lambda: dressed(scope, receive, send), time.process_time)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(play(Path(name)))
