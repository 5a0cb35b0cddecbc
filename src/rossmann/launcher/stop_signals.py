"""Signals that stop a command: raised as an exception, deferred while a process is started."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal stops the command.

    Like ``KeyboardInterrupt``, no ``except Exception`` catches it; unlike it, it knows its signal.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)

    @property
    def exit_code(self) -> int:
        """As shells report it: 130 for Ctrl-C."""
        return 128 + self.number


class Interrupts:
    """Turns the signals into ``Interrupted`` while the block runs."""

    def __init__(self) -> None:
        self.received = 0
        self._deferrals = 0
        self._deferred = 0
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Interrupts":
        for number in _SIGNALS:
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.received += 1
        if not self._deferrals:
            raise Interrupted(number)
        self._deferred = number

    @contextmanager
    def deferred(self, *, discard: bool = False) -> Iterator[None]:
        """Signals wait until the block is done (``discard``: they only count)."""
        self._deferrals += 1
        try:
            yield
        finally:
            self._deferrals -= 1
            number, self._deferred = self._deferred, 0
            if number and not discard and not self._deferrals:
                raise Interrupted(number)
