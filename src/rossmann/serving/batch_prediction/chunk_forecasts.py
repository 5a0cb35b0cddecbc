"""The second reading of a file: parts to forecasts on all threads, and out in order.

MERGED: What rows of a file should be taken with care for: a column, and a sum in a header.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from rossmann.data.uploads.fields import REQUIRED_FIELDS
from rossmann.data.uploads.table_chunks import CHUNK_ROWS, TableChunks, to_arrow
from rossmann.models.inference.forecaster import Forecast, Forecaster, Interval
from rossmann.models.inference.row_warnings import MAX_EXAMPLE_ROWS, RowWarning, WarningMasks
from rossmann.schema import STATE_HOLIDAYS, FloatArray, Objective, StoreDays
from rossmann.serving.batch_prediction.row_records import MISSING, ArrayFile, weekday_of
from rossmann.serving.batch_prediction.validation import ParsedFile
from rossmann.serving.batch_prediction.writers import Writer

_PART: Final = 65_536


class FileWarnings:
    """The warnings of every row, on disk, and of them all."""

    def __init__(self, path: Path) -> None:
        self._marks = ArrayFile(path, np.dtype(np.uint8))
        self._kinds: dict[str, RowWarning] = {}

    def scan(
        self, reading: ParsedFile, forecaster: Forecaster, origin: int, pool: Executor
    ) -> None:
        """Look at every row, in the threads of ``pool``."""
        starts = range(0, reading.count, _PART)

        def look(start: int) -> WarningMasks:
            return _touched(reading, forecaster, origin, start)

        # What is told of stores names the longest wait of any of them.
        words = dict(_words(reading, forecaster, origin))
        for start, touched in zip(starts, pool.map(look, starts), strict=True):
            self._add(start, min(_PART, reading.count - start), touched, words)
        self._marks.done()

    def _add(self, start: int, length: int, touched: WarningMasks, words: dict[str, str]) -> None:
        marks = np.zeros(length, np.uint8)
        for kind, text, which in touched:
            places = np.flatnonzero(which)
            before = self._kinds.get(kind)
            count = len(places) + (before.count if before else 0)
            first = (int(place) + start for place in places[:MAX_EXAMPLE_ROWS])
            rows = (*(before.rows if before else ()), *first)[:MAX_EXAMPLE_ROWS]
            self._kinds[kind] = RowWarning(kind, words.get(kind, text), count, rows)
            marks[which] |= 1 << list(self._kinds).index(kind)
        self._marks.add(marks)

    @property
    def summary(self) -> tuple[RowWarning, ...]:
        """One of each kind, over the whole file."""
        return tuple(self._kinds.values())

    def column(self, start: int, count: int) -> pa.Array:
        """The kinds that touch each row, with blanks between, null where none does."""
        different, places = np.unique(self._marks.at(start, count), return_inverse=True)
        kinds = list(self._kinds)
        texts = [" ".join(k for bit, k in enumerate(kinds) if mark >> bit & 1) or None
                 for mark in different.tolist()]  # fmt: skip
        return pa.DictionaryArray.from_arrays(
            to_arrow(places), to_arrow(texts, pl.String)
        ).dictionary_decode()

    def close(self) -> None:
        """Let go of the file of marks."""
        self._marks.close()


def _words(reading: ParsedFile, forecaster: Forecaster, origin: int) -> Iterator[tuple[str, str]]:
    """The texts for one row of each store."""
    stores = np.array(sorted(reading.stores), np.int32)
    first = reading.rows(0, 1).take(np.zeros(len(stores), np.int64))
    sample = replace(first, store=stores)
    for kind, text, which in forecaster.warning_masks(sample, origin):
        if which.any():
            yield kind, text


def _touched(reading: ParsedFile, forecaster: Forecaster, origin: int, start: int) -> WarningMasks:
    count = min(_PART, reading.count - start)
    records = reading.records.at(start, count)
    rows = reading.rows(start, count)
    weekday = records["DayOfWeek"]
    off = (weekday != MISSING) & (weekday != weekday_of(rows.day))
    unsaid = records["Open"] == MISSING
    own: WarningMasks = [
        ("day_of_week", "DayOfWeek contradicts Date: the Date decides", off),
        (
            "open_unsaid",
            "rows that do not say whether the store opens are taken as open, but for Sundays and"
            " state holidays",
            unsaid,
        ),
    ]
    return [*(one for one in own if one[2].any()), *forecaster.warning_masks(rows, origin)]


RecordChunk = Callable[[int, StoreDays, Forecast], None]
"""Takes what was answered from a row on."""
_TYPES: Final = {
    "Store": pa.int32(),
    "Date": pa.date32(),
    "Open": pa.int8(),
    "Promo": pa.int8(),
    "StateHoliday": pa.string(),
    "SchoolHoliday": pa.int8(),
}


@dataclass(frozen=True)
class ChunkPlan:
    """What every row of a file is answered with.

    ``typed``: the six fields are written as numbers and days rather than as the file has them.
    """

    forecaster: Forecaster
    version: int
    origin: int
    levels: tuple[float, ...]
    objective: Objective
    typed: bool

    def schema(self, part: pa.Schema, columns: dict[str, str]) -> pa.Schema:
        """The answer's columns: the file's, then ours; one of the same name is ours."""
        field = {column: name for name, column in columns.items()} if self.typed else {}
        kept = [
            pa.field(f.name, _TYPES[field[f.name]] if f.name in field else f.type)
            for f in part
            if f.name not in set(self.added)
        ]
        kinds = [pa.float64()] * (len(self.added) - 3) + [pa.int32(), pa.date32(), pa.string()]
        added = [pa.field(*one) for one in zip(self.added, kinds, strict=True)]
        return pa.schema([*kept, *added])

    @property
    def added(self) -> list[str]:
        """The columns that are added."""
        bounds = [f"{side}_{level * 100:g}" for level in self.levels for side in ("lower", "upper")]
        return ["forecast", *bounds, "model_version", "as_of", "warnings"]


def stream_forecasts(
    parts: TableChunks,
    reading: ParsedFile,
    doubts: FileWarnings,
    order: ChunkPlan,
    open_writer: Callable[[pa.Schema], Writer],
    pool: Executor,
    ahead: int,
    note: RecordChunk,
) -> None:
    """Write the file with its forecasts; ``ahead``: parts in the making at once.

    Parts are made in the threads of ``pool``, each on one of them, and written in this one.
    """
    waiting: deque[Future[Any]] = deque()
    writer: Writer | None = None
    try:
        for start, part in _parts(parts, reading.count):
            if writer is None:
                schema = order.schema(part.schema, reading.columns)
                writer = open_writer(schema)
                work = _Work(reading, doubts, order, schema, writer, note)
            if len(waiting) >= ahead:
                writer.write(waiting.popleft().result())
            waiting.append(pool.submit(work.make, start, part))
        assert writer is not None  # a file has rows: that was seen before
        while waiting:
            writer.write(waiting.popleft().result())
        writer.close()
    finally:
        for future in waiting:
            future.cancel()
        # What runs reads files that are closed after this.
        for future in waiting:
            if not future.cancelled():
                future.exception()


def _parts(parts: TableChunks, count: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Parts of at most ``PART`` rows with the place of their first, without what follows them."""
    done = 0
    for batch in parts.read():
        for begin in range(0, len(batch), CHUNK_ROWS):
            part = batch.slice(begin, min(CHUNK_ROWS, count - done))
            if len(part):
                yield done, part
            done += len(part)


