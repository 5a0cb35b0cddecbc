"""How a column of dates is written: one format for all of it, never a guess for one row."""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Final

from rossmann.errors import BrokenRule

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


class AmbiguousDates(BrokenRule):
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
        raise BrokenRule(f"no date format {chosen!r}; there are: {', '.join(DATE_FORMATS)}")
    found = {text: _read(text, chosen) for text in set(texts)}
    return {text: day for text, day in found.items() if day}


def settle_format(texts: Sequence[str]) -> str:
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
    raise AmbiguousDates(best, example)


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
