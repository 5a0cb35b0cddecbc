"""Records of answered requests, and batches of them: what one spool file holds.

A batch is two frames: one row for each request, one for each of its forecast rows. They are joined
by ``entry``, the number of the request within its process, from 1 on. A spool file holds both
frames as compressed Arrow IPC, with a checksum.

Also the protocol of the database that stores them; tests implement it with stores that fail. It
stands apart from ``sql_store``, whose import of SQLAlchemy takes a quarter of a second.
"""

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from rossmann.errors import DataError, ServiceError
from rossmann.models.inference.row_warnings import NO_TRAINING, TrainingSpan, is_in_training
from rossmann.schema import STATE_HOLIDAYS, FloatArray, Objective, StoreDays

Endpoint = Literal["predict", "file", "explain"]
LoggedRole = Literal["answer", "challenger", "shadow"]
"""Production's response; a challenger's response in its share; a forecast that is only logged."""
Bounds = tuple[tuple[float, FloatArray, FloatArray], ...]
IntArray = npt.NDArray[np.int64]

COLUMN_LEVELS: Final = ("80", "95")
"""Levels, in per cent, whose bounds have columns of their own; others are kept as JSON."""
BOUND_SIDES: Final = ("lower", "upper")
_TEXT_COLUMNS: Final = {
    "request_id": "request_id",
    "door": "endpoint",
    "role": "role",
    "caller": "caller",
    "model_stage": "model_stage",
    "objective": "objective",
}
"""Column -> field of ``LoggedPrediction``."""
_NUMBER_COLUMNS: Final = {"model_version": np.int32, "as_of": np.int32, "latency_seconds": np.float64}  # fmt: skip # noqa: E501
_MAX_TEXT_LENGTH: Final = 200
_MAGIC: Final = b"ROSSLOG1"
_HEADER: Final = struct.Struct("<8sQQI")


@dataclass(frozen=True, slots=True)
class LoggedPrediction:
    """A request, or a part of a large one, with n rows and their forecasts.

    ``answered_at``: in UTC. ``as_of``: days since 1970-01-01. ``sales``: shape (n,), in sales.
    ``bounds``: for each level its lower and upper bounds, each of shape (n,). ``first_row``: number
    of the first row in the request, where the request is logged in parts; ``row_numbers``: the
    number of each row (n,), where they are not consecutive. ``training``: the days that the version
    learned from. The arrays are not copied: they must not change afterwards.
    """

    request_id: str
    answered_at: datetime
    endpoint: Endpoint
    role: LoggedRole
    caller: str
    model_version: int
    model_stage: str
    as_of: int
    objective: Objective
    rows: StoreDays
    sales: FloatArray
    bounds: Bounds
    latency_seconds: float
    first_row: int = 0
    row_numbers: npt.NDArray[np.int64] | None = None
    training: TrainingSpan = NO_TRAINING


class CorruptBatchError(DataError):
    """A spool file that differs from what was written."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Logged requests of one process: ``requests`` has a row for each, ``rows`` for each row."""

    requests: pl.DataFrame
    rows: pl.DataFrame

    def __len__(self) -> int:
        return self.rows.height

    def encode(self) -> bytes:
        """The content of a spool file."""
        parts = [_to_ipc(self.requests), _to_ipc(self.rows)]
        checksum = zlib.crc32(parts[1], zlib.crc32(parts[0]))
        return b"".join((_HEADER.pack(_MAGIC, len(parts[0]), len(parts[1]), checksum), *parts))


def decode(content: bytes) -> Batch:
    """The batch of a spool file; raises ``CorruptBatchError``."""
    if len(content) < _HEADER.size:
        raise CorruptBatchError("it is cut off")
    magic, requests_size, rows_size, checksum = _HEADER.unpack_from(content)
    if magic != _MAGIC or len(content) != _HEADER.size + requests_size + rows_size:
        raise CorruptBatchError("it is no batch, or cut off")
    body = memoryview(content)[_HEADER.size :]
    if zlib.crc32(body) != checksum:
        raise CorruptBatchError("its checksum differs")
    requests, rows = (
        pl.read_ipc(bytes(part)) for part in (body[:requests_size], body[requests_size:])
    )
    if "in_training" not in rows.columns:  # a release that did not note it wrote the file
        rows = rows.with_columns(pl.lit(None, pl.Int16).alias("in_training"))
    return Batch(requests, rows)


def concat(batches: Sequence[Batch]) -> Batch:
    """Several batches as one, in their order."""
    # By name: a file of another release may have its columns in another order.
    rows = pl.concat([b.rows for b in batches], how="diagonal")
    return Batch(pl.concat([b.requests for b in batches]), rows)


