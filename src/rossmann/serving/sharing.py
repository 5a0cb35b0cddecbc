"""How workers share the connections of one port."""

import time
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_PAUSE: Final = 1e-4
"""Seconds, in which another worker wakes up even on a busy machine; a hundredth of them did only
on an idle one."""


class SharingProtocol(HttpToolsProtocol):
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
