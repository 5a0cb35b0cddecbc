"""Rows of an uploaded file as 13-byte records on disk, written by validation, read later."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from rossmann.data.uploads.fields import (
    NUMBER_FIELDS,
    default_open,
    field_text,
    field_value,
    normalize_text,
)
from rossmann.data.uploads.parquet_chunks import to_arrow, to_series
from rossmann.data.uploads.value_formats import DecimalMark
from rossmann.epoch_days import weekday_of
from rossmann.schema import StoreDays

INVALID: Final = -1
MISSING: Final = -2
ROW_DTYPE: Final = np.dtype(
    [
        ("Store", "<i4"),
        ("Date", "<i4"),
        ("Open", "i1"),
        ("Promo", "i1"),
        ("StateHoliday", "i1"),
        ("SchoolHoliday", "i1"),
        ("DayOfWeek", "i1"),
    ]
)
"""A row: the value of each field, ``INVALID`` or ``MISSING``; a date is an index of the distinct
dates of the file."""
MAX_CACHED_VALUES: Final = 20_000
"""Distinct values of a column whose codes are cached."""
Records = npt.NDArray[np.void]
Codes = npt.NDArray[np.int32]


class ArrayFile:
    """A one-dimensional array in a file, appended to and then read at any position."""

    def __init__(self, path: Path, dtype: "np.dtype[Any]") -> None:
        self._dtype = dtype
        self._file = path.open("w+b")

    def append(self, values: npt.NDArray[Any]) -> None:
        """Write values at the end."""
        self._file.write(values.tobytes())

    def flush(self) -> None:
        """Make all values readable."""
        self._file.flush()

    def read(self, start: int, count: int) -> npt.NDArray[Any]:
        """``count`` values from position ``start`` on; several threads may read."""
        size = self._dtype.itemsize
        content = os.pread(self._file.fileno(), count * size, start * size)
        return np.frombuffer(content, self._dtype)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class ColumnEncoder:
    """Encodes a field's column as integers; each distinct value is parsed once.

    ``encode_texts``: the codes of texts, null where a value is missing. ``mark``: the decimal mark
    of the file. ``marked``: up to ``MAX_CACHED_VALUES`` texts with a point or comma in a number.
    """

    def __init__(
        self, field: str, encode_texts: Callable[[pl.Series], Codes], mark: DecimalMark | None
    ) -> None:
        self._field, self._mark = field, mark
        self._encode_texts = encode_texts
        self._cache: dict[int | str | None, int] = {}
        self.marked: set[str] = set()

    def encode(self, column: pa.Array) -> tuple[Codes, Codes]:
        """The code of each row (n,), and those of the distinct values."""
        encoded = _dictionary_encoded(column)
        dtype = encoded.dictionary.type
        # Floats are not cached: 0.0 and -0.0 are the same key and not the same text.
        cacheable = pa.types.is_integer(dtype) or pa.types.is_string(dtype)
        codes = self._cached(encoded.dictionary) if cacheable else self._parsed(encoded.dictionary)
        return _codes_of_rows(encoded, codes), codes

    def _cached(self, distinct: pa.Array) -> Codes:
        values = distinct.to_pylist()
        new = [index for index, value in enumerate(values) if value not in self._cache]
        if len(new) > MAX_CACHED_VALUES:  # a column of free text is not kept in memory
            return self._parsed(distinct)
        if new:
            if len(self._cache) + len(new) > MAX_CACHED_VALUES:
                self._cache.clear()
                new = list(range(len(values)))
            codes = self._parsed(distinct.take(to_arrow(new))).tolist()
            self._cache.update(zip((values[index] for index in new), codes, strict=True))
        return np.array([self._cache[value] for value in values], np.int32)

    def _parsed(self, distinct: pa.Array) -> Codes:
        series = to_series(distinct)
        if self._field in NUMBER_FIELDS and series.dtype == pl.String:
            marked = normalize_text(series).filter(series.str.contains("[.,]"))
            if len(self.marked) < MAX_CACHED_VALUES:
                self.marked.update(marked.drop_nulls().to_list())
        return self._encode_texts(field_text(self._field, series, self._mark))


def field_encoder(field: str, mark: DecimalMark | None = None) -> ColumnEncoder:
    """The encoder of a field: its values, ``INVALID`` or ``MISSING``."""

    def encode_texts(text: pl.Series) -> Codes:
        value = text.to_frame(field).select(field_value(field, {})).to_series()
        codes = value.cast(pl.Int64).fill_null(INVALID).set(text.is_null(), MISSING)
        return codes.to_numpy().astype(np.int32)

    return ColumnEncoder(field, encode_texts, mark)


def weekday_encoder(mark: DecimalMark | None = None) -> ColumnEncoder:
    """The encoder of weekdays 1 to 7; ``MISSING`` for anything else."""

    def encode_texts(text: pl.Series) -> Codes:
        value = text.cast(pl.Int64, strict=False)
        value = value.set(~value.is_between(1, 7), MISSING).fill_null(MISSING)
        return value.to_numpy().astype(np.int32)

    return ColumnEncoder("DayOfWeek", encode_texts, mark)


def encode_dates(column: pa.Array, indices: dict[str, int]) -> Codes:
    """The index of each row's date (n,) in ``indices``, to which new dates are added."""
    encoded = _dictionary_encoded(column)
    text = field_text("Date", to_series(encoded.dictionary))
    codes = [
        MISSING if day is None else indices.setdefault(day, len(indices)) for day in text.to_list()
    ]
    return _codes_of_rows(encoded, np.array(codes, np.int32))


def _dictionary_encoded(column: pa.Array) -> pa.DictionaryArray:
    if pa.types.is_dictionary(column.type):
        return column
    column = pa.nulls(len(column), pa.string()) if pa.types.is_null(column.type) else column
    return column.dictionary_encode()


def _codes_of_rows(encoded: pa.DictionaryArray, codes: Codes) -> Codes:
    """The code of each row from those of the distinct values."""
    # Through polars, because Arrow's own conversions to numpy import pandas.
    indices = to_series(encoded.indices).cast(pl.Int32).fill_null(len(codes))
    table = np.append(codes, np.int32(MISSING))
    return np.asarray(table[indices.to_numpy()], np.int32)


def to_rows(records: Records, days: Codes) -> StoreDays:
    """The rows of valid records; ``days``: the epoch day of each distinct date.

    Where ``Open`` is missing, ``default_open`` decides.
    """
    day = days[records["Date"]]
    opens = records["Open"].astype(np.uint8)
    holiday = records["StateHoliday"].astype(np.uint8)
    missing = records["Open"] == MISSING
    if missing.any():
        frame = pl.DataFrame({"weekday": weekday_of(day[missing]) + 1, "holiday": holiday[missing]})
        default = frame.select(default_open(pl.col("weekday"), pl.col("holiday"))).to_series()
        opens[missing] = default.to_numpy()
    promo = records["Promo"].astype(np.uint8)
    school = records["SchoolHoliday"].astype(np.uint8)
    return StoreDays(records["Store"].astype(np.int32), day, opens, promo, holiday, school)


def is_empty_row(records: Records, fields: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Which rows have no value in any of ``fields``, (n,)."""
    empty = np.ones(len(records), np.bool_)
    for field in fields:
        empty &= records[field] == MISSING
    return empty
