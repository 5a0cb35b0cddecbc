"""Numbers and dates as people read and type them.

Numbers have one rounding, one locale and one currency on all pages (settings ``locale`` and
``currency``). Dates are read in any usual format, German or English, also as weeks.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from typing import Any, Final

import numpy as np
import polars as pl
import streamlit as st
from babel import Locale, UnknownLocaleError
from babel.numbers import (
    format_currency,
    format_decimal,
    get_currency_symbol,
    get_decimal_symbol,
    get_group_symbol,
    is_currency,
)
from streamlit.elements.lib.column_types import ColumnConfig

from rossmann.data.uploads.value_formats import month_number, split_weekday
from rossmann.errors import SettingsError
from rossmann.schema import FloatArray
from rossmann.settings import load_settings

_EXAMPLE: Final = 1_234_567
_NUMBERS = re.compile(r"(\d{1,4})\s*([-/. ])\s*(\d{1,2})\s*\2\s*(\d{1,4})")
_YEAR = r"(?:[.,\s]*(\d{4}|\d{2}))?"
_DAY_FIRST = re.compile(rf"(\d{{1,2}})(?:st|nd|rd|th)?[.\s]*([^\W\d]{{3,}}){_YEAR}")
_MONTH_FIRST = re.compile(
    r"([^\W\d]{3,})[.\s]*(\d{1,2})(?:st|nd|rd|th)?(?:(?:,|\s)\s*(\d{4}|\d{2}))?"
)
_DAY_AND_MONTH = re.compile(r"(\d{1,2})\.\s*(\d{1,2})\.")
_WEEK = re.compile(r"(?:kw|cw|week|woche|w)\s*(\d{1,2})(?:[\s/,.-]+(\d{4}))?")
_ISO_WEEK = re.compile(r"(\d{4})-?w(\d{2})")
_CLOCK = re.compile(r"[t\s]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?z?$")
AHEAD_DAYS: Final = 48
"""A day without a year is the next one where that is at most so many days away."""
YearMonthDay = tuple[int, int, int]


def round_sales(values: FloatArray) -> FloatArray:
    """Whole units, a half to the even one; NaN stays. Totals are sums of what this returns."""
    return np.rint(values)


@dataclass(frozen=True)
class NumberFormat:
    """Formats numbers in one locale. ``currency``: an ISO code, or empty for plain numbers."""

    locale: Locale
    currency: str

    def whole(self, value: float) -> str:
        """A number without decimals: 12,210."""
        return str(format_decimal(round(value), "#,##0", locale=self.locale))

    def money(self, value: float) -> str:
        """Sales, with the currency where one is set: 12,210 or €12,210."""
        if not self.currency:
            return self.whole(value)
        # The locale's own pattern, without its decimals.
        pattern = self.locale.currency_formats["standard"].pattern.split(";")[0]
        pattern = pattern.replace(".00", "")
        return str(
            format_currency(
                round(value), self.currency, pattern, locale=self.locale, currency_digits=False
            )
        )

    def signed(self, value: float) -> str:
        """A difference of sales: +712, -256."""
        return str(format_decimal(round(value), "+#,##0;-#,##0", locale=self.locale))

    def percent(self, share: float, decimals: int = 0) -> str:
        """A share in per cent: 6 %."""
        digits = "0." + "0" * decimals if decimals else "0"
        return f"{format_decimal(100 * share, digits, locale=self.locale)} %"

    def signed_percent(self, percent: float) -> str:
        """A change in per cent, with one decimal: +8.5 %."""
        rounded = round(percent, 1) + 0.0  # no minus before zero
        return f"{format_decimal(rounded, '+0.0;-0.0', locale=self.locale)} %"

    def unit(self, label: str) -> str:
        """A label of sales, with the currency where one is set: Total forecast (EUR)."""
        return f"{label} ({self.currency})" if self.currency else label

    @property
    def is_plain_english(self) -> bool:
        """Whether whole numbers look as a table column of the browser writes them by itself."""
        return self.whole(_EXAMPLE) == f"{_EXAMPLE:,}"

    def chart_locale(self) -> dict[str, Any]:
        """``locale`` of a Vega-Lite configuration."""
        symbol = get_currency_symbol(self.currency, self.locale) if self.currency else ""
        number = {
            "decimal": get_decimal_symbol(self.locale),
            "thousands": get_group_symbol(self.locale),
            "grouping": [3],
            "currency": [symbol, ""],
        }
        return {"number": number}


def number_format() -> NumberFormat:
    """The format that the settings name; raises ``SettingsError`` for an unknown one."""
    settings = load_settings()
    return _number_format(settings.locale, settings.currency)


@lru_cache(maxsize=8)
def _number_format(name: str, currency: str) -> NumberFormat:
    try:
        locale = Locale.parse(name.replace("-", "_"))
    except (UnknownLocaleError, ValueError) as error:
        raise SettingsError(
            f"locale: {name} is no known locale; write one such as en, de or de_CH"
        ) from error
    if currency and not is_currency(currency):
        raise SettingsError(f"currency: {currency} is no ISO code; write one such as EUR")
    return NumberFormat(locale, currency)


def show_table(
    table: pl.DataFrame, numbers: Sequence[str], labels: Mapping[str, str] | None = None
) -> None:
    """Draw a table whose columns ``numbers`` are whole numbers; ``labels``: of some columns.

    The browser would format numbers by its own language. English ones have a fixed format there;
    for another locale the columns are text, padded so that sorting goes by value.
    """
    formats = number_format()
    labels = labels or {}
    if formats.is_plain_english:
        config: dict[str, ColumnConfig] = {
            name: st.column_config.NumberColumn(labels.get(name), format="%,d") for name in numbers
        }
    else:
        table = table.with_columns(_as_text(table[name], formats) for name in numbers)
        config = {
            name: st.column_config.TextColumn(labels.get(name), alignment="right")
            for name in numbers
        }
    for name in set(labels) & set(table.columns) - set(numbers):
        config[name] = st.column_config.Column(labels[name])
    st.dataframe(table, hide_index=True, width="stretch", column_config=config)


def _as_text(column: pl.Series, formats: NumberFormat) -> pl.Series:
    texts = [None if value is None else formats.whole(value) for value in column.to_list()]
    width = max((len(text) for text in texts if text is not None), default=0)
    padded = [None if text is None else text.rjust(width) for text in texts]
    return pl.Series(column.name, padded, dtype=pl.String)


def parse_date_candidates(text: str, today: date | None = None) -> list[date]:
    """Every date that ``text`` can mean: none, one, two, or the seven days of a week.

    Accepts 2015-08-01, 08/01/2015, 08/01/15, 01.08.2015, 20150801, 1 August 2015, Aug 1, 2015,
    also with a German or English weekday before it or a time of day after it; and weeks, as KW 32,
    week 32 2015, 2015-W32. ``today``: the first day that can be planned, for a day or week without
    a year: the next such one, or where that is far off, the one before it too. A weekday that
    contradicts its date leaves no candidate.
    """
    reference = today or date.today()
    plain = _CLOCK.sub("", text.strip().lower())
    weekday, rest = split_weekday(plain)
    candidates: list[date] = []
    for candidate in [*_days(rest, reference), *_week_days(rest, reference)]:
        if candidate not in candidates and weekday in (None, candidate.weekday()):
            candidates.append(candidate)
    return candidates


def is_week(text: str) -> bool:
    """Whether the text names a week rather than a day."""
    rest = split_weekday(text.strip().lower())[1]
    return bool(_WEEK.fullmatch(rest) or _ISO_WEEK.fullmatch(rest))


def contradicted_date(text: str, today: date | None = None) -> date | None:
    """The date of a text whose weekday is another one; None where there is no such date."""
    weekday, rest = split_weekday(text.strip().lower())
    if weekday is None or parse_date_candidates(text, today):
        return None
    return next(iter(parse_date_candidates(rest, today)), None)


def _days(text: str, today: date) -> Iterator[date]:
    for year, month, day in _year_month_days(text):
        if year:
            yield from _valid(year, month, day)
            continue
        # 29 February: the nearest leap years are at most eight years off.
        years = range(today.year - 8, today.year + 9)
        days = [found for year in years for found in _valid(year, month, day)]
        yield from _nearest(days, today)


def _week_days(text: str, today: date) -> Iterator[date]:
    """The days of a week; without a year, those of the nearest week of that number."""
    if match := _ISO_WEEK.fullmatch(text):
        year, week = int(match[1]), int(match[2])
    elif match := _WEEK.fullmatch(text):
        year, week = int(match[2] or 0), int(match[1])
    else:
        return
    years = [year] if year else range(today.year - 6, today.year + 7)
    mondays = [monday for number in years for monday in _monday(number, week)]
    if not year:
        # The week that today is in has not passed.
        mondays = _nearest(mondays, today - timedelta(days=today.weekday()))
    for monday in mondays:
        yield from (monday + timedelta(days=i) for i in range(7))


def _monday(year: int, week: int) -> Iterator[date]:
    try:
        yield date.fromisocalendar(year, week, 1)
    except ValueError:
        return


def _valid(year: int, month: int, day: int) -> Iterator[date]:
    try:
        yield date(year, month, day)
    except ValueError:
        return


def _nearest(days: list[date], today: date) -> list[date]:
    """The next of the days, after the last one before it where the next is far off."""
    ahead = [day for day in days if day >= today][:1]
    if ahead and (ahead[0] - today).days < AHEAD_DAYS:
        return ahead
    return [*[day for day in days if day < today][-1:], *ahead]


def _year_month_days(text: str) -> list[YearMonthDay]:
    """Year, month and day of every reading; the year is 0 where the text has none."""
    if re.fullmatch(r"\d{8}", text) and not text.startswith("0000"):
        return [(int(text[:4]), int(text[4:6]), int(text[6:]))]
    if match := _NUMBERS.fullmatch(text):
        first, separator, second, third = match.groups()
        return _parse_numeric(first, separator, second, third)
    if match := _DAY_AND_MONTH.fullmatch(text):
        return [(0, int(match[2]), int(match[1]))]
    if match := _DAY_FIRST.fullmatch(text):
        return _parse_month_name(match[3], match[2], match[1])
    if match := _MONTH_FIRST.fullmatch(text):
        return _parse_month_name(match[3], match[1], match[2])
    return []


def _parse_numeric(first: str, separator: str, second: str, third: str) -> list[YearMonthDay]:
    if len(first) == 4:
        return [] if first == "0000" else [(int(first), int(second), int(third))]
    if len(first) > 2 or len(third) not in (2, 4) or third == "0000":
        return []
    month_first = (_year(third), int(first), int(second))
    day_first = (_year(third), int(second), int(first))
    # With full stops the day always comes first; with slashes and dashes usage differs.
    return [day_first] if separator == "." else [month_first, day_first]


def _parse_month_name(year: str | None, month: str, day: str) -> list[YearMonthDay]:
    number = month_number(month)
    return [(_year(year) if year else 0, number, int(day))] if number else []


def _year(text: str) -> int:
    return int(text) + 2000 if len(text) == 2 else int(text)


def long_date(day: date) -> str:
    """A date in full: Saturday 1 August 2015."""
    return f"{day:%A} {day.day} {day:%B %Y}"


def short_date(day: date) -> str:
    """A date with short names: Sat 1 Aug 2015."""
    return f"{day:%a} {day.day} {day:%b %Y}"
