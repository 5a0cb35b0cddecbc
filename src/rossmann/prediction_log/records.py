"""Entries as columns: what is kept in one file of the spool and written in one go.

A batch is two frames: one line for each request, one for each of its rows. They are joined by
``entry``, which counts a process's entries from 1 on. A file holds both, with a checksum.

MERGED: One answered request, as it is handed to the prediction log.
"""

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from rossmann.errors import DataError
from rossmann.schema import STATE_HOLIDAYS, FloatArray, Objective, StoreDays

Endpoint = Literal["predict", "file", "explain"]
LoggedRole = Literal["answer", "challenger", "shadow"]
"""What the caller got; what a challenger answered in its share; what nobody but the log saw."""
Bounds = tuple[tuple[float, FloatArray, FloatArray], ...]


@dataclass(frozen=True, slots=True)
class LoggedPrediction:
    """A request, or a part of a large one, with n rows and their forecasts.

    ``answered_at``: in UTC. ``as_of``: days since 1970-01-01. ``sales``: shape (n,), in sales.
    ``bounds``: for each level its lower and upper bounds, each of shape (n,). ``first_row``: the
    place of the first row in the request, where the request is logged in parts; ``places``: the
    place of each row (n,), where they do not follow one another. The arrays are kept as they are
    until they are written: nobody may change them after.
    """

    request_id: str
    answered_at: datetime
    door: Endpoint
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
    places: npt.NDArray[np.int64] | None = None


COLUMN_WORDS: Final = ("80", "95")
"""Levels, in per cent, whose bounds have columns of their own; others are kept as JSON."""
SIDES: Final = ("lower", "upper")

IntArray = npt.NDArray[np.int64]
_TEXTS: Final = ("request_id", "door", "role", "caller", "model_stage", "objective")
_NUMBERS: Final = {"model_version": np.int32, "as_of": np.int32, "latency_seconds": np.float64}
_MAGIC: Final = b"ROSSLOG1"
_HEAD: Final = struct.Struct("<8sQQI")
_LONGEST: Final = 200


class CorruptBatchError(DataError):
    """A file of the spool that is not as it was written."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Some entries of one process: ``requests`` has a line for each, ``rows`` for each row."""

    requests: pl.DataFrame
    rows: pl.DataFrame

    def __len__(self) -> int:
        return self.rows.height

    def encode(self) -> bytes:
        """As the content of a file."""
        parts = [_to_ipc(self.requests), _to_ipc(self.rows)]
        sum_ = zlib.crc32(parts[1], zlib.crc32(parts[0]))
        return b"".join((_HEAD.pack(_MAGIC, len(parts[0]), len(parts[1]), sum_), *parts))


def decode(content: bytes) -> Batch:
    """The batch of a file; raises ``DamagedBatch``."""
    if len(content) < _HEAD.size:
        raise CorruptBatchError("it is cut off")
    magic, first, second, sum_ = _HEAD.unpack_from(content)
    if magic != _MAGIC or len(content) != _HEAD.size + first + second:
        raise CorruptBatchError("it is no batch, or cut off")
    body = memoryview(content)[_HEAD.size :]
    if zlib.crc32(body) != sum_:
        raise CorruptBatchError("its checksum differs")
    return Batch(pl.read_ipc(bytes(body[:first])), pl.read_ipc(bytes(body[first:])))


def concat(batches: Sequence[Batch]) -> Batch:
    """Several batches as one, in their order."""
    return Batch(pl.concat([b.requests for b in batches]), pl.concat([b.rows for b in batches]))


@dataclass(frozen=True, slots=True)
class BatchColumns:
    """Some entries as plain columns: made without the frames' engine, whose threads would take
    turns from those that answer. ``others``: bounds as JSON, or None for as many rows.
    """

    texts: dict[str, list[str]]
    requests: dict[str, npt.NDArray[Any]]
    rows: dict[str, npt.NDArray[Any]]
    others: pl.Series | int


def make_batch(entries: Sequence[LoggedPrediction], first_number: int) -> Batch:
    """Turn entries to a batch; the first gets ``first_number``."""
    return to_batch([to_columns(entries, first_number)])


def to_columns(
    entries: Sequence[LoggedPrediction], first_number: int, pause: Callable[[], None] = lambda: None
) -> BatchColumns:
    """Turn entries to columns; the first gets ``first_number``.

    ``pause`` is called after each column: one takes some .1 ms for a thousand entries, all of
    them as long as five answers.
    """
    counts = np.array([len(entry.rows) for entry in entries], dtype=np.int64)
    numbers = np.arange(first_number, first_number + len(entries), dtype=np.int64)
    rows = _rows(entries, counts, pause)
    rows["entry"] = np.repeat(numbers, counts)
    limits, others = _bounds(entries, counts)
    pause()
    moments = np.array([entry.answered_at.timestamp() for entry in entries])
    requests = {"entry": numbers, "answered_at": moments, "rows": counts.astype(np.int32)}
    for name, kind in _NUMBERS.items():
        requests[name] = np.array([getattr(entry, name) for entry in entries], dtype=kind)
        pause()
    texts = {}
    for name in _TEXTS:
        texts[name] = [_plain(getattr(entry, name)) for entry in entries]
        pause()
    made = BatchColumns(texts, requests, rows | limits, others)
    if any(len(column) != len(rows["entry"]) for column in made.rows.values()):
        raise DataError("an entry's columns are not of one length")
    return made


