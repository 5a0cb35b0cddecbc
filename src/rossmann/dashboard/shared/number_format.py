"""Number format of all pages: one rounding, one locale, one currency (``locale``, ``currency``)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

from rossmann.errors import SettingsError
from rossmann.schema import FloatArray
from rossmann.settings import load_settings

_EXAMPLE: Final = 1_234_567


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
