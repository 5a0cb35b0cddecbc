"""Workbooks and Parquet files, read in a child process with limits of memory and time.

These formats unpack to any size, and their libraries end the process when memory does. A child
reads one file at a time and writes its table as Parquet, which the caller reads in chunks.
"""

import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, Final

from rossmann.data.uploads.file_formats import FileFormat
from rossmann.data.uploads.workbook import SeveralSheetsError
from rossmann.errors import DataValidationError

_POLL_SECONDS: Final = 0.1
_CHILD: Final = "rossmann.data.uploads.sandbox_process"
_ENVIRONMENT: Final = {
    **dict.fromkeys(("POLARS_MAX_THREADS", "RAYON_NUM_THREADS"), "1"),
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MALLOC_ARENA_MAX"), "1"),
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
"""Each thread and its heap reserve address space, which the limit counts."""


@dataclass(frozen=True)
class ReadTask:
    """A file to read: its ``name`` for messages, and the paths of it and of the table to write.

    ``max_bytes``: size limit of the table. ``sheet``: of a workbook.
    """

    name: str
    file_format: FileFormat
    path: str
    target: str
    max_bytes: int
    sheet: str | None = None


@dataclass(frozen=True)
class ReadResult:
    """What a read found beside the rows; ``first_row``: the number of the first, from 1."""

    columns: list[str]
    notes: list[str]
    first_row: int


@dataclass(frozen=True)
class ReadLimits:
    """Address space of a child, in bytes, and seconds for one file."""

    memory_bytes: int = 1 << 30
    seconds: float = 60.0


DEFAULT_LIMITS: Final = ReadLimits()


class SandboxedReader:
    """Reads files in child processes, each a file at a time; for any number of threads.

    ``keep``: how many children wait for the next file; starting one takes most of a second.
    """

    def __init__(self, limits: ReadLimits = DEFAULT_LIMITS, keep: int = 0) -> None:
        self._limits, self._keep = limits, keep
        self._idle: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def warm_up(self) -> None:
        """Start the children that wait."""
        while len(self._idle) < self._keep:
            self._give_back(self._start())

    def read(self, task: ReadTask, check: Callable[[], None] = lambda: None) -> ReadResult:
        """Read a file; the table is at ``task.target`` afterwards.

        ``check`` is called ten times a second, and may raise to end the read. Raises
        ``DataValidationError`` for what is no table and for what needs more than the limits.
        """
        child = self._take()
        with ExitStack() as unless_kept:
            unless_kept.callback(_end, child)
            answer = self._ask(child, task, check)
            if not answer.pop("ends"):
                unless_kept.pop_all()
                self._give_back(child)
        if sheets := answer.get("sheets"):
            raise SeveralSheetsError(task.name, sheets)
        if error := answer.get("error"):
            raise DataValidationError(error)
        return ReadResult(**answer)

    def process_ids(self) -> list[int]:
        """Of the children that wait."""
        with self._lock:
            return [child.pid for child in self._idle]

    def close(self) -> None:
        """End the children that wait; those at work end after their file."""
        with self._lock:
            self._is_closed, children, self._idle = True, self._idle, []
        for child in children:
            _end(child)

    def _take(self) -> "subprocess.Popen[bytes]":
        with self._lock:
            while self._idle:
                child = self._idle.pop()
                if child.poll() is None:
                    return child
        return self._start()

    def _give_back(self, child: "subprocess.Popen[bytes]") -> None:
        with self._lock:
            if not self._is_closed and len(self._idle) < self._keep:
                self._idle.append(child)
                return
        _end(child)

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", _CHILD, str(self._limits.memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **_ENVIRONMENT},
        )

    def _ask(
        self, child: "subprocess.Popen[bytes]", task: ReadTask, check: Callable[[], None]
    ) -> dict[str, Any]:
        assert child.stdin is not None and child.stdout is not None
        deadline = time.monotonic() + self._limits.seconds
        try:
            child.stdin.write(json.dumps(asdict(task)).encode() + b"\n")
            child.stdin.flush()
        except BrokenPipeError:
            return self._died(child, task.name)
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while not selector.select(_POLL_SECONDS):
                check()
                if time.monotonic() > deadline:
                    raise DataValidationError(
                        f"{task.name} takes more than {self._limits.seconds:g} seconds to read:"
                        " send it as CSV, or in parts"
                    )
        line = child.stdout.readline()
        return json.loads(line) if line else self._died(child, task.name)

    def _died(self, child: "subprocess.Popen[bytes]", name: str) -> dict[str, Any]:
        child.wait()
        megabytes = self._limits.memory_bytes >> 20
        return {
            "ends": True,
            "error": f"{name} needs more than {megabytes:,} MB of memory to read, or is damaged:"
            " send it as CSV, or in parts",
        }


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()
