"""Second pass over an uploaded file: forecast chunks on all threads, write them in order."""

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
from rossmann.data.uploads.parquet_chunks import CHUNK_ROWS, to_arrow
from rossmann.data.uploads.result_files import Writer, result_columns, warning_texts
from rossmann.epoch_days import weekday_of
from rossmann.models.inference.forecaster import Forecast, Forecaster, ForecastRequest, RowForecasts
from rossmann.models.inference.row_warnings import (
    MAX_EXAMPLE_ROWS,
    RowWarning,
    WarningMasks,
    input_warnings,
)
from rossmann.schema import STATE_HOLIDAYS, Objective, StoreDays
from rossmann.serving.batch_prediction.row_records import MISSING, ArrayFile
from rossmann.serving.batch_prediction.validation import ParsedFile

_SCAN_ROWS: Final = 65_536
RecordChunk = Callable[[int, StoreDays, Forecast], None]
"""Records a chunk: the number of its first row, its rows and their forecast."""
_FIELD_TYPES: Final = {
    "Store": pa.int32(),
    "Date": pa.date32(),
    "Open": pa.int8(),
    "Promo": pa.int8(),
    "StateHoliday": pa.string(),
    "SchoolHoliday": pa.int8(),
}


class FileWarnings:
    """The warnings of a file: flags of each row on disk, and one summary for each type."""

    def __init__(self, path: Path) -> None:
        self._flags = ArrayFile(path, np.dtype(np.uint8))
        self._warnings: dict[str, RowWarning] = {}

    def scan(self, parsed: ParsedFile, forecaster: Forecaster, origin: int, pool: Executor) -> None:
        """Find the warnings of all rows, in the threads of ``pool``."""
        starts = range(0, parsed.count, _SCAN_ROWS)

        def find(start: int) -> WarningMasks:
            return _warning_masks(parsed, forecaster, origin, start)

        # The text about idle stores names the longest time of any store of the file.
        texts = dict(_store_texts(parsed, forecaster, origin))
        for start, masks in zip(starts, pool.map(find, starts), strict=True):
            self._add(start, min(_SCAN_ROWS, parsed.count - start), masks, texts)
        self._flags.flush()

    def _add(self, start: int, length: int, masks: WarningMasks, texts: dict[str, str]) -> None:
        flags = np.zeros(length, np.uint8)
        for name, text, mask in masks:
            indices = np.flatnonzero(mask)
            previous = self._warnings.get(name)
            count = len(indices) + (previous.count if previous else 0)
            first = (int(index) + start for index in indices[:MAX_EXAMPLE_ROWS])
            rows = (*(previous.rows if previous else ()), *first)[:MAX_EXAMPLE_ROWS]
            self._warnings[name] = RowWarning(name, texts.get(name, text), count, rows)
            flags[mask] |= 1 << list(self._warnings).index(name)
        self._flags.append(flags)

    @property
    def summary(self) -> tuple[RowWarning, ...]:
        """One warning of each type, over the whole file."""
        return tuple(self._warnings.values())

    def column(self, start: int, count: int) -> pa.Array:
        """The column ``warnings`` of ``count`` rows from ``start`` on."""
        texts, index = warning_texts(list(self._warnings), self._flags.read(start, count))
        return pa.DictionaryArray.from_arrays(
            to_arrow(index), to_arrow(texts, pl.String)
        ).dictionary_decode()

    def close(self) -> None:
        """Close the file of flags."""
        self._flags.close()


def _store_texts(
    parsed: ParsedFile, forecaster: Forecaster, origin: int
) -> Iterator[tuple[str, str]]:
    """Type and text of the warnings of one row for each store."""
    stores = np.array(sorted(parsed.stores), np.int32)
    first = parsed.rows(0, 1).take(np.zeros(len(stores), np.int64))
    sample = replace(first, store=stores)
    for name, text, mask in forecaster.warning_masks(sample, origin):
        if mask.any():
            yield name, text


def _warning_masks(
    parsed: ParsedFile, forecaster: Forecaster, origin: int, start: int
) -> WarningMasks:
    count = min(_SCAN_ROWS, parsed.count - start)
    records = parsed.records.read(start, count)
    rows = parsed.rows(start, count)
    weekday = records["DayOfWeek"]
    mismatch = (weekday != MISSING) & (weekday != weekday_of(rows.day) + 1)
    return [
        *input_warnings(mismatch, records["Open"] == MISSING),
        *forecaster.warning_masks(rows, origin),
    ]


