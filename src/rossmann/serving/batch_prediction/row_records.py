"""A file's rows on disk, as small as they get: what the first reading leaves for the second."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from rossmann.data.uploads.fields import default_open, field_text, field_value
from rossmann.data.uploads.table_chunks import to_arrow, to_series
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
"""A row: each field's value, or that it is wrong or missing; a date by its place in a list."""
MAX_CACHED_VALUES: Final = 20_000
"""Different values of a column that are kept in mind."""
Records = npt.NDArray[np.void]
Codes = npt.NDArray[np.int32]


class ArrayFile:
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


class ColumnEncoder:
    """What a column's values stand for; a value that comes again is not looked at again.

    ``read``: codes of texts, null where a value is missing.
    """

    def __init__(self, read: Callable[[pl.Series], Codes]) -> None:
        self._read = read
        self._known: dict[int | str | None, int] = {}

    def codes(self, column: pa.Array) -> tuple[Codes, Codes]:
        """The code of each row (n,), and those of its different values."""
        coded = _coded(column)
        kind = coded.dictionary.type
        # Of numbers with a point, 0.0 and -0.0 are the same key and not the same text.
        whole = pa.types.is_integer(kind) or pa.types.is_string(kind)
        values = self._looked_up(coded.dictionary) if whole else self._codes(coded.dictionary)
        return _spread(coded, values), values

    def _looked_up(self, different: pa.Array) -> Codes:
        given = different.to_pylist()
        new = [place for place, value in enumerate(given) if value not in self._known]
        if len(new) > MAX_CACHED_VALUES:  # a column of anything: its texts are not kept
            return self._codes(different)
        if new:
            if len(self._known) + len(new) > MAX_CACHED_VALUES:
                self._known.clear()
                new = list(range(len(given)))
            found = self._codes(different.take(to_arrow(new))).tolist()
            self._known.update(zip((given[place] for place in new), found, strict=True))
        return np.array([self._known[value] for value in given], np.int32)

    def _codes(self, different: pa.Array) -> Codes:
        return self._read(field_text(to_series(different)))


def field_encoder(field: str) -> ColumnEncoder:
    """The values of a field: what they are, or ``WRONG`` or ``MISSING``."""

    def read(text: pl.Series) -> Codes:
        value = text.to_frame(field).select(field_value(field, {})).to_series()
        known = value.cast(pl.Int64).fill_null(INVALID).set(text.is_null(), MISSING)
        return known.to_numpy().astype(np.int32)

    return ColumnEncoder(read)


def weekday_encoder() -> ColumnEncoder:
    """Weekdays, ``MISSING`` for what is none."""

    def read(text: pl.Series) -> Codes:
        value = text.cast(pl.Int64, strict=False)
        value = value.set(~value.is_between(1, 7), MISSING).fill_null(MISSING)
        return value.to_numpy().astype(np.int32)

    return ColumnEncoder(read)


def date_codes(column: pa.Array, places: dict[str, int]) -> Codes:
    """The place of each row's date in ``places`` (n,), which grows by those that are new."""
    coded = _coded(column)
    text = field_text(to_series(coded.dictionary))
    values = [
        MISSING if day is None else places.setdefault(day, len(places)) for day in text.to_list()
    ]
    return _spread(coded, np.array(values, np.int32))


def _coded(column: pa.Array) -> pa.DictionaryArray:
    """The column by the places of its different values."""
    if pa.types.is_dictionary(column.type):
        return column
    column = pa.nulls(len(column), pa.string()) if pa.types.is_null(column.type) else column
    return column.dictionary_encode()


def _spread(coded: pa.DictionaryArray, values: Codes) -> Codes:
    # By polars, because Arrow's own ways to numpy import pandas.
    places = to_series(coded.indices).cast(pl.Int32).fill_null(len(values))
    table = np.append(values, np.int32(MISSING))
    return np.asarray(table[places.to_numpy()], np.int32)


def to_rows(records: Records, days: Codes) -> StoreDays:
    """Rows without faults; ``days``: the day of each place in the list of dates.

    Where a row does not say whether the store opens, the rule does.
    """
    day = days[records["Date"]]
    opens = records["Open"].astype(np.uint8)
    holiday = records["StateHoliday"].astype(np.uint8)
    unsaid = records["Open"] == MISSING
    if unsaid.any():
        told = pl.DataFrame({"weekday": weekday_of(day[unsaid]), "holiday": holiday[unsaid]})
        usual = told.select(default_open(pl.col("weekday"), pl.col("holiday"))).to_series()
        opens[unsaid] = usual.to_numpy()
    promo = records["Promo"].astype(np.uint8)
    school = records["SchoolHoliday"].astype(np.uint8)
    return StoreDays(records["Store"].astype(np.int32), day, opens, promo, holiday, school)


def weekday_of(day: Codes) -> Codes:
    """1 (Monday) to 7 of days since 1970-01-01, a Thursday."""
    return np.asarray((day + 3) % 7 + 1, np.int32)


def is_empty_row(records: Records, fields: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Which rows hold nothing in ``fields``."""
    empty = np.ones(len(records), np.bool_)
    for field in fields:
        empty &= records[field] == MISSING
    return empty
