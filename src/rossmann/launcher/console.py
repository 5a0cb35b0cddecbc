"""Console output of a launch: a line for each step, with its time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.text import Text


class LaunchConsole:
    """Lines on stdout; plain text where that is no terminal.

    Nothing fails where the terminal was closed: the services must be ended all the same.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._started = time.monotonic()

    def print(self, text: str) -> None:
        """A plain line."""
        self._print(Text(text))

    def detail(self, text: str) -> None:
        """Progress inside a step."""
        self._print(Text(f"    {text}", style="dim"))

    def done(self, text: str, seconds: float) -> None:
        """A step is done; ``seconds``: how long it took."""
        self._print(Text.assemble(("  ✓", "green"), (f" {seconds:6.1f} s  ", "dim"), text))

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """A line when the step begins and one when it is done; none for a step that fails."""
        self._print(Text(f"  … {text}", style="dim"))
        started = time.monotonic()
        yield
        self.done(text, time.monotonic() - started)

    def _print(self, line: Text) -> None:
        with suppress(OSError):
            self._console.print(line)

    @property
    def seconds(self) -> float:
        """Seconds since the launch began."""
        return time.monotonic() - self._started
