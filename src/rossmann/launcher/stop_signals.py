"""Signals that ask the launcher to stop, held back while a process is being started."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

_ASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asked the launcher to stop.

    Like ``KeyboardInterrupt``, nothing may catch it in passing; unlike it, it knows its signal.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)

    @property
    def exit_code(self) -> int:
        """As shells tell it: 130 for Ctrl-C."""
        return 128 + self.number


class Interrupts:
    """Turns the signals into ``Interrupted`` while the block runs."""

    def __init__(self) -> None:
        self.received = 0
        self._holds = 0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Interrupts":
        for number in _ASKED:
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.received += 1
        if not self._holds:
            raise Interrupted(number)
        self._late = number

    _late = 0

    @contextmanager
    def held(self, *, forget: bool = False) -> Iterator[None]:
        """Signals wait until the block is done (``forget``: they only count)."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            late, self._late = self._late, 0
            if late and not forget and not self._holds:
                raise Interrupted(late)
