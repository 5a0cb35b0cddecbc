"""The six fields of an uploaded table: column matching, value parsing, date format detection.

One set of rules for tables that are read whole and in chunks. A column of dates has one format.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Final

import polars as pl

from rossmann.errors import DataValidationError
from rossmann.schema import STATE_HOLIDAYS

REQUIRED_FIELDS: Final = ("Store", "Date", "Open", "Promo", "StateHoliday", "SchoolHoliday")
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
_BOOLEANS: Final = {
    **dict.fromkeys(("false", "False", "FALSE"), "0"),
    **dict.fromkeys(("true", "True", "TRUE"), "1"),
}
"""Booleans as Arrow, Python and Excel write them."""
_MIDNIGHT: Final = r"^([0-9]{4}-[0-9]{2}-[0-9]{2})[ T]00:00(?::00(?:\.0+)?)?$"


def field_columns(name: str, columns: Sequence[str]) -> dict[str, str]:
    """The column of each field, whatever case and blanks the file writes names with.

    Raises ``DataValidationError`` where a field has no column, or more than one.
    """
    matches = {field: matching_columns(columns, field) for field in REQUIRED_FIELDS}
    missing = [field for field, names in matches.items() if not names]
    if missing:
        present = ", ".join(columns) or "none"
        raise DataValidationError(
            f"{name} lacks the columns {', '.join(missing)}; it has: {present}"
        )
    for field, names in matches.items():
        if len(names) > 1:
            raise DataValidationError(
                f"{name} has the column {field} more than once: {', '.join(names)}"
            )
    return {field: names[0] for field, names in matches.items()}


def matching_columns(columns: Sequence[str], field: str) -> list[str]:
    """The columns whose name is ``field``'s, but for case, blanks and underscores."""
    # polars appends _duplicated_0 to a name that a CSV file holds twice.
    return [
        c for c in columns if _normalize_name(c.partition("_duplicated_")[0]) == field.casefold()
    ]


def _normalize_name(name: str) -> str:
    return name.casefold().replace(" ", "").replace("_", "")


def normalize_text(column: pl.Series) -> pl.Series:
    """A column as text without outer blanks, null where it is empty.

    Booleans become "true" and "false"; a timestamp at midnight becomes its day. Raises polars'
    errors for types that have no text.
    """
    text = column.cast(pl.String).str.strip_chars().str.replace(_MIDNIGHT, "$1")
    return text.set(text == "", None)


def field_text(column: pl.Series) -> pl.Series:
    """A field's column as text, null where it is empty; ``1.0`` becomes ``1``.

    Other tools write whole numbers that way where a column has gaps.
    """
    return normalize_text(column).str.replace(r"^([0-9]+)\.0+$", "$1")


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
            value = flag_text(field).replace_strict(
                ["0", "1"], [0, 1], default=None, return_dtype=pl.UInt8
            )
    return value.alias(field)


def flag_text(field: str) -> pl.Expr:
    """A flag's text, with booleans as 0 or 1."""
    return pl.col(field).replace(_BOOLEANS)


def default_open(weekday: pl.Expr, holiday: pl.Expr) -> pl.Expr:
    """Open where a row leaves it empty: 1, but 0 on Sundays (weekday 7) and state holidays."""
    closed = (weekday == 7) | (holiday > 0)
    return (~closed.fill_null(False)).cast(pl.UInt8)


def invalid_value_error(field: str, text: str | None, date_format: str) -> tuple[str, str]:
    """Message and type of the error for a ``text`` that is no value of ``field``."""
    if text is None:
        return f"{field} is missing", "missing"
    expected = f"a day written {date_format}" if field == "Date" else _EXPECTED[field]
    return f"{field} must be {expected} (got {text[:40]})", _ERROR_TYPES[field]


