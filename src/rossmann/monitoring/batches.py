"""Entries as columns: what is kept in one file of the spool and written in one go.

A batch is two frames: one line for each request, one for each of its rows. They are joined by
``entry``, which counts a process's entries from 1 on. A file holds both, with a checksum.
"""

import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rossmann.errors import DataError
from rossmann.monitoring.entries import Entry
from rossmann.schema import STATE_HOLIDAYS, FloatArray

COLUMN_WORDS: Final = ("80", "95")
"""Levels, in per cent, whose bounds have columns of their own; others are kept as JSON."""
SIDES: Final = ("lower", "upper")

IntArray = npt.NDArray[np.int64]
_MAGIC: Final = b"ROSSLOG1"
_HEAD: Final = struct.Struct("<8sQQI")
_LONGEST: Final = 200


class DamagedBatch(DataError):
    """A file of the spool that is not as it was written."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Some entries of one process: ``requests`` has a line for each, ``rows`` for each row."""

    requests: pl.DataFrame
    rows: pl.DataFrame

    def __len__(self) -> int:
        return self.rows.height

    def pack(self) -> bytes:
        """As the content of a file."""
        parts = [_to_ipc(self.requests), _to_ipc(self.rows)]
        sum_ = zlib.crc32(parts[1], zlib.crc32(parts[0]))
        return b"".join((_HEAD.pack(_MAGIC, len(parts[0]), len(parts[1]), sum_), *parts))


def unpack(content: bytes) -> Batch:
    """The batch of a file; raises ``DamagedBatch``."""
    if len(content) < _HEAD.size:
        raise DamagedBatch("it is cut off")
    magic, first, second, sum_ = _HEAD.unpack_from(content)
    if magic != _MAGIC or len(content) != _HEAD.size + first + second:
        raise DamagedBatch("it is no batch, or cut off")
    body = memoryview(content)[_HEAD.size :]
    if zlib.crc32(body) != sum_:
        raise DamagedBatch("its checksum differs")
    return Batch(pl.read_ipc(bytes(body[:first])), pl.read_ipc(bytes(body[first:])))


def join(batches: Sequence[Batch]) -> Batch:
    """Several batches as one, in their order."""
    return Batch(pl.concat([b.requests for b in batches]), pl.concat([b.rows for b in batches]))


def make_batch(entries: Sequence[Entry], first_number: int) -> Batch:
    """Turn entries to columns; the first gets ``first_number``."""
    counts = np.array([len(entry.rows) for entry in entries], dtype=np.int64)
    numbers = np.arange(first_number, first_number + len(entries), dtype=np.int64)
    rows = _rows(entries, numbers, counts).with_columns(*_bounds(entries, counts))
    real = [name for name, kind in rows.schema.items() if kind == pl.Float64]
    return Batch(
        _requests(entries, numbers, counts), rows.with_columns(_finite(name) for name in real)
    )


def _requests(entries: Sequence[Entry], numbers: IntArray, counts: IntArray) -> pl.DataFrame:
    def texts(name: str) -> pl.Series:
        return pl.Series([_plain(getattr(entry, name)) for entry in entries], dtype=pl.String)

    moments = [entry.answered_at.timestamp() for entry in entries]
    versions = np.array([entry.model_version for entry in entries], dtype=np.int32)
    days = np.array([entry.as_of for entry in entries], dtype=np.int32)
    frame = pl.DataFrame(
        {
            "entry": numbers,
            "request_id": texts("request_id"),
            "answered_at": np.rint(np.array(moments) * 1e6).astype(np.int64),
            "door": texts("door"),
            "role": texts("role"),
            "caller": texts("caller"),
            "model_version": versions,
            "model_stage": texts("model_stage"),
            "as_of": pl.Series(days).cast(pl.Date),
            "objective": texts("objective"),
            "latency_seconds": np.array([entry.latency_seconds for entry in entries], dtype=float),
            "rows": counts.astype(np.int32),
        }
    )
    return frame.with_columns(
        pl.col("answered_at").cast(pl.Datetime("us", "UTC")), _finite("latency_seconds")
    )