@dataclass(frozen=True)
class _Work:
    """Makes the answers of parts."""

    reading: ParsedFile
    doubts: FileWarnings
    order: ChunkPlan
    schema: pa.Schema
    writer: Writer
    note: RecordChunk

    def make(self, start: int, part: pa.RecordBatch) -> Any:
        """A part with its forecasts, as the writer takes it."""
        order, count = self.order, len(part)
        rows = self.reading.rows(start, count)
        sales, bands = order.forecaster.predict_rows(
            rows, order.origin, order.levels, order.objective
        )
        columns = dict(zip(part.schema.names, part.columns, strict=True))
        if order.typed:
            columns |= _typed(rows, self.reading.columns)
        columns |= dict(zip(order.added, self._added(sales, bands, start), strict=True))
        arrays = [columns[field.name].cast(field.type) for field in self.schema]
        made = self.writer.encode(pa.RecordBatch.from_arrays(arrays, schema=self.schema))
        self.note(start, rows, Forecast(sales, order.origin, bands, (), order.objective))
        return made

    def _added(self, sales: FloatArray, bands: tuple[Interval, ...], start: int) -> list[pa.Array]:
        count = len(sales)
        bounds = [to_arrow(side) for band in bands for side in (band.lower, band.upper)]
        return [
            to_arrow(sales),
            *bounds,
            to_arrow(np.full(count, self.order.version, np.int32)),
            _days(np.full(count, self.order.origin, np.int32)),
            self.doubts.column(start, count),
        ]


def _typed(rows: StoreDays, columns: dict[str, str]) -> dict[str, pa.Array]:
    values = (
        to_arrow(rows.store),
        _days(rows.day),
        to_arrow(rows.open),
        to_arrow(rows.promo),
        to_arrow(STATE_HOLIDAYS).take(to_arrow(rows.state_holiday)),
        to_arrow(rows.school_holiday),
    )
    return {columns[name]: value for name, value in zip(REQUIRED_FIELDS, values, strict=True)}


def _days(days: npt.NDArray[np.int32]) -> pa.Array:
    return to_arrow(days).cast(pa.date32())