_PATTERNS: Final = {
    "YYYY-MM-DD": r"(?P<y>[0-9]{4})-(?P<m>[0-9]{2})-(?P<d>[0-9]{2})",
    "DD.MM.YYYY": r"(?P<d>[0-9]{1,2})\.(?P<m>[0-9]{1,2})\.(?P<y>[0-9]{4})",
    "DD.MM.YY": r"(?P<d>[0-9]{1,2})\.(?P<m>[0-9]{1,2})\.(?P<y>[0-9]{2})",
    "MM/DD/YYYY": r"(?P<m>[0-9]{1,2})/(?P<d>[0-9]{1,2})/(?P<y>[0-9]{4})",
    "DD/MM/YYYY": r"(?P<d>[0-9]{1,2})/(?P<m>[0-9]{1,2})/(?P<y>[0-9]{4})",
    "MM/DD/YY": r"(?P<m>[0-9]{1,2})/(?P<d>[0-9]{1,2})/(?P<y>[0-9]{2})",
    "DD/MM/YY": r"(?P<d>[0-9]{1,2})/(?P<m>[0-9]{1,2})/(?P<y>[0-9]{2})",
}
DATE_FORMATS: Final = tuple(_PATTERNS)
"""Supported formats; a year of two digits is in this century."""


class AmbiguousDatesError(DataValidationError):
    """A column that several ``formats`` fit, with different dates."""

    def __init__(self, formats: list[str], example: str) -> None:
        self.formats = formats
        super().__init__(
            f"dates such as {example} can be read as {' or '.join(formats)}: say which is meant"
        )


def date_formats(texts: Sequence[str]) -> list[str]:
    """Every format that fits each of ``texts``; empty where none does, or there is no text."""
    unique = set(texts)
    if not unique:
        return []
    return [name for name in DATE_FORMATS if all(_parse_date(text, name) for text in unique)]


def parse_dates(texts: Sequence[str], date_format: str) -> dict[str, date]:
    """The date of each different text that is one in ``date_format``.

    Raises ``DataValidationError`` for a format that is not in ``DATE_FORMATS``.
    """
    if date_format not in _PATTERNS:
        raise DataValidationError(
            f"no date format {date_format!r}; there are: {', '.join(DATE_FORMATS)}"
        )
    dates = {text: _parse_date(text, date_format) for text in set(texts)}
    return {text: day for text, day in dates.items() if day}


def detect_date_format(texts: Sequence[str]) -> str:
    """The one format of a column of dates; raises ``AmbiguousDatesError`` where several fit.

    Texts that do not fit it are errors of their rows. The format that reads the most texts has as
    rivals those that read some of the same texts. A format is ruled out where a rival reads all
    of its texts and more. Of formats that read the same texts to the same dates, the first will do.
    """
    parsed = {name: parse_dates(texts, name) for name in DATE_FORMATS}
    best_fit = max(parsed, key=lambda name: len(parsed[name]))
    rivals = [name for name in DATE_FORMATS if _overlap(parsed[best_fit], parsed[name])]
    candidates = [name for name in rivals if not _is_ruled_out(name, rivals, parsed)]
    first = candidates[0]
    if all(parsed[name] == parsed[first] for name in candidates):
        return first
    example = next(
        text for text in texts if len({parsed[name].get(text, date.min) for name in candidates}) > 1
    )
    raise AmbiguousDatesError(candidates, example)


def _overlap(one: Mapping[str, date], other: Mapping[str, date]) -> bool:
    """Whether two formats read some of the same texts; True for a format and itself."""
    return one is other or not one.keys().isdisjoint(other)


def _is_ruled_out(name: str, rivals: list[str], parsed: Mapping[str, Mapping[str, date]]) -> bool:
    texts = parsed[name].keys()
    return any(texts < parsed[rival].keys() for rival in rivals)


def _parse_date(text: str, date_format: str) -> date | None:
    match = re.fullmatch(_PATTERNS[date_format], text)
    if match is None:
        return None
    year = int(match["y"])
    try:
        return date(year + 2000 if len(match["y"]) == 2 else year, int(match["m"]), int(match["d"]))
    except ValueError:
        return None
