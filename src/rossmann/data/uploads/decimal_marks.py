"""Numbers of a table, read by the whole file: decimal mark and thousands separators.

``6.000`` is 6 or 6,000: other values decide, or the file is refused as ambiguous. Spaces and
apostrophes between groups of three digits are always thousands separators.
"""

from collections.abc import Iterable
from typing import Final, Literal

import polars as pl

from rossmann.errors import DataValidationError

DecimalMark = Literal[".", ","]
DECIMAL_MARKS: Final[tuple[DecimalMark, ...]] = (".", ",")
_PLAIN: Final = r"^[+-]?[0-9]+$"
_AMBIGUOUS: Final = r"^[+-]?[1-9][0-9]{0,2}[.,][0-9]{3}$"
_SPACE: Final = "[ \u00a0\u202f'\u2019]"
_GROUP_SPACES: Final = rf"^[+-]?[0-9]{{1,3}}(?:{_SPACE}[0-9]{{3}})+(?:[.,][0-9]+)?$"
_OTHER: Final[dict[DecimalMark, DecimalMark]] = {".": ",", ",": "."}


class AmbiguousNumbersError(DataValidationError):
    """Numbers that can be read with either decimal mark."""

    def __init__(self, example: str, reason: str = "") -> None:
        decimal = float(example.replace(",", "."))
        whole = int(example.replace(",", "").replace(".", ""))
        super().__init__(
            f"numbers such as {example} can be read as {decimal:g} or as {whole}{reason}: say"
            " which decimal mark the file has, a point or a comma"
        )


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
        values = " and ".join(evidence.values())
        raise AmbiguousNumbersError(ambiguous or evidence[","], f" (the file has {values})")
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
