"""A request's body, taken in up to a length."""

from starlette.requests import ClientDisconnect, Request

from rossmann.errors import Fault, TooLarge


async def read_body(request: Request, most: int) -> bytes:
    """The body; raises ``TooLarge`` as soon as it is known to be longer than ``most`` bytes, and
    ``ClientDisconnect`` where the caller went away.
    """
    for name, told in request.scope["headers"]:
        if name == b"content-length" and told.isdigit() and (len(told) > 18 or int(told) > most):
            raise _too_long(most)
    parts: list[bytes] = []
    size, more = 0, True
    # ``request.stream`` gives the same through a generator: a twentieth of an answer's time.
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        size += len(part)
        if size > most:
            raise _too_long(most)
        parts.append(part)
        more = message.get("more_body", False)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_long(most: int) -> TooLarge:
    room = f"{most // 2**20} MB: send the rows in parts" if most >= 2**20 else f"{most:,} bytes"
    msg = f"a body may hold at most {room}"
    return TooLarge([Fault(("body",), msg, "too_many_bytes")])
