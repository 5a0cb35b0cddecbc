"""What goes wrong is said once, waited out with growing patience, and said again when it ends."""

import time
from typing import Final

from rossmann.logs import get_logger

FIRST_WAIT: Final = 0.25
LONGEST_WAIT: Final = 30.0


class Trouble:
    """The state of one thing that may fail: ``text`` is empty while it does not."""

    def __init__(self, what: str) -> None:
        self.text = ""
        self._what = what
        self._wait = 0.0
        self._next = 0.0

    @property
    def wait(self) -> float:
        """Seconds until it is worth another try."""
        return max(0.0, self._next - time.monotonic())

    def began(self, text: str) -> None:
        """It failed: log that, unless it fails the same way as before, and wait longer."""
        if text != self.text:
            get_logger("prediction_log").warning(self._what, reason=text)
        self.text = text
        self._wait = min(LONGEST_WAIT, self._wait * 2 or FIRST_WAIT)
        self._next = time.monotonic() + self._wait

    def ended(self) -> None:
        """It works."""
        if self.text:
            get_logger("prediction_log").info(f"{self._what}: over")
        self.text, self._wait, self._next = "", 0.0, 0.0
