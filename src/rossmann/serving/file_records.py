"""A file's rows on disk, as small as they get: what the first reading leaves for the second."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from rossmann.data.upload_parts import series_of
from rossmann.data.upload_values import field_text, field_value, usual_open
from rossmann.schema import Rows

WRONG: Final = -1
MISSING: Final = -2
RECORD: Final = np.dtype(
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
"""A row: each field's value, or that it is wrong or missing; a date by its place in a list."""
Records = npt.NDArray[np.void]
Codes = npt.NDArray[np.int32]


class Scratch:
    """Numbers of one kind in a file, written once in order and read from anywhere."""

    def __init__(self, path: Path, kind: "np.dtype[Any]") -> None:
        self._kind = kind
        self._file = path.open("w+b")

    def add(self, values: npt.NDArray[Any]) -> None:
        """Write more at the end."""
        self._file.write(values.tobytes())

    def at(self, start: int, count: int) -> npt.NDArray[Any]:
        """``count`` of them from the place ``start`` on; several threads may read."""
        size = self._kind.itemsize
        return np.frombuffer(os.pread(self._file.fileno(), count * size, start * size), self._kind)

    def done(self) -> None:
        """Nothing more is written."""
        self._file.flush()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def field_codes(field: str, column: pa.Array) -> tuple[Codes, list[int]]:
    """A field's value of each row (n,), or ``WRONG`` or ``MISSING``; and the different values.

    The rules look at each different value once.
    """
    coded, text = _different(column)
    value = text.to_frame(field).select(field_value(field, {})).to_series()
    known = value.cast(pl.Int64).fill_null(WRONG).set(text.is_null(), MISSING)
    values = known.to_numpy().astype(np.int32)
    return _spread(coded, values), np.unique(values[values >= 0]).tolist()


def date_codes(column: pa.Array, places: dict[str, int]) -> Codes:
    """The place of each row's date in ``places`` (n,), which grows by those that are new."""
    coded, text = _different(column)
    values = [
        MISSING if day is None else places.setdefault(day, len(places)) for day in text.to_list()
    ]
    return _spread(coded, np.array(values, np.int32))


def weekday_codes(column: pa.Array) -> Codes:
    """The weekday that each row names (n,), ``MISSING`` where it is none."""
    coded, text = _different(column)
    value = text.cast(pl.Int64, strict=False)
    value = value.set(~value.is_between(1, 7), MISSING).fill_null(MISSING)
    return _spread(coded, value.to_numpy().astype(np.int32))


def _different(column: pa.Array) -> tuple[pa.DictionaryArray, pl.Series]:
    """The column by the places of its different values, and these as text."""
    if not pa.types.is_dictionary(column.type):
        column = pa.nulls(len(column), pa.string()) if pa.types.is_null(column.type) else column
        column = column.dictionary_encode()
    return column, field_text(series_of(column.dictionary))


def _spread(coded: pa.DictionaryArray, values: Codes) -> Codes:
    places = coded.indices.cast(pa.int32()).fill_null(len(values))
    table = np.append(values, np.int32(MISSING))
    return np.asarray(table[places.to_numpy(zero_copy_only=False)], np.int32)


def to_rows(records: Records, days: Codes) -> Rows:
    """Rows without faults; ``days``: the day of each place in the list of dates.

    Where a row does not say whether the store opens, the rule does.
    """
    day = days[records["Date"]]
    opens = records["Open"].astype(np.uint8)
    holiday = records["StateHoliday"].astype(np.uint8)
    unsaid = records["Open"] == MISSING
    if unsaid.any():
        told = pl.DataFrame({"weekday": weekday_of(day[unsaid]), "holiday": holiday[unsaid]})
        usual = told.select(usual_open(pl.col("weekday"), pl.col("holiday"))).to_series()
        opens[unsaid] = usual.to_numpy()
    promo = records["Promo"].astype(np.uint8)
    school = records["SchoolHoliday"].astype(np.uint8)
    return Rows(records["Store"].astype(np.int32), day, opens, promo, holiday, school)


def weekday_of(day: Codes) -> Codes:
    """1 (Monday) to 7 of days since 1970-01-01, a Thursday."""
    return np.asarray((day + 3) % 7 + 1, np.int32)


def all_missing(records: Records, fields: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Which rows hold nothing in ``fields``."""
    empty = np.ones(len(records), np.bool_)
    for field in fields:
        empty &= records[field] == MISSING
    return empty
