"""Columns of users' tables: names, synonyms, and the value of each text.

One set of rules for tables that are read whole and in chunks, for forecasts and for ingests.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np
import polars as pl

from rossmann.data.uploads.value_formats import (
    MIDNIGHT,
    DecimalMark,
    invalid_date_message,
    plain_numbers,
)
from rossmann.epoch_days import format_iso_day
from rossmann.errors import DataValidationError, ErrorDetail
from rossmann.schema import STATE_HOLIDAYS, StoreDays

REQUIRED_FIELDS: Final = ("Store", "Date", "Open", "Promo", "StateHoliday", "SchoolHoliday")
_SAMPLE_ROWS: Final = 20_000
"""First rows of a column that tell whether its values repeat."""
EMPTY_ROW: Final = "the row has a value in none of the six fields"
_MAX_STORE: Final = 2**31 - 1
_EXPECTED: Final = {
    "Store": f"a whole number from 1 to {_MAX_STORE}",
    "Open": "0 or 1",
    "Promo": "0 or 1",
    "StateHoliday": f"one of {', '.join(STATE_HOLIDAYS)}",
    "SchoolHoliday": "0 or 1",
}
_ERROR_TYPES: Final = {
    "Store": "store_number",
    "Date": "date_format",
    "Open": "flag",
    "Promo": "flag",
    "StateHoliday": "state_holiday",
    "SchoolHoliday": "flag",
}
FLAGS: Final = tuple(field for field, kind in _ERROR_TYPES.items() if kind == "flag")
STORE_NUMBERS: Final = (
    *("CompetitionDistance", "CompetitionOpenSinceMonth", "CompetitionOpenSinceYear"),
    *("Promo2", "Promo2SinceWeek", "Promo2SinceYear"),
)
NUMBER_FIELDS: Final = ("Store", "DayOfWeek", *FLAGS, "Sales", "Customers", *STORE_NUMBERS)
"""Fields whose decimal mark is that of the file."""
OTHER_FIELDS: Final = ("StoreType", "Assortment", "PromoInterval", "Id")
"""Further columns of Kaggle's tables."""
SYNONYMS: Final = {
    "Store": ("filiale", "filialnummer", "filialnr"),
    "Date": ("datum",),
    "DayOfWeek": ("wochentag",),
    "Open": ("geöffnet", "geoeffnet"),
    "Promo": ("aktion",),
    "StateHoliday": ("feiertag",),
    "SchoolHoliday": ("schulferien",),
    "Sales": ("umsatz",),
    "Customers": ("kunden",),
}
"""German names of columns, without case, blanks and underscores."""
_FIELD_OF: Final = {
    **{name: field for field, names in SYNONYMS.items() for name in (field.casefold(), *names)},
    **{field.casefold(): field for field in (*STORE_NUMBERS, *OTHER_FIELDS)},
}
_BOOLEANS: Final = {
    **dict.fromkeys(("false", "False", "FALSE"), "0"),
    **dict.fromkeys(("true", "True", "TRUE"), "1"),
}
"""Booleans as Arrow, Python and Excel write them."""
_TOTALS: Final = re.compile(
    r"[\u03a3\u2211].*|(?:grand|sub)?\W?(?:totals?|sums?|(?:end|zwischen|gesamt)?summen?"
    r"|gesamt|insgesamt|(?:gesamt|teil)?ergebnis)\b.*",
    re.IGNORECASE,
)
_SEPARATORS: Final = re.compile(r"[\s_.\u00ad\u200b-\u200f\u2060\ufeff-]+")
"""Characters of column names that do not matter; some of them are invisible."""


@dataclass(frozen=True)
class FieldColumns:
    """The index of the column of each field of a table; ``notes``: columns read by synonym."""

    index: dict[str, int]
    notes: tuple[str, ...]


def known_name(column: str) -> str | None:
    """The field that a column's name means, whatever its case, blanks, dashes and full stops."""
    return _FIELD_OF.get(_normalize_name(column))


def _normalize_name(name: str) -> str:
    return _SEPARATORS.sub("", unicodedata.normalize("NFC", name).casefold())


def field_columns(
    name: str, columns: Sequence[str], required: Sequence[str] = REQUIRED_FIELDS
) -> FieldColumns:
    """The column of each known field.

    Raises ``DataValidationError`` where a required field has no column, or a field has several.
    """
    matches: dict[str, list[int]] = {}
    for index, column in enumerate(columns):
        field = known_name(column)
        if field is not None:
            matches.setdefault(field, []).append(index)
    missing = [field for field in required if field not in matches]
    if missing:
        present = ", ".join(columns) or "none"
        raise DataValidationError(
            f"{name} lacks the columns {', '.join(missing)}; it has: {present}"
        )
    for field, indices in matches.items():
        if len(indices) > 1:
            names = ", ".join(columns[index] for index in indices)
            raise DataValidationError(f"{name} has the column {field} more than once: {names}")
    first = {field: indices[0] for field, indices in matches.items()}
    notes = tuple(
        f"the column {columns[at]} is read as {field}"
        for field, at in first.items()
        if _normalize_name(columns[at]) != field.casefold()
    )
    return FieldColumns(first, notes)


