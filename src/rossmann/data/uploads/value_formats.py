"""Dates and numbers of a table, read by the whole column: formats, and their detection.

A weekday before a date must be its own; a time of midnight after it is dropped, with or without a
zone. Excel's serial numbers are recognized in order to be explained, not read: two calendars of
Excel differ by four years.

``6.000`` is 6 or 6,000: other values decide, or the file is refused as ambiguous. Spaces and
apostrophes between groups of three digits are always thousands separators.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import Final, Literal

import polars as pl

from rossmann.errors import DataValidationError

_MONTHS: Final = (
    *(("january", "januar"), ("february", "februar"), ("march", "märz", "maerz", "mrz")),
    *(("april",), ("may", "mai"), ("june", "juni"), ("july", "juli"), ("august",)),
    *(("september",), ("october", "oktober"), ("november",), ("december", "dezember")),
)
_WEEKDAYS: Final = (
    *(("monday", "montag"), ("tuesday", "dienstag"), ("wednesday", "mittwoch")),
    *(("thursday", "donnerstag"), ("friday", "freitag"), ("saturday", "samstag")),
    ("sunday", "sonntag"),
)
_WEEKDAY: Final = re.compile(r"([^\W\d_]{2,})[,.\s]+")
_DAY_MONTH: Final = r"(?P<d>[0-9]{1,2})\.?[- ](?P<m>[A-Za-zä]{3,9})\.?[- ]"
_PATTERNS: Final = {
    "YYYY-MM-DD": r"(?P<y>[0-9]{4})-(?P<m>[0-9]{1,2})-(?P<d>[0-9]{1,2})",
    "YYYY/MM/DD": r"(?P<y>[0-9]{4})/(?P<m>[0-9]{1,2})/(?P<d>[0-9]{1,2})",
    "YYYY.MM.DD": r"(?P<y>[0-9]{4})\.(?P<m>[0-9]{1,2})\.(?P<d>[0-9]{1,2})",
    "YYYYMMDD": r"(?P<y>(?:19|20)[0-9]{2})(?P<m>[0-9]{2})(?P<d>[0-9]{2})",
    "DD.MM.YYYY": r"(?P<d>[0-9]{1,2})\.(?P<m>[0-9]{1,2})\.(?P<y>[0-9]{4})",
    "DD.MM.YY": r"(?P<d>[0-9]{1,2})\.(?P<m>[0-9]{1,2})\.(?P<y>[0-9]{2})",
    "MM/DD/YYYY": r"(?P<m>[0-9]{1,2})/(?P<d>[0-9]{1,2})/(?P<y>[0-9]{4})",
    "DD/MM/YYYY": r"(?P<d>[0-9]{1,2})/(?P<m>[0-9]{1,2})/(?P<y>[0-9]{4})",
    "MM/DD/YY": r"(?P<m>[0-9]{1,2})/(?P<d>[0-9]{1,2})/(?P<y>[0-9]{2})",
    "DD/MM/YY": r"(?P<d>[0-9]{1,2})/(?P<m>[0-9]{1,2})/(?P<y>[0-9]{2})",
    "MM-DD-YYYY": r"(?P<m>[0-9]{1,2})-(?P<d>[0-9]{1,2})-(?P<y>[0-9]{4})",
    "DD-MM-YYYY": r"(?P<d>[0-9]{1,2})-(?P<m>[0-9]{1,2})-(?P<y>[0-9]{4})",
    "DD-Mon-YYYY": rf"{_DAY_MONTH}(?P<y>[0-9]{{4}})",
    "DD-Mon-YY": rf"{_DAY_MONTH}(?P<y>[0-9]{{2}})",
    "Mon-DD-YYYY": r"(?P<m>[A-Za-zä]{3,9})\.?[- ](?P<d>[0-9]{1,2}),?[- ](?P<y>[0-9]{4})",
}
DATE_FORMATS: Final = tuple(_PATTERNS)
"""Supported formats; a year of two digits is in this century. Mon: a month's English or German
name, short or in full."""
_SERIAL: Final = re.compile(r"[34567][0-9]{4}")
_SERIAL_ORIGIN: Final = date(1899, 12, 30)
_MIN_DIGITS: Final = 3
_MIN_LETTERS: Final = 3
MIDNIGHT: Final = (
    r"^(\S.*?)[ T](?:0?0:00(?::00(?:[.,]0+)?)?|12:00(?::00)? ?[aA][mM])"
    r"(?: ?(?:Z|UTC|GMT)|[+-][0-9]{2}:?[0-9]{2}| Uhr)?$"
)
"""A day and a time of midnight; the first group is the day."""
DecimalMark = Literal[".", ","]
DECIMAL_MARKS: Final[tuple[DecimalMark, ...]] = (".", ",")
_PLAIN: Final = r"^[+-]?[0-9]+$"
_AMBIGUOUS: Final = r"^[+-]?[1-9][0-9]{0,2}[.,][0-9]{3}$"
_SPACE: Final = "[ \u00a0\u202f'\u2019]"
_GROUP_SPACES: Final = rf"^[+-]?[0-9]{{1,3}}(?:{_SPACE}[0-9]{{3}})+(?:[.,][0-9]+)?$"
_OTHER: Final[dict[DecimalMark, DecimalMark]] = {".": ",", ",": "."}


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
    if re.search(r"[ T][0-9]{1,2}:[0-9]{2}", text):
        return f"{expected}; it has a time of day"
    if any(_parse_date(text, name) for name in DATE_FORMATS):
        return f"{expected}; all dates of a file must be written in one way"
    weekday, rest = split_weekday(text)
    if weekday is not None and any(_parse_date(rest, name) for name in DATE_FORMATS):
        return f"{expected}; that day is another weekday"
    if sum(letter.isdigit() for letter in text) < _MIN_DIGITS:
        return expected
    return f"{expected}; formats that are read: {', '.join(DATE_FORMATS)}"


def month_number(name: str) -> int | None:
    """The month of an English or German name, which may be cut after three letters."""
    folded = name.casefold()
    if len(folded) < _MIN_LETTERS:
        return None
    months = enumerate(_MONTHS, 1)
    return next((n for n, names in months if any(m.startswith(folded) for m in names)), None)


def split_weekday(text: str) -> tuple[int | None, str]:
    """The weekday at the beginning (Monday is 0), which may be cut after two letters; the rest."""
    match = _WEEKDAY.match(text)
    if match is None:
        return None, text
    word = match[1].casefold().replace("sonnabend", "samstag")
    for number, names in enumerate(_WEEKDAYS):
        if any(name.startswith(word) for name in names):
            return number, text[match.end() :]
    return None, text


def _overlap(one: Mapping[str, date], other: Mapping[str, date]) -> bool:
    """Whether two formats read some of the same texts; True for a format and itself."""
    return one is other or not one.keys().isdisjoint(other)


def _is_ruled_out(name: str, rivals: list[str], parsed: Mapping[str, Mapping[str, date]]) -> bool:
    texts = parsed[name].keys()
    return any(texts < parsed[rival].keys() for rival in rivals)


def _parse_date(text: str, date_format: str) -> date | None:
    weekday, rest = split_weekday(text)
    match = re.fullmatch(_PATTERNS[date_format], rest)
    if match is None:
        return None
    year, month = int(match["y"]), match["m"]
    number = int(month) if month.isdecimal() else month_number(month)
    try:
        day = date(year + 2000 if len(match["y"]) == 2 else year, number or 0, int(match["d"]))
    except ValueError:
        return None
    return day if weekday in (None, day.weekday()) else None


class AmbiguousNumbersError(DataValidationError):
    """Numbers that can be read with either decimal mark, such as ``example``.

    ``contradiction``: a number that has a decimal comma for certain, and one with a point.
    """

    def __init__(self, example: str, contradiction: Sequence[str] = ()) -> None:
        both = " and ".join(contradiction)
        if example:
            decimal = float(example.replace(",", "."))
            whole = int(example.replace(",", "").replace(".", ""))
            what = f"numbers such as {example} can be read as {decimal:g} or as {whole}"
            what += f" (the file has {both})" if both else ""
        else:
            what = f"the numbers have different decimal marks ({both})"
        super().__init__(f"{what}: say which decimal mark the file has, a point or a comma")


def detect_decimal_mark(
    columns: Iterable[pl.Series], hints: Iterable[pl.Series] = ()
) -> DecimalMark | None:
    """The decimal mark of text columns; None where no value depends on it.

    ``hints``: other columns of the file, asked only for a decimal comma. Raises
    ``AmbiguousNumbersError`` where values depend on it and no value decides, or values contradict.
    """
    ambiguous, evidence = "", dict[DecimalMark, str]()
    for column in columns:
        distinct = _without_group_spaces(column.drop_nulls().unique(maintain_order=True))
        marked = distinct.filter(distinct.str.contains(r"[.,]"))
        if not len(marked):
            continue
        for mark in DECIMAL_MARKS:
            decided = marked.filter(_decides(marked, mark))
            if len(decided):
                evidence.setdefault(mark, decided[0])
        found = marked.filter(marked.str.contains(_AMBIGUOUS))
        ambiguous = ambiguous or (found[0] if len(found) else "")
    if len(evidence) == 2:
        raise AmbiguousNumbersError(ambiguous, [evidence[","], evidence["."]])
    if evidence or not ambiguous:
        return next(iter(evidence), None)
    if any(_is_decimal_comma_column(column) for column in hints):
        return ","
    raise AmbiguousNumbersError(ambiguous)


def _decides(text: pl.Series, mark: DecimalMark) -> pl.Series:
    """Which values are numbers with that decimal mark and no others."""
    m, t = f"\\{mark}", f"\\{_OTHER[mark]}"
    fraction = rf"^[+-]?[0-9]*{m}[0-9]+$"
    grouped = rf"^[+-]?[1-9][0-9]{{0,2}}(?:(?:{t}[0-9]{{3}})+{m}[0-9]+|(?:{t}[0-9]{{3}}){{2,}})$"
    return (text.str.contains(fraction) & ~text.str.contains(_AMBIGUOUS)) | text.str.contains(
        grouped
    )


def _is_decimal_comma_column(column: pl.Series) -> bool:
    """Whether all values are numbers such as 12,5 or 1.234,50."""
    distinct = column.drop_nulls().unique()
    comma = distinct.str.contains(r"^[+-]?(?:[0-9]+|[1-9][0-9]{0,2}(?:\.[0-9]{3})+),[0-9]{1,2}$")
    return len(distinct) > 0 and bool(comma.all())


def _without_group_spaces(text: pl.Series) -> pl.Series:
    dense = text.str.replace_all(_SPACE, "")
    return text.zip_with(~text.str.contains(_GROUP_SPACES).fill_null(False), dense)


def plain_numbers(text: pl.Series, mark: DecimalMark | None) -> pl.Series:
    """Numbers with a decimal point and without thousands separators; other text stays as it is.

    Whole numbers lose a fraction of zeros, which other tools write where a column has gaps.
    """
    if not text.str.contains("[^0-9]").any():
        return text
    text = _without_group_spaces(text)
    if mark is not None:
        m, t = f"\\{mark}", f"\\{_OTHER[mark]}"
        grouped = rf"^[+-]?(?:[0-9]+|[1-9][0-9]{{0,2}}(?:{t}[0-9]{{3}})+)(?:{m}[0-9]+)?$"
        plain = text.str.replace_all(t, "").str.replace(m, ".")
        text = text.zip_with(~text.str.contains(grouped).fill_null(False), plain)
    return text.str.replace(r"^([+-]?[0-9]+)\.0+$", "$1")
