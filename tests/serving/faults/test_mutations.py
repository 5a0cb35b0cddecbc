"""Mutated tables and bodies, read in a process with a limit of memory: no crash, and no surprise.

Some seconds in each run; by night ``ROSSMANN_FUZZ_SECONDS`` (1,800) with cases that are new each
time: ``pytest -m nightly -s tests/serving/faults/test_mutations.py``. ``ROSSMANN_FUZZ_SEED`` is the
number of the first case, to try the cases of an earlier run again.
"""

import json
import math
import os
import random
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from rossmann.settings import Settings
from tests.fixtures.mutations import MAX_SECONDS, Outcome, make_case
from tests.paths import ROOT

SECONDS: Final = float(os.environ.get("ROSSMANN_FUZZ_SECONDS", "1800"))
MAX_MB: Final = 512.0
"""That a case may take, of some 100 kB, in the process itself."""
REPORT_SECONDS: Final = 30.0


class Child:
    """The process that reads cases, started anew where it ended."""

    def __init__(self, folder: Path, data_folder: Path) -> None:
        self.log = folder / "child.log"
        self._output = self.log.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fixtures.mutations", str(folder), str(data_folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._output, cwd=ROOT,
        )  # fmt: skip

    def read(self, seed: int) -> Outcome | str:
        """The outcome of a case, or how the process failed."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"%d\n" % seed)
        process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(6 * MAX_SECONDS):
                return f"no answer within {6 * MAX_SECONDS:g} s"
        if line := process.stdout.readline():
            return Outcome(**json.loads(line))
        return f"it ended with code {process.wait()}:\n{self.log.read_text()[-3_000:]}"

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        self._output.close()


@contextmanager
def started(folder: Path, data_folder: Path) -> Iterator[Child]:
    child = Child(folder, data_folder)
    try:
        yield child
    finally:
        child.close()


def fault_of(outcome: Outcome | str) -> str:
    """What is wrong with how a case was read; empty if nothing is."""
    if isinstance(outcome, str):
        return outcome
    if outcome.seconds > MAX_SECONDS:
        return f"it took {outcome.seconds:.1f} s"
    if outcome.megabytes > MAX_MB:
        return f"it took {outcome.megabytes:.0f} MB"
    return ""


def run(
    first: int, seconds: float, tmp_path: Path, data_folder: Path, most: float = math.inf
) -> Counter[str]:
    """Read the cases from number ``first`` on for some time, or at most so many.

    Fails with the first bad one.
    """
    counts: Counter[str] = Counter()
    slowest = largest = 0.0
    start = reported = time.monotonic()
    with started(tmp_path, data_folder) as child:
        while (now := time.monotonic()) < start + seconds and counts.total() < most:
            seed = first + counts.total()
            outcome = child.read(seed)
            if fault := fault_of(outcome):
                case = make_case(seed)
                path = tmp_path / f"{case.file_format}-{seed}"
                path.write_bytes(case.content)
                pytest.fail(f"case {seed} ({case.file_format}, kept as {path}): {fault}")
            assert isinstance(outcome, Outcome)
            counts[outcome.error or "read"] += 1
            slowest, largest = max(slowest, outcome.seconds), max(largest, outcome.megabytes)
            if now > reported + REPORT_SECONDS:
                reported = now
                sys.stdout.write(
                    f"{now - start:.0f} s, to case {seed}: {dict(counts)}; at most"
                    f" {slowest:.1f} s, {largest:.0f} MB\n"
                )
                sys.stdout.flush()
    return counts


def test_mutated_inputs_are_read_or_refused(tmp_path: Path, chain_settings: Settings) -> None:
    counts = run(0, math.inf, tmp_path, chain_settings.data_dir, most=60)
    assert counts["read"] > 5 and counts.total() > counts["read"]


@pytest.mark.nightly
@pytest.mark.timeout(SECONDS + 600)
def test_new_mutations_are_read_or_refused(tmp_path: Path, chain_settings: Settings) -> None:
    first = int(os.environ.get("ROSSMANN_FUZZ_SEED") or random.SystemRandom().randrange(2**40))
    sys.stdout.write(f"\nfrom case {first}\n")
    run(first, SECONDS, tmp_path, chain_settings.data_dir)