def _rows(entries: Sequence[Entry], numbers: IntArray, counts: IntArray) -> pl.DataFrame:
    def joined(name: str, kind: type[np.generic]) -> npt.NDArray[Any]:
        return np.concatenate([getattr(entry.rows, name) for entry in entries], dtype=kind)

    day = joined("day", np.int32)
    origins = np.array([entry.as_of for entry in entries], dtype=np.int32)
    firsts = np.array([entry.first_row for entry in entries], dtype=np.int64)
    before = np.cumsum(counts) - counts
    place = np.arange(len(day)) + np.repeat(firsts - before, counts)
    names = pl.Series(STATE_HOLIDAYS, dtype=pl.String)
    return pl.DataFrame(
        {
            "entry": np.repeat(numbers, counts),
            "row": place.astype(np.int32),
            "store": joined("store", np.int32),
            "date": pl.Series(day).cast(pl.Date),
            "open": joined("open", np.int16),
            "promo": joined("promo", np.int16),
            "state_holiday": names.gather(joined("state_holiday", np.int64)),
            "school_holiday": joined("school_holiday", np.int16),
            "horizon": day - np.repeat(origins, counts),
            "forecast": np.concatenate([entry.sales for entry in entries], dtype=np.float64),
        }
    )


def _bounds(entries: Sequence[Entry], counts: IntArray) -> list[pl.Series]:
    """The columns of bounds: of levels that have their own, and the others as JSON."""
    groups: dict[tuple[float, ...], list[int]] = {}
    for place, entry in enumerate(entries):
        groups.setdefault(tuple(bound[0] for bound in entry.bounds), []).append(place)
    total = int(counts.sum())
    ends = np.cumsum(counts)
    columns = {f"{side}_{word}": np.full(total, np.nan) for word in COLUMN_WORDS for side in SIDES}
    others, others_rows = [], []
    for levels, members in groups.items():
        rows = np.concatenate([np.arange(ends[m] - counts[m], ends[m]) for m in members])
        more = {}
        for place, level in enumerate(levels):
            limits = [
                np.concatenate([entries[m].bounds[place][side] for m in members], dtype=np.float64)
                for side in (1, 2)
            ]
            word = _column_word(level)
            if word is None:
                more[level] = limits
            else:
                for side, values in zip(SIDES, limits, strict=True):
                    columns[f"{side}_{word}"][rows] = values
        others.append(_as_json(more, len(rows)))
        others_rows.append(rows)
    order = np.argsort(np.concatenate(others_rows))
    real = [pl.Series(name, values) for name, values in columns.items()]
    return [*real, pl.concat(others).gather(order).alias("bounds")]


def _as_json(limits: dict[float, list[FloatArray]], count: int) -> pl.Series:
    """``{"0.9": [lower, upper]}`` for each row, or null."""
    if not limits:
        return pl.Series([None], dtype=pl.String).new_from_index(0, count)
    frame = pl.DataFrame(
        {
            f"{side}_{level}": values
            for level, both in limits.items()
            for side, values in zip(SIDES, both, strict=True)
        }
    )
    texts = []
    for level in limits:
        both = [_finite(f"{side}_{level}").cast(pl.String).fill_null("null") for side in SIDES]
        texts.append(pl.format(f'"{float(level)!r}": [{{}}, {{}}]', *both))
    whole = pl.concat_str(pl.lit("{"), pl.concat_str(texts, separator=", "), pl.lit("}"))
    return frame.select(whole).to_series()


def _column_word(level: float) -> str | None:
    for word in COLUMN_WORDS:
        if abs(level - int(word) / 100) < 1e-9:
            return word
    return None


def _finite(name: str) -> pl.Expr:
    """Null where it is no number: a database may refuse NaN, and the log must not."""
    return pl.when(pl.col(name).is_finite()).then(pl.col(name)).alias(name)


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
