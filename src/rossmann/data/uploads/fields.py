"""What an uploaded table's fields may hold: one set of rules, for whole tables and for parts.

MERGED: How a column of dates is written: one format for all of it, never a guess for one row.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Final

import polars as pl

from rossmann.data.uploads.table_reader import normalize_text
from rossmann.errors import DataValidationError
from rossmann.schema import STATE_HOLIDAYS

REQUIRED_FIELDS: Final = ("Store", "Date", "Open", "Promo", "StateHoliday", "SchoolHoliday")
_MOST: Final = 2**31 - 1
_MUST: Final = {
    "Store": f"a whole number from 1 to {_MOST}",
    "Open": "0 or 1",
    "Promo": "0 or 1",
    "StateHoliday": f"one of {', '.join(STATE_HOLIDAYS)}",
    "SchoolHoliday": "0 or 1",
}
_KIND: Final = {
    "Store": "store_number",
    "Date": "date_format",
    "Open": "flag",
    "Promo": "flag",
    "StateHoliday": "state_holiday",
    "SchoolHoliday": "flag",
}
FLAGS: Final = tuple(field for field, kind in _KIND.items() if kind == "flag")
_TRUTHS: Final = {
    **dict.fromkeys(("false", "False", "FALSE"), "0"),
    **dict.fromkeys(("true", "True", "TRUE"), "1"),
}
"""As Arrow, Python and Excel write them."""


def field_columns(name: str, columns: Sequence[str]) -> dict[str, str]:
    """The column of each field, however the file writes its case and blanks.

    Raises ``BrokenRule`` where one is missing or there twice.
    """
    found = {field: matching_columns(columns, field) for field in REQUIRED_FIELDS}
    missing = [field for field, named in found.items() if not named]
    if missing:
        there = ", ".join(columns) or "none"
        raise DataValidationError(f"{name} lacks the columns {', '.join(missing)}; it has: {there}")
    for field, named in found.items():
        if len(named) > 1:
            raise DataValidationError(
                f"{name} has the column {field} more than once: {', '.join(named)}"
            )
    return {field: named[0] for field, named in found.items()}


def matching_columns(columns: Sequence[str], field: str) -> list[str]:
    """The columns that may be ``field``."""
    wanted = field.casefold()
    # A name that a CSV file holds twice comes back as this.
    return [c for c in columns if _bare(c.partition("_duplicated_")[0]) == wanted]


def _bare(name: str) -> str:
    return name.casefold().replace(" ", "").replace("_", "")


def field_text(column: pl.Series) -> pl.Series:
    """A field's column as text, null where it is empty.

    Where a column has gaps, other tools write its whole numbers as 1.0.
    """
    return normalize_text(column).str.replace(r"^([0-9]+)\.0+$", "$1")


def field_value(field: str, days: Mapping[str, date]) -> pl.Expr:
    """A field's text to its value, null where it is none; ``days``: the date of each text."""
    match field:
        case "Store":
            number = pl.when(pl.col(field).str.contains(r"^[0-9]{1,10}$")).then(field)
            store = number.cast(pl.Int64)
            found = pl.when(store.is_between(1, _MOST)).then(store).cast(pl.Int32)
        case "Date":
            found = pl.col(field).replace_strict(
                list(days), list(days.values()), default=None, return_dtype=pl.Date
            )
        case "StateHoliday":
            codes = list(range(len(STATE_HOLIDAYS)))
            found = (
                pl.col(field)
                .str.to_lowercase()
                .replace_strict(list(STATE_HOLIDAYS), codes, default=None, return_dtype=pl.UInt8)
            )
        case _:
            found = flag_text(field).replace_strict(
                ["0", "1"], [0, 1], default=None, return_dtype=pl.UInt8
            )
    return found.alias(field)


def flag_text(field: str) -> pl.Expr:
    """A flag's text, as 0 or 1 where a tool wrote it as a truth."""
    return pl.col(field).replace(_TRUTHS)


def default_open(weekday: pl.Expr, holiday: pl.Expr) -> pl.Expr:
    """Open where nothing is said: all but Sundays (7) and holidays; from the row alone."""
    closed = (weekday == 7) | (holiday > 0)
    return (~closed.fill_null(False)).cast(pl.UInt8)


def invalid_value_error(field: str, got: str | None, date_format: str) -> tuple[str, str]:
    """What is amiss with a text that is no value of ``field``, and its kind."""
    if got is None:
        return f"{field} is missing", "missing"
    must = f"a day written {date_format}" if field == "Date" else _MUST[field]
    return f"{field} must be {must} (got {got[:40]})", _KIND[field]


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
"""Formats that are understood; a year of two digits is in this century."""


class AmbiguousDatesError(DataValidationError):
    """A column that more than one format fits, with different dates; ``formats``: which."""

    def __init__(self, formats: list[str], example: str) -> None:
        self.formats = formats
        super().__init__(
            f"dates such as {example} can be read as {' or '.join(formats)}: say which is meant"
        )


def date_formats(texts: Sequence[str]) -> list[str]:
    """Every format that fits each of ``texts``; empty where none does, or there is no text."""
    kinds = set(texts)
    if not kinds:
        return []
    return [name for name in DATE_FORMATS if all(_read(text, name) for text in kinds)]


def parse_dates(texts: Sequence[str], chosen: str) -> dict[str, date]:
    """The date of each different text that is one in the format ``chosen``.

    Raises ``BrokenRule`` for a format that is not in ``DATE_FORMATS``.
    """
    if chosen not in _PATTERNS:
        raise DataValidationError(
            f"no date format {chosen!r}; there are: {', '.join(DATE_FORMATS)}"
        )
    found = {text: _read(text, chosen) for text in set(texts)}
    return {text: day for text, day in found.items() if day}


def detect_date_format(texts: Sequence[str]) -> str:
    """The one format to read the column in; raises ``AmbiguousDates`` where it must be asked for.

    Texts that it does not fit are faults of their rows. Of formats that read the same texts to the
    same dates, the first will do. A format is ruled out by a text that only a rival can read, when
    no text speaks for it in turn.
    """
    read = {name: parse_dates(texts, name) for name in DATE_FORMATS}
    most = max(read, key=lambda name: len(read[name]))
    rivals = [name for name in DATE_FORMATS if _compete(read[most], read[name])]
    best = [name for name in rivals if not _ruled_out(name, rivals, read)]
    if all(read[name] == read[best[0]] for name in best):
        return best[0]
    example = next(
        text for text in texts if len({read[name].get(text, date.min) for name in best}) > 1
    )
    raise AmbiguousDatesError(best, example)


def _compete(one: Mapping[str, date], other: Mapping[str, date]) -> bool:
    """Whether two formats read some of the same texts (a format competes with itself)."""
    return one is other or not one.keys().isdisjoint(other)


def _ruled_out(name: str, rivals: list[str], read: Mapping[str, Mapping[str, date]]) -> bool:
    mine = read[name].keys()
    return any(mine < read[rival].keys() for rival in rivals)


def _read(text: str, name: str) -> date | None:
    match = re.fullmatch(_PATTERNS[name], text)
    if match is None:
        return None
    year = int(match["y"])
    try:
        return date(year + 2000 if len(match["y"]) == 2 else year, int(match["m"]), int(match["d"]))
    except ValueError:
        return None
