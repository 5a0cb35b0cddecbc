"""What an uploaded table's fields may hold: one set of rules, for whole tables and for parts."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Final

import polars as pl

from rossmann.data.upload_tables import plain
from rossmann.errors import BrokenRule
from rossmann.schema import STATE_HOLIDAYS

FIELDS: Final = ("Store", "Date", "Open", "Promo", "StateHoliday", "SchoolHoliday")
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
    found = {field: spellings(columns, field) for field in FIELDS}
    missing = [field for field, named in found.items() if not named]
    if missing:
        there = ", ".join(columns) or "none"
        raise BrokenRule(f"{name} lacks the columns {', '.join(missing)}; it has: {there}")
    for field, named in found.items():
        if len(named) > 1:
            raise BrokenRule(f"{name} has the column {field} more than once: {', '.join(named)}")
    return {field: named[0] for field, named in found.items()}


def spellings(columns: Sequence[str], field: str) -> list[str]:
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
    return plain(column).str.replace(r"^([0-9]+)\.0+$", "$1")


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


def usual_open(weekday: pl.Expr, holiday: pl.Expr) -> pl.Expr:
    """Open where nothing is said: all but Sundays (7) and holidays; from the row alone."""
    closed = (weekday == 7) | (holiday > 0)
    return (~closed.fill_null(False)).cast(pl.UInt8)


def wrong(field: str, got: str | None, date_format: str) -> tuple[str, str]:
    """What is amiss with a text that is no value of ``field``, and its kind."""
    if got is None:
        return f"{field} is missing", "missing"
    must = f"a day written {date_format}" if field == "Date" else _MUST[field]
    return f"{field} must be {must} (got {got[:40]})", _KIND[field]