@dataclass(frozen=True, slots=True)
class BatchColumns:
    """Logged requests as plain columns, made without polars: its threads would delay responses.

    ``bounds_json``: bounds without columns of their own as JSON, or the number of rows where there
    are none.
    """

    texts: dict[str, list[str]]
    requests: dict[str, npt.NDArray[Any]]
    rows: dict[str, npt.NDArray[Any]]
    bounds_json: pl.Series | int


def to_columns(
    entries: Sequence[LoggedPrediction], first_number: int, pause: Callable[[], None] = lambda: None
) -> BatchColumns:
    """Turn entries to columns; the first gets ``first_number``.

    ``pause`` is called after each column: one takes some .1 ms for a thousand entries, all of
    them as long as five responses.
    """
    counts = np.array([len(entry.rows) for entry in entries], dtype=np.int64)
    numbers = np.arange(first_number, first_number + len(entries), dtype=np.int64)
    rows = _row_columns(entries, counts, pause)
    rows["entry"] = np.repeat(numbers, counts)
    bounds, bounds_json = _bound_columns(entries, counts)
    pause()
    timestamps = np.array([entry.answered_at.timestamp() for entry in entries])
    requests = {"entry": numbers, "answered_at": timestamps, "rows": counts.astype(np.int32)}
    for name, dtype in _NUMBER_COLUMNS.items():
        requests[name] = np.array([getattr(entry, name) for entry in entries], dtype=dtype)
        pause()
    texts = {}
    for name, field in _TEXT_COLUMNS.items():
        texts[name] = [_to_plain_text(getattr(entry, field)) for entry in entries]
        pause()
    columns = BatchColumns(texts, requests, rows | bounds, bounds_json)
    if any(len(column) != len(rows["entry"]) for column in columns.rows.values()):
        raise DataError("an entry's columns are not of one length")
    return columns


def to_batch(parts: Sequence[BatchColumns]) -> Batch:
    """Concatenate columns to a batch."""
    texts = {
        name: pl.Series([text for part in parts for text in part.texts[name]], dtype=pl.String)
        for name in _TEXT_COLUMNS
    }
    numbers = {n: np.concatenate([part.requests[n] for part in parts]) for n in parts[0].requests}
    microseconds = pl.Series(np.rint(numbers.pop("answered_at") * 1e6).astype(np.int64))
    requests = {**texts, **{name: _to_series(values) for name, values in numbers.items()}}
    requests["answered_at"] = microseconds.cast(pl.Datetime("us", "UTC"))
    requests["as_of"] = requests["as_of"].cast(pl.Date)
    values = {n: np.concatenate([part.rows[n] for part in parts]) for n in parts[0].rows}
    rows = {name: _to_series(column) for name, column in values.items()}
    rows["date"] = rows["date"].cast(pl.Date)
    holidays = pl.Series(STATE_HOLIDAYS, dtype=pl.String)
    rows["state_holiday"] = holidays.gather(rows["state_holiday"])
    rows["bounds"] = pl.concat([_texts_or_nulls(part.bounds_json) for part in parts])
    return Batch(pl.DataFrame(requests), pl.DataFrame(rows))


def _to_series(values: npt.NDArray[Any]) -> pl.Series:
    """Null in place of NaN and infinity: a database may reject them."""
    if values.dtype == np.float64:
        values = np.where(np.isfinite(values), values, np.nan)
    return pl.Series(values, nan_to_null=True)


def _texts_or_nulls(texts: pl.Series | int) -> pl.Series:
    if isinstance(texts, int):
        return pl.Series([None], dtype=pl.String).new_from_index(0, texts)
    return texts


