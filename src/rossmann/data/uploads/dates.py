"""Dates of a table: formats, and the detection of the one format of a column.

A time of midnight after a date is dropped, with or without a zone. Excel's serial numbers are
recognized in order to be explained, not read: two calendars of Excel differ by four years.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Final

from rossmann.errors import DataValidationError

_MONTHS: Final = {
    name: number
    for number, names in enumerate(
        ("jan", "feb", "mar mrz mär", "apr", "may mai", "jun", "jul", "aug", "sep", "oct okt",
         "nov", "dec dez"), 1)
    for name in names.split()
}  # fmt: skip
_PATTERNS: Final = {
    "YYYY-MM-DD": r"(?P<y>[0-9]{4})-(?P<m>[0-9]{2})-(?P<d>[0-9]{2})",
    "YYYY/MM/DD": r"(?P<y>[0-9]{4})/(?P<m>[0-9]{1,2})/(?P<d>[0-9]{1,2})",
    "YYYYMMDD": r"(?P<y>(?:19|20)[0-9]{2})(?P<m>[0-9]{2})(?P<d>[0-9]{2})",
    "DD.MM.YYYY": r"(?P<d>[0-9]{1,2})\.(?P<m>[0-9]{1,2})\.(?P<y>[0-9]{4})",
    "DD.MM.YY": r"(?P<d>[0-9]{1,2})\.(?P<m>[0-9]{1,2})\.(?P<y>[0-9]{2})",
    "MM/DD/YYYY": r"(?P<m>[0-9]{1,2})/(?P<d>[0-9]{1,2})/(?P<y>[0-9]{4})",
    "DD/MM/YYYY": r"(?P<d>[0-9]{1,2})/(?P<m>[0-9]{1,2})/(?P<y>[0-9]{4})",
    "MM/DD/YY": r"(?P<m>[0-9]{1,2})/(?P<d>[0-9]{1,2})/(?P<y>[0-9]{2})",
    "DD/MM/YY": r"(?P<d>[0-9]{1,2})/(?P<m>[0-9]{1,2})/(?P<y>[0-9]{2})",
    "DD-Mon-YYYY": r"(?P<d>[0-9]{1,2})[- ](?P<m>[A-Za-zä]{3})[- ](?P<y>[0-9]{4})",
    "DD-Mon-YY": r"(?P<d>[0-9]{1,2})[- ](?P<m>[A-Za-zä]{3})[- ](?P<y>[0-9]{2})",
}
DATE_FORMATS: Final = tuple(_PATTERNS)
"""Supported formats; a year of two digits is in this century."""
_SERIAL: Final = re.compile(r"[34567][0-9]{4}")
_SERIAL_ORIGIN: Final = date(1899, 12, 30)
MIDNIGHT: Final = (
    r"^(\S+?)[ T](?:0?0:00(?::00(?:[.,]0+)?)?|12:00(?::00)? ?[aA][mM])"
    r"(?: ?Z|[+-][0-9]{2}:?[0-9]{2})?$"
)
"""A day and a time of midnight; the first group is the day."""


class AmbiguousDatesError(DataValidationError):
    """A column that several ``formats`` fit, with different dates."""

    def __init__(self, formats: list[str], example: str) -> None:
        self.formats = formats
        super().__init__(
            f"dates such as {example} can be read as {' or '.join(formats)}: say which is meant"
        )


def parse_dates(texts: Sequence[str], date_format: str) -> dict[str, date]:
    """The date of each different text that is one in ``date_format``.

    Raises ``DataValidationError`` for a format that is not in ``DATE_FORMATS``, whatever its case.
    """
    name = next((n for n in DATE_FORMATS if n.casefold() == date_format.strip().casefold()), None)
    if name is None:
        raise DataValidationError(
            f"no date format {date_format!r}; there are: {', '.join(DATE_FORMATS)}"
        )
    dates = {text: _parse_date(text, name) for text in set(texts)}
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


def invalid_date_message(text: str, date_format: str) -> str:
    """What a text that is no date in ``date_format`` looks like, and what is expected."""
    expected = f"Date must be a day written {date_format} (got {text[:40]})"
    if _SERIAL.fullmatch(text):
        day = _SERIAL_ORIGIN + timedelta(days=int(text))
        return f"{expected}; it looks like Excel's number for {day}: format the column as a date"
    if re.match(r"\S+[ T][0-9]{1,2}:[0-9]{2}", text):
        return f"{expected}; it has a time of day"
    return expected


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
    year, month = int(match["y"]), match["m"]
    try:
        number = int(month) if month.isdecimal() else _MONTHS[month.lower()]
        return date(year + 2000 if len(match["y"]) == 2 else year, number, int(match["d"]))
    except (ValueError, KeyError):
        return None
