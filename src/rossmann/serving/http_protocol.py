"""HTTP protocol of the server: uvicorn's, with bounds of a request's head and of its time.

uvicorn bounds neither the length of URL and headers nor the time in which a request must come.
"""

import asyncio
import time
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rossmann.serving.batch_prediction.upload_limits import GRACE_SECONDS, MIN_BYTES_PER_SECOND

MAX_HEADER_BYTES: Final = 65_536
"""Length limit of a request's URL and headers."""
_DISCARD_PAUSE: Final = 0.01
"""Seconds between parts (64 KB) of a body that was answered already: fifty clients that sent 60 MB
each as fast as they could delayed other requests by a second."""
_ACCEPT_PAUSE: Final = 1e-4
"""Seconds in which another worker wakes up, on a busy machine too."""


def _plain_response(status: str, error_type: str, msg: str) -> bytes:
    body = (
        f'{{"detail":[{{"loc":["header"],"msg":"{msg}","type":"{error_type}"}}],"request_id":""}}'
    )
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return f"{head}{body}".encode()


_TOO_LONG: Final = _plain_response(
    "431 Request Header Fields Too Large",
    "too_many_bytes",
    "the headers of a request may hold at most 64 KB",
)
_TOO_LATE: Final = _plain_response(
    "408 Request Timeout", "refused", "the headers of the request did not come in time"
)


class ServerConfig(uvicorn.Config):
    """uvicorn's configuration, and the seconds in which a request must have come."""

    request_seconds: float = 120.0


class BoundedRequestProtocol(HttpToolsProtocol):
    """HTTP protocol that bounds the bytes of a request's head, and the time of the whole request.

    Headers, trailers or a URL of more than 64 KB are answered 431: the parser has no limit, and
    joins a long header again with each part that arrives, so that 40 MB took 1.8 s of processor
    time. A head that does not come within ``request_seconds`` is answered 408; a body that does
    not is marked as late in the request's state, for whoever reads it. The timer is started only
    for what does not come at once: one for each request would cost a hundredth of its time.

    A client that reads a response too slowly is disconnected, with what is left for it.
    """

    config: ServerConfig
    _unparsed = 0
    """Bytes since the last part of a body or the end of the headers."""
    _is_complete = True
    """Whether the last request that began was received to its end."""
    _deadline: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._end_deadline()
        self._end_stall()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse ``data``; refuse it where a head is not complete with it, but too long."""
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > MAX_HEADER_BYTES and not self.transport.is_closing():
            self._refuse(_TOO_LONG)
        elif not self._is_complete and self._deadline is None:
            self._start_deadline()

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._is_complete = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Start the request, unless its head is too long."""
        received, self._unparsed = self._unparsed, 0
        if self.transport.is_closing():
            return
        # The same read may hold much of the body too.
        if received > MAX_HEADER_BYTES:
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > MAX_HEADER_BYTES:
                self._refuse(_TOO_LONG)
                return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass a part of the body on."""
        self._unparsed = 0
        if self.transport.is_closing():
            return
        super().on_body(body)
        if self.cycle.response_complete:  # nobody reads the rest: it is thrown away, slowly
            self.flow.pause_reading()
            self.loop.call_later(_DISCARD_PAUSE, self._read_on)

    def _read_on(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def on_message_complete(self) -> None:
        """Tell the request that its body is complete."""
        self._unparsed = 0
        self._is_complete = True
        if self._deadline is not None:
            self._end_deadline()
        if not self.transport.is_closing():
            super().on_message_complete()

    def pause_writing(self) -> None:
        """Write no more until the client has read most of what it has."""
        left = self.transport.get_write_buffer_size()
        seconds = GRACE_SECONDS + left / MIN_BYTES_PER_SECOND
        self._stall = self.loop.call_later(seconds, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        """Write again."""
        self._end_stall()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that was idle, also where its client has not read everything."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def _end_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _start_deadline(self) -> None:
        self._deadline = self.loop.call_later(self.config.request_seconds, self._late)

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        from rossmann.serving.request_parsing.body import LATE_KEY

        self._deadline = None
        if self.transport.is_closing():
            return
        if self._answers():  # whoever reads the body gets an empty part of it now
            self.cycle.scope["state"][LATE_KEY] = self.config.request_seconds
            self.cycle.message_event.set()
        elif self._is_complete:  # nothing has come
            self.transport.close()
        else:
            self._refuse(_TOO_LATE)

    def _answers(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, response: bytes) -> None:
        # While another response is sent, the connection is closed without one.
        if not self._answers():
            self.transport.write(response)
        self.transport.close()


class FairAcceptProtocol(BoundedRequestProtocol):
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
