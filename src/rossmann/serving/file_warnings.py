"""What rows of a file should be taken with care for: a column, and a sum in a header."""

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from rossmann.data.upload_parts import arrow_of
from rossmann.serving.doubts import FIRST, Touched, Warned
from rossmann.serving.file_check import Reading
from rossmann.serving.file_records import MISSING, Scratch, weekday_of
from rossmann.serving.forecaster import Forecaster

_PART: Final = 65_536


class Doubts:
    """The warnings of every row, on disk, and of them all."""

    def __init__(self, path: Path) -> None:
        self._marks = Scratch(path, np.dtype(np.uint8))
        self._kinds: dict[str, Warned] = {}

    def find(self, reading: Reading, forecaster: Forecaster, origin: int, pool: Executor) -> None:
        """Look at every row, in the threads of ``pool``."""
        starts = range(0, reading.count, _PART)

        def look(start: int) -> Touched:
            return _touched(reading, forecaster, origin, start)

        # What is told of stores names the longest wait of any of them.
        words = dict(_words(reading, forecaster, origin))
        for start, touched in zip(starts, pool.map(look, starts), strict=True):
            self._add(start, min(_PART, reading.count - start), touched, words)
        self._marks.done()

    def _add(self, start: int, length: int, touched: Touched, words: dict[str, str]) -> None:
        marks = np.zeros(length, np.uint8)
        for kind, text, which in touched:
            places = np.flatnonzero(which)
            before = self._kinds.get(kind)
            count = len(places) + (before.count if before else 0)
            first = (int(place) + start for place in places[:FIRST])
            rows = (*(before.rows if before else ()), *first)[:FIRST]
            self._kinds[kind] = Warned(kind, words.get(kind, text), count, rows)
            marks[which] |= 1 << list(self._kinds).index(kind)
        self._marks.add(marks)

    @property
    def found(self) -> tuple[Warned, ...]:
        """One of each kind, over the whole file."""
        return tuple(self._kinds.values())

    def column(self, start: int, count: int) -> pa.Array:
        """The kinds that touch each row, with blanks between, null where none does."""
        different, places = np.unique(self._marks.at(start, count), return_inverse=True)
        kinds = list(self._kinds)
        texts = [" ".join(k for bit, k in enumerate(kinds) if mark >> bit & 1) or None
                 for mark in different.tolist()]  # fmt: skip
        return pa.DictionaryArray.from_arrays(
            arrow_of(places), arrow_of(texts, pl.String)
        ).dictionary_decode()

    def close(self) -> None:
        """Let go of the file of marks."""
        self._marks.close()


def _words(reading: Reading, forecaster: Forecaster, origin: int) -> Iterator[tuple[str, str]]:
    """The texts for one row of each store."""
    stores = np.array(sorted(reading.stores), np.int32)
    first = reading.rows(0, 1).take(np.zeros(len(stores), np.int64))
    sample = replace(first, store=stores)
    for kind, text, which in forecaster.touched(sample, origin):
        if which.any():
            yield kind, text


def _touched(reading: Reading, forecaster: Forecaster, origin: int, start: int) -> Touched:
    count = min(_PART, reading.count - start)
    records = reading.records.at(start, count)
    rows = reading.rows(start, count)
    weekday = records["DayOfWeek"]
    off = (weekday != MISSING) & (weekday != weekday_of(rows.day))
    unsaid = records["Open"] == MISSING
    own: Touched = [
        ("day_of_week", "DayOfWeek contradicts Date: the Date decides", off),
        (
            "open_unsaid",
            "rows that do not say whether the store opens are taken as open, but for Sundays and"
            " state holidays",
            unsaid,
        ),
    ]
    return [*(one for one in own if one[2].any()), *forecaster.touched(rows, origin)]
