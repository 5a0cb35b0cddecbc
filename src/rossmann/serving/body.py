"""A request's body, taken in up to a length."""

from starlette.requests import Request

from rossmann.errors import Fault, TooLarge


async def read_body(request: Request, most: int) -> bytes:
    """The body; raises ``TooLarge`` as soon as it is known to be longer than ``most`` bytes."""
    told = request.headers.get("content-length", "0")
    if told.isdecimal() and (len(told) > 18 or int(told) > most):
        raise _too_long(most)
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise _too_long(most)
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_long(most: int) -> TooLarge:
    room = f"{most // 2**20} MB: send the rows in parts" if most >= 2**20 else f"{most:,} bytes"
    msg = f"a body may hold at most {room}"
    return TooLarge([Fault(("body",), msg, "too_many_bytes")])