@dataclass(frozen=True)
class ChunkPlan:
    """How every row of a file is forecast and written.

    ``names``: the names under which the file's own columns come back. ``typed``: the six fields
    are written as numbers and days rather than as the file has them.
    """

    forecaster: Forecaster
    version: int
    origin: int
    levels: tuple[float, ...]
    quantiles: tuple[float, ...]
    objective: Objective
    names: tuple[str, ...]
    typed: bool

    def schema(self, table: pa.Schema, columns: dict[str, int]) -> pa.Schema:
        """The result's columns: the file's, then ours; ``columns``: the index of each field."""
        field = {index: name for name, index in columns.items()} if self.typed else {}
        kept = [
            pa.field(name, _FIELD_TYPES.get(field.get(index, ""), table.field(index).type))
            for index, name in enumerate(self.names)
        ]
        added = result_columns(self.levels, self.quantiles)
        types = [pa.float64()] * (len(added) - 3) + [pa.int32(), pa.date32(), pa.string()]
        return pa.schema([*kept, *(pa.field(*pair) for pair in zip(added, types, strict=True))])


@dataclass(frozen=True)
class CheckedFile:
    """An uploaded file that passed validation, with its warnings and the plan for its rows."""

    parsed: ParsedFile
    warnings: FileWarnings
    plan: ChunkPlan

    def close(self) -> None:
        """Close its files."""
        self.parsed.close()
        self.warnings.close()


@dataclass(frozen=True)
class Workers:
    """Threads that forecast chunks; ``max_pending``: chunks in progress at once."""

    pool: Executor
    max_pending: int


def stream_forecasts(
    checked: CheckedFile,
    open_writer: Callable[[pa.Schema], Writer],
    workers: Workers,
    record: RecordChunk,
) -> None:
    """Write the file with its forecasts.

    Chunks are forecast in the threads of ``workers``, and written in this one.
    """
    pending: deque[Future[Any]] = deque()
    writer: Writer | None = None
    try:
        for start, chunk in _chunks(checked.parsed):
            if writer is None:
                schema = checked.plan.schema(chunk.schema, checked.parsed.columns.index)
                writer = open_writer(schema)
                forecaster = _ChunkForecaster(checked, schema, writer, record)
            if len(pending) >= workers.max_pending:
                writer.write(pending.popleft().result())
            pending.append(workers.pool.submit(forecaster.forecast, start, chunk))
        assert writer is not None  # validation refuses a file without rows
        while pending:
            writer.write(pending.popleft().result())
        writer.close()
    finally:
        for future in pending:
            future.cancel()
        # Running chunks read files that are closed after this.
        for future in pending:
            if not future.cancelled():
                future.exception()


def _chunks(parsed: ParsedFile) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Chunks of the rows, each with the number of its first row."""
    count, done = parsed.count, 0
    for batch in parsed.table.read():
        for begin in range(0, len(batch), CHUNK_ROWS):
            chunk = batch.slice(begin, min(CHUNK_ROWS, count - done))
            if len(chunk):
                yield done, chunk
            done += len(chunk)


@dataclass(frozen=True)
class _ChunkForecaster:
    """Forecasts chunks of a file and encodes them for its writer; safe to share by threads."""

    checked: CheckedFile
    schema: pa.Schema
    writer: Writer
    record: RecordChunk

    def forecast(self, start: int, chunk: pa.RecordBatch) -> Any:
        plan, parsed = self.checked.plan, self.checked.parsed
        rows = parsed.rows(start, len(chunk))
        request = ForecastRequest(rows, plan.origin, plan.levels, plan.objective, plan.quantiles)
        predicted = plan.forecaster.predict_rows(request, plan.origin)
        columns = list(chunk.columns)
        if plan.typed:
            for name, values in _typed_fields(rows).items():
                columns[parsed.columns.index[name]] = values
        columns += self._results(predicted, start)
        arrays = [c.cast(f.type) for c, f in zip(columns, self.schema, strict=True)]
        encoded = self.writer.encode(pa.RecordBatch.from_arrays(arrays, schema=self.schema))
        forecast = Forecast(predicted.sales, plan.origin, predicted.intervals, (), plan.objective)
        self.record(start, rows, forecast)
        return encoded

    def _results(self, predicted: RowForecasts, start: int) -> list[pa.Array]:
        plan, count = self.checked.plan, len(predicted.sales)
        bounds = [to_arrow(side) for i in predicted.intervals for side in (i.lower, i.upper)]
        return [
            to_arrow(predicted.sales),
            *bounds,
            *(to_arrow(quantile.sales) for quantile in predicted.quantiles),
            to_arrow(np.full(count, plan.version, np.int32)),
            _dates(np.full(count, plan.origin, np.int32)),
            self.checked.warnings.column(start, count),
        ]


def _typed_fields(rows: StoreDays) -> dict[str, pa.Array]:
    """The six fields of n rows as numbers and days, (n,) each."""
    values = (
        to_arrow(rows.store),
        _dates(rows.day),
        to_arrow(rows.open),
        to_arrow(rows.promo),
        to_arrow(STATE_HOLIDAYS).take(to_arrow(rows.state_holiday)),
        to_arrow(rows.school_holiday),
    )
    return dict(zip(REQUIRED_FIELDS, values, strict=True))


def _dates(days: npt.NDArray[np.int32]) -> pa.Array:
    return to_arrow(days).cast(pa.date32())
