"""What a retraining writes down while it runs, so that a scheduler can read how it went.

The report is written anew, whole, after each step: a process that is killed leaves one that says
in which step. The next run, which knows that nobody else runs, marks it so.
"""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

from rossmann.errors import AnotherRuns
from rossmann.models.gate_table import Verdict

RUNNING: Final = "running"
DIED: Final = "died"
_STALE_SECONDS: Final = 60.0


class Outcome(IntEnum):
    """How a retraining ended; the value is the exit code."""

    STAGED = 0
    BROKEN = 1
    NOTHING_NEW = 10
    CANDIDATE_WORSE = 11
    ANOTHER_RUNS = AnotherRuns.exit_code

    @property
    def words(self) -> str:
        """As the report says it."""
        return self.name.lower().replace("_", " ")


class Journal:
    """The report of one run, kept in ``folder`` and, where one is named, in ``copy``."""

    def __init__(self, folder: Path, copy: Path | None, about: Mapping[str, Any]) -> None:
        now = datetime.now(UTC)
        self._paths = [folder / f"{now:%Y%m%dT%H%M%S.%f}-{os.getpid()}.json"]
        self._paths += [] if copy is None else [copy]
        self._begun = time.monotonic()
        self._steps: list[dict[str, Any]] = []
        self._said: dict[str, Any] = {
            "begun": now.isoformat(timespec="seconds"),
            "process": os.getpid(),
            "outcome": RUNNING,
            "exit_code": None,
            "error": None,
            "seconds": None,
            "data": None,
            "recipe": None,
            "version": None,
            "stage": None,
            "verdict": None,
            **about,
        }
        self._write()

    @property
    def path(self) -> Path:
        """Where the report is kept."""
        return self._paths[0]

    def note(self, **fields: Any) -> None:
        """Write down what is known now."""
        self._said.update(fields)
        self._write()

    def judged(self, verdict: Verdict) -> None:
        """Write down the gate's verdict."""
        lines = [asdict(line) for line in verdict.lines]
        told = {"passed": verdict.passed, "against": verdict.against, "lines": lines}
        self.note(verdict=told)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A step: its start, how long it took, and whether it was done."""
        begun = time.monotonic()
        step: dict[str, Any] = {
            "name": name,
            "begun": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": None,
            "outcome": RUNNING,
        }
        self._steps.append(step)
        self._write()
        done = False
        try:
            yield
            done = True
        finally:
            step["seconds"] = round(time.monotonic() - begun, 3)
            step["outcome"] = "done" if done else "failed"
            self._write()

    def end(self, exit_code: int, words: str, error: str | None = None) -> None:
        """Write down how it ended."""
        seconds = round(time.monotonic() - self._begun, 3)
        self.note(exit_code=exit_code, outcome=words, error=error, seconds=seconds)

    def _write(self) -> None:
        for path in self._paths:
            write_whole(path, {**self._said, "steps": self._steps})


def write_whole(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON beside the place and rename: who reads finds all of it or what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        draft.write_text(json.dumps(_plain(content), indent=1, allow_nan=False) + "\n", "utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def mark_dead(folder: Path, but: Path) -> None:
    """Mark the reports of runs that were killed; call it where no other run can be under way."""
    for draft in folder.glob(".*.draft"):
        if time.time() - draft.stat().st_mtime > _STALE_SECONDS:
            draft.unlink(missing_ok=True)
    for path in set(folder.glob("[!.]*.json")) - {but}:
        try:
            told = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(told, dict) and told.get("outcome") == RUNNING:
            for step in told.get("steps", []):
                step["outcome"] = DIED if step["outcome"] == RUNNING else step["outcome"]
            write_whole(path, {**told, "outcome": DIED})


def _plain(value: Any) -> Any:
    """Numbers that are none (NaN, infinity) as null: JSON knows none of them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