def to_batch(parts: Sequence[BatchColumns]) -> Batch:
    """Columns, one after the other, as a batch."""
    texts = {
        name: pl.Series([text for part in parts for text in part.texts[name]], dtype=pl.String)
        for name in _TEXTS
    }
    asked = {n: np.concatenate([part.requests[n] for part in parts]) for n in parts[0].requests}
    moments = pl.Series(np.rint(asked.pop("answered_at") * 1e6).astype(np.int64))
    requests = {**texts, **{name: _series(values) for name, values in asked.items()}}
    requests["answered_at"] = moments.cast(pl.Datetime("us", "UTC"))
    requests["as_of"] = requests["as_of"].cast(pl.Date)
    cells = {n: np.concatenate([part.rows[n] for part in parts]) for n in parts[0].rows}
    rows = {name: _series(values) for name, values in cells.items()}
    rows["date"] = rows["date"].cast(pl.Date)
    holidays = pl.Series(STATE_HOLIDAYS, dtype=pl.String)
    rows["state_holiday"] = holidays.gather(rows["state_holiday"])
    rows["bounds"] = pl.concat([_texts_or_nulls(part.others) for part in parts])
    return Batch(pl.DataFrame(requests), pl.DataFrame(rows))


def _series(values: npt.NDArray[Any]) -> pl.Series:
    """Null where it is no number: a database may refuse NaN, and the log must not."""
    if values.dtype == np.float64:
        values = np.where(np.isfinite(values), values, np.nan)
    return pl.Series(values, nan_to_null=True)


def _texts_or_nulls(others: pl.Series | int) -> pl.Series:
    if isinstance(others, int):
        return pl.Series([None], dtype=pl.String).new_from_index(0, others)
    return others


def _rows(
    entries: Sequence[LoggedPrediction], counts: IntArray, pause: Callable[[], None]
) -> dict[str, npt.NDArray[Any]]:
    def joined(name: str, kind: type[np.generic]) -> npt.NDArray[Any]:
        pause()
        return np.concatenate([getattr(entry.rows, name) for entry in entries], dtype=kind)

    day = joined("day", np.int32)
    origins = np.array([entry.as_of for entry in entries], dtype=np.int32)
    firsts = np.array([entry.first_row for entry in entries], dtype=np.int64)
    before = np.cumsum(counts) - counts
    place = np.arange(len(day)) + np.repeat(firsts - before, counts)
    for entry, start in zip(entries, before, strict=True):
        if entry.places is not None:
            place[start : start + len(entry.rows)] = entry.places
    return {
        "row": place.astype(np.int32),
        "store": joined("store", np.int32),
        "date": day,
        "open": joined("open", np.int16),
        "promo": joined("promo", np.int16),
        "state_holiday": joined("state_holiday", np.int64),
        "school_holiday": joined("school_holiday", np.int16),
        "horizon": day - np.repeat(origins, counts),
        "forecast": np.concatenate([entry.sales for entry in entries], dtype=np.float64),
    }


def _bounds(
    entries: Sequence[LoggedPrediction], counts: IntArray
) -> tuple[dict[str, FloatArray], pl.Series | int]:
    """The columns of levels that have their own, and the others as JSON."""
    groups: dict[tuple[float, ...], list[int]] = {}
    for place, entry in enumerate(entries):
        groups.setdefault(tuple(bound[0] for bound in entry.bounds), []).append(place)
    total = int(counts.sum())
    columns = {f"{side}_{word}": np.full(total, np.nan) for word in COLUMN_WORDS for side in SIDES}
    others: list[pl.Series | int] = []
    places = []
    for levels, members in groups.items():
        chosen = np.zeros(len(entries), dtype=bool)
        chosen[members] = True
        rows = np.flatnonzero(np.repeat(chosen, counts))
        more = {}
        for place, level in enumerate(levels):
            limits = [
                np.concatenate([entries[m].bounds[place][side] for m in members], dtype=np.float64)
                for side in (1, 2)
            ]
            word = _column_word(level)
            if word is None:
                more[level] = limits
                continue
            for side, values in zip(SIDES, limits, strict=True):
                columns[f"{side}_{word}"][rows] = values
        others.append(_as_json(more) if more else len(rows))
        places.append(rows)
    if all(isinstance(texts, int) for texts in others):
        return columns, total
    order = np.argsort(np.concatenate(places))
    return columns, pl.concat([_texts_or_nulls(texts) for texts in others]).gather(order)


def _as_json(limits: dict[float, list[FloatArray]]) -> pl.Series:
    """``{"0.9": [lower, upper]}`` for each row."""
    frame = pl.DataFrame(
        {
            f"{side}_{level}": _series(values)
            for level, both in limits.items()
            for side, values in zip(SIDES, both, strict=True)
        }
    )
    texts = []
    for level in limits:
        both = [pl.col(f"{side}_{level}").cast(pl.String).fill_null("null") for side in SIDES]
        texts.append(pl.format(f'"{float(level)!r}": [{{}}, {{}}]', *both))
    whole = pl.concat_str(pl.lit("{"), pl.concat_str(texts, separator=", "), pl.lit("}"))
    return frame.select(whole).to_series()


def _column_word(level: float) -> str | None:
    for word in COLUMN_WORDS:
        if abs(level - int(word) / 100) < 1e-9:
            return word
    return None


def _plain(text: str) -> str:
    """Short, and nothing that a database may refuse: no control characters, no half characters."""
    text = text[:_LONGEST]
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def _to_ipc(frame: pl.DataFrame) -> bytes:
    file = io.BytesIO()
    frame.write_ipc(file, compression="zstd")
    return file.getvalue()