def _row_columns(
    entries: Sequence[LoggedPrediction], counts: IntArray, pause: Callable[[], None]
) -> dict[str, npt.NDArray[Any]]:
    def concatenate(name: str, dtype: type[np.generic]) -> npt.NDArray[Any]:
        pause()
        return np.concatenate([getattr(entry.rows, name) for entry in entries], dtype=dtype)

    day = concatenate("day", np.int32)
    origins = np.array([entry.as_of for entry in entries], dtype=np.int32)
    first_rows = np.array([entry.first_row for entry in entries], dtype=np.int64)
    offsets = np.cumsum(counts) - counts
    row_numbers = np.arange(len(day)) + np.repeat(first_rows - offsets, counts)
    for entry, start in zip(entries, offsets, strict=True):
        if entry.row_numbers is not None:
            row_numbers[start : start + len(entry.rows)] = entry.row_numbers
    is_open = concatenate("open", np.int16)
    spans = np.array([entry.training for entry in entries], dtype=np.int64)
    first, last = np.repeat(spans, counts, axis=0).T
    return {
        "row": row_numbers.astype(np.int32),
        "store": concatenate("store", np.int32),
        "date": day,
        "open": is_open,
        "promo": concatenate("promo", np.int16),
        "state_holiday": concatenate("state_holiday", np.int64),
        "school_holiday": concatenate("school_holiday", np.int16),
        "horizon": day - np.repeat(origins, counts),
        "forecast": np.concatenate([entry.sales for entry in entries], dtype=np.float64),
        "in_training": is_in_training(day, is_open, first, last).astype(np.int16),
    }


def _bound_columns(
    entries: Sequence[LoggedPrediction], counts: IntArray
) -> tuple[dict[str, FloatArray], pl.Series | int]:
    """The columns of ``COLUMN_LEVELS``, and the bounds of all other levels as JSON.

    Entries with the same levels are converted in one go.
    """
    groups: dict[tuple[float, ...], list[int]] = {}
    for index, entry in enumerate(entries):
        groups.setdefault(tuple(bound[0] for bound in entry.bounds), []).append(index)
    total = int(counts.sum())
    columns = {
        f"{side}_{name}": np.full(total, np.nan) for name in COLUMN_LEVELS for side in BOUND_SIDES
    }
    json_parts: list[pl.Series | int] = []
    row_parts = []
    for levels, members in groups.items():
        in_group = np.zeros(len(entries), dtype=bool)
        in_group[members] = True
        rows = np.flatnonzero(np.repeat(in_group, counts))
        other_levels = {}
        for index, level in enumerate(levels):
            bounds = [
                np.concatenate([entries[m].bounds[index][side] for m in members], dtype=np.float64)
                for side in (1, 2)
            ]
            name = _column_level(level)
            if name is None:
                other_levels[level] = bounds
                continue
            for side, values in zip(BOUND_SIDES, bounds, strict=True):
                columns[f"{side}_{name}"][rows] = values
        json_parts.append(_to_json(other_levels) if other_levels else len(rows))
        row_parts.append(rows)
    if all(isinstance(part, int) for part in json_parts):
        return columns, total
    order = np.argsort(np.concatenate(row_parts))
    return columns, pl.concat([_texts_or_nulls(part) for part in json_parts]).gather(order)


def _to_json(bounds: dict[float, list[FloatArray]]) -> pl.Series:
    """``{"0.9": [lower, upper]}`` for each row."""
    frame = pl.DataFrame(
        {
            f"{side}_{level}": _to_series(values)
            for level, both in bounds.items()
            for side, values in zip(BOUND_SIDES, both, strict=True)
        }
    )
    items = []
    for level in bounds:
        both = [pl.col(f"{side}_{level}").cast(pl.String).fill_null("null") for side in BOUND_SIDES]
        items.append(pl.format(f'"{float(level)!r}": [{{}}, {{}}]', *both))
    whole = pl.concat_str(pl.lit("{"), pl.concat_str(items, separator=", "), pl.lit("}"))
    return frame.select(whole).to_series()


def _column_level(level: float) -> str | None:
    return next((name for name in COLUMN_LEVELS if abs(level - int(name) / 100) < 1e-9), None)


def _to_plain_text(text: str) -> str:
    """Truncated, without control characters and lone surrogates, which a database may reject."""
    text = text[:_MAX_TEXT_LENGTH]
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "?" for char in text)


def _to_ipc(frame: pl.DataFrame) -> bytes:
    file = io.BytesIO()
    frame.write_ipc(file, compression="zstd")
    return file.getvalue()


class RejectedRowsError(ServiceError):
    """The database works, but rejects these rows."""


class LogStore(Protocol):
    """Stores batches permanently."""

    def write(self, writer: str, batches: Sequence[tuple[int, Batch]]) -> None:
        """Write the (number, batch) pairs that are not stored yet, all or none; numbers rise.

        Raises ``ServiceError``, or ``RejectedRowsError`` where the rows themselves are invalid.
        """

    def claim_pruning(self, today: date) -> bool:
        """True for one caller a day: it is the one that prunes."""

    def prune(self, before: datetime, max_rows: int) -> int:
        """Delete some rows answered before then; returns how many, 0 where none is left."""

    def close(self) -> None:
        """Close the connections."""


StoreFactory = Callable[[str], LogStore]