def normalize_text(column: pl.Series) -> pl.Series:
    """A column as text without outer blanks, null where it is empty.

    Booleans become "true" and "false"; a timestamp at midnight becomes its day. Raises polars'
    errors for types that have no text.
    """
    return map_distinct(column.cast(pl.String), _normalized)


def _normalized(texts: pl.Series) -> pl.Series:
    text = texts.str.strip_chars()
    if text.str.contains(":", literal=True).any():
        text = text.str.replace(MIDNIGHT, "$1")
    return text.set(text == "", None)


def distinct_values(column: pl.Series) -> pl.Series | None:
    """The distinct values but null, in their order; None for few rows or many distinct values."""
    sample = column.head(_SAMPLE_ROWS)
    if len(column) <= _SAMPLE_ROWS or sample.n_unique() > _SAMPLE_ROWS // 2:
        return None
    return column.unique(maintain_order=True).drop_nulls()


def map_distinct(
    column: pl.Series, function: Callable[[pl.Series], pl.Series], distinct: pl.Series | None = None
) -> pl.Series:
    """``function``, which works value by value and keeps null, of a column of text.

    It is called with the distinct values where they are few. ``distinct``: of the column, if known.
    """
    distinct = distinct_values(column) if distinct is None else distinct
    if distinct is None:
        return function(column)
    mapped = function(distinct)
    if mapped.equals(distinct):
        return column
    return column.replace_strict(distinct, mapped, default=None, return_dtype=pl.String)


def field_text(
    field: str,
    column: pl.Series,
    mark: DecimalMark | None = None,
    distinct: pl.Series | None = None,
) -> pl.Series:
    """A field's column as text, null where it is empty; numbers with a decimal point.

    Flags that are booleans become 0 and 1. ``mark``: the decimal mark of a column of text; others
    have a point. ``distinct``: the distinct values of a column of text, if known.
    """
    used_mark = mark if column.dtype == pl.String else "."

    def convert(texts: pl.Series) -> pl.Series:
        text = _normalized(texts)
        if field not in NUMBER_FIELDS:
            return text.str.replace(r"^([0-9]+)\.0+$", "$1")
        text = plain_numbers(text, used_mark)
        return text.replace(_BOOLEANS) if field in FLAGS else text

    return map_distinct(column.cast(pl.String), convert, distinct)


def field_value(field: str, days: Mapping[str, date]) -> pl.Expr:
    """A field's text as its typed value, null where invalid; ``days``: the date of each text."""
    match field:
        case "Store":
            number = pl.when(pl.col(field).str.contains(r"^[0-9]{1,10}$")).then(field)
            store = number.cast(pl.Int64)
            value = pl.when(store.is_between(1, _MAX_STORE)).then(store).cast(pl.Int32)
        case "Date":
            value = pl.col(field).replace_strict(
                list(days), list(days.values()), default=None, return_dtype=pl.Date
            )
        case "StateHoliday":
            codes = list(range(len(STATE_HOLIDAYS)))
            value = (
                pl.col(field)
                .str.to_lowercase()
                .replace_strict(list(STATE_HOLIDAYS), codes, default=None, return_dtype=pl.UInt8)
            )
        case _:
            value = pl.col(field).replace_strict(
                ["0", "1"], [0, 1], default=None, return_dtype=pl.UInt8
            )
    return value.alias(field)


def default_open(weekday: pl.Expr, holiday: pl.Expr) -> pl.Expr:
    """Open where a row leaves it empty: 1, but 0 on Sundays (weekday 7) and state holidays."""
    closed = (weekday == 7) | (holiday > 0)
    return (~closed.fill_null(False)).cast(pl.UInt8)


def invalid_value_error(field: str, text: str | None, date_format: str) -> tuple[str, str]:
    """Message and type of the error for a ``text`` that is no value of ``field``."""
    if text is None:
        return f"{field} is missing", "missing"
    if field == "Date":
        return invalid_date_message(text, date_format), _ERROR_TYPES[field]
    message = f"{field} must be {_EXPECTED[field]} (got {text[:40]})"
    if field == "Store" and _TOTALS.fullmatch(text):
        message += "; this looks like a row of totals: remove it"
    if field == "Store" and known_name(text) == field:
        message += "; this looks like a second row of column names: remove it"
    return message, _ERROR_TYPES[field]


def repeated_day_errors(rows: StoreDays, position: Callable[[int], str]) -> Iterator[ErrorDetail]:
    """An error for each row whose store and day an earlier row has: totals would count it twice.

    ``loc``: the row's index. ``position``: where the row with an index stands, for people.
    """
    for row, first in zip(*map(np.ndarray.tolist, rows.duplicates()), strict=True):
        msg = (
            f"store {rows.store[row]} on {format_iso_day(rows.day[row])} is in {position(first)}"
            " already: a store's day may come once where totals are asked for; leave one of the"
            " two out"
        )
        yield ErrorDetail((row,), msg, "duplicate_row")
