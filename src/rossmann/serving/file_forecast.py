"""The second reading of a file: parts to forecasts on all threads, and out in order."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rossmann.data.upload_parts import PART, Parts, arrow_of
from rossmann.data.upload_values import FIELDS
from rossmann.schema import STATE_HOLIDAYS, FloatArray, Objective, Rows
from rossmann.serving.file_check import Reading
from rossmann.serving.file_warnings import Doubts
from rossmann.serving.file_write import Writer
from rossmann.serving.forecaster import Band, Forecast, Forecaster

Note = Callable[[int, Rows, Forecast], None]
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
class Order:
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


def send_forecasts(
    parts: Parts,
    reading: Reading,
    doubts: Doubts,
    order: Order,
    open_writer: Callable[[pa.Schema], Writer],
    pool: Executor,
    ahead: int,
    note: Note,
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
                writer.add(waiting.popleft().result())
            waiting.append(pool.submit(work.make, start, part))
        assert writer is not None  # a file has rows: that was seen before
        while waiting:
            writer.add(waiting.popleft().result())
        writer.end()
    finally:
        for future in waiting:
            future.cancel()
        # What runs reads files that are closed after this.
        for future in waiting:
            if not future.cancelled():
                future.exception()


def _parts(parts: Parts, count: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Parts of at most ``PART`` rows with the place of their first, without what follows them."""
    done = 0
    for batch in parts.read():
        for begin in range(0, len(batch), PART):
            part = batch.slice(begin, min(PART, count - done))
            if len(part):
                yield done, part
            done += len(part)


@dataclass(frozen=True)
class _Work:
    """Makes the answers of parts."""

    reading: Reading
    doubts: Doubts
    order: Order
    schema: pa.Schema
    writer: Writer
    note: Note

    def make(self, start: int, part: pa.RecordBatch) -> Any:
        """A part with its forecasts, as the writer takes it."""
        order, count = self.order, len(part)
        rows = self.reading.rows(start, count)
        sales, bands = order.forecaster.score(rows, order.origin, order.levels, order.objective)
        columns = dict(zip(part.schema.names, part.columns, strict=True))
        if order.typed:
            columns |= _typed(rows, self.reading.columns)
        columns |= dict(zip(order.added, self._added(sales, bands, start), strict=True))
        arrays = [columns[field.name].cast(field.type) for field in self.schema]
        made = self.writer.made(pa.RecordBatch.from_arrays(arrays, schema=self.schema))
        self.note(start, rows, Forecast(sales, order.origin, bands, (), order.objective))
        return made

    def _added(self, sales: FloatArray, bands: tuple[Band, ...], start: int) -> list[pa.Array]:
        count = len(sales)
        bounds = [arrow_of(side) for band in bands for side in (band.lower, band.upper)]
        return [
            arrow_of(sales),
            *bounds,
            arrow_of(np.full(count, self.order.version, np.int32)),
            _days(np.full(count, self.order.origin, np.int32)),
            self.doubts.column(start, count),
        ]


def _typed(rows: Rows, columns: dict[str, str]) -> dict[str, pa.Array]:
    values = (
        arrow_of(rows.store),
        _days(rows.day),
        arrow_of(rows.open),
        arrow_of(rows.promo),
        arrow_of(STATE_HOLIDAYS).take(arrow_of(rows.state_holiday)),
        arrow_of(rows.school_holiday),
    )
    return {columns[name]: value for name, value in zip(FIELDS, values, strict=True)}


def _days(days: npt.NDArray[np.int32]) -> pa.Array:
    return arrow_of(days).cast(pa.date32())
