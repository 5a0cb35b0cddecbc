"""Altair charts: sales and forecasts by day, drivers, totals by day, accuracy.

Columns of the charts' data have the names that people read under "Show data". All values are whole
numbers already; charts format them by the locale of ``number_format``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any, Final

import altair as alt
import pandas  # noqa: F401 -- whole before any chart: Altair takes one that a thread still imports
import polars as pl
import streamlit as st

from rossmann.dashboard.shared.formats import number_format

SOLD: Final = "Sold"
FORECAST: Final = "Forecast"
SELECTED: Final = "The day you asked for"
PLAIN_DAY: Final = "A plain day"
INCREASE: Final = "Sells more"
DECREASE: Final = "Sells less"
_SLATE, _TEAL, _ORANGE, _RED = "#64748b", "#0f766e", "#fb923c", "#c2410c"
_DAY_COLOURS = {SOLD: _SLATE, FORECAST: _ORANGE, SELECTED: _RED}
_STEP_COLOURS = {PLAIN_DAY: _SLATE, INCREASE: _TEAL, DECREASE: _ORANGE, SELECTED: _RED}
_LOW, _HIGH = "80 % from", "80 % to"
_DAY_FORMAT = "%a %-d %b %Y"
_BAR_START, _BAR_END = -10, 10
"""Hours from midnight at which a day's bar starts and ends: the axis has its name at midnight."""
Chart = alt.Chart | alt.LayerChart | alt.FacetChart


@dataclass(frozen=True, slots=True)
class _Palette:
    """Colours that depend on the background."""

    background: str
    text: str
    label: str
    highlight: str


_LIGHT = _Palette(background="white", text="#334155", label="#475569", highlight="#7c2d12")
_DARK = _Palette(background="#0f172a", text="#e2e8f0", label="#cbd5e1", highlight="#fed7aa")


def _palette() -> _Palette:
    return _DARK if st.context.theme.type == "dark" else _LIGHT


def _configure(chart: Chart) -> Chart:
    """The locale of numbers, and labels that are dark (or light) enough to read."""
    label = _palette().label
    configured: Chart = (
        chart.configure(locale=number_format().chart_locale())
        .configure_axis(labelColor=label, titleColor=label)
        .configure_legend(labelColor=label)
    )
    return configured


@dataclass(frozen=True, slots=True)
class Day:
    """One bar of ``store_chart``; ``sales`` is None where they are unknown."""

    day: date
    kind: str
    sales: float | None
    low: float | None
    high: float | None
    open: bool
    promo: bool


def store_chart(days: Sequence[Day], last_known: date | None) -> Chart:
    """Past sales, and forecasts with their 80 % range.

    Days with a promotion are opaque, the others lighter. A line marks the end of ``last_known``,
    the last day whose sales the forecast knows. The selected day is labelled with its forecast.
    """
    base = _with_bar_times(alt.Chart(_day_table(days)))
    sold = base.transform_filter(alt.datum.What == SOLD)
    forecast = base.transform_filter(alt.datum.What != SOLD)
    layers = [_bars(sold, _sold_tooltip()), _bars(forecast, _forecast_tooltip())]
    layers.append(_intervals(forecast))
    if last_known is not None:
        layers.append(_origin_line(last_known))
    # Drawn twice: an outline keeps the number readable over bars and ranges.
    palette = _palette()
    layers += [
        _label(forecast, stroke=palette.background, strokeWidth=5),
        _label(forecast, color=palette.highlight),
    ]
    return _configure(alt.layer(*layers).properties(height=330))


def _day_table(days: Sequence[Day]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "Day": [day.day for day in days],
            "What": [day.kind for day in days],
            "Sales": [day.sales for day in days],
            _LOW: [day.low for day in days],
            _HIGH: [day.high for day in days],
            "Open": ["yes" if day.open else "no" for day in days],
            "Promotion": ["yes" if day.promo else "no" for day in days],
        },
        schema_overrides={"Sales": pl.Float64, _LOW: pl.Float64, _HIGH: pl.Float64},
    )


def _sold_tooltip() -> list[alt.Tooltip]:
    return [
        alt.Tooltip("Day:T", format=_DAY_FORMAT),
        alt.Tooltip("Sales:Q", title="Sold", format=",.0f"),
        alt.Tooltip("Promotion:N"),
    ]


def _forecast_tooltip() -> list[alt.Tooltip]:
    return [
        alt.Tooltip("Day:T", format=_DAY_FORMAT),
        alt.Tooltip("Sales:Q", title=FORECAST, format=",.0f"),
        alt.Tooltip(f"{_LOW}:Q", format=",.0f"),
        alt.Tooltip(f"{_HIGH}:Q", format=",.0f"),
        alt.Tooltip("Promotion:N"),
    ]


@dataclass(frozen=True, slots=True)
class Step:
    """One bar of ``driver_chart``; ``percent`` is None for the baseline and the forecast."""

    label: str
    kind: str
    start: float
    end: float
    percent: float | None

    @property
    def words(self) -> str:
        """The bar's label: sales, for a driver with its per cent.

        A driver's sales are the difference of the rounded ends, so that the labels add up.
        """
        formats = number_format()
        if self.percent is None:
            return formats.whole(self.end)
        sales = round(self.end) - round(self.start)
        return f"{formats.signed_percent(self.percent)} ({formats.signed(sales)})"


def driver_chart(steps: Sequence[Step]) -> Chart:
    """Waterfall chart of sales, top to bottom: each bar starts where the one above it ends."""
    frame = pl.DataFrame(
        {
            "Driver": [step.label for step in steps],
            "Kind": [step.kind for step in steps],
            "From": [round(step.start) for step in steps],
            "To": [round(step.end) for step in steps],
            "Effect": [step.words for step in steps],
        }
    )
    base = alt.Chart(frame).encode(
        y=alt.Y(
            "Driver:N",
            title=None,
            sort=None,
            axis=alt.Axis(labelLimit=230, labelFontSize=12, ticks=False, domain=False),
        ),
        tooltip=[alt.Tooltip("Driver:N"), alt.Tooltip("Effect:N", title="Sales")],
    )
    max_sales = max(max(step.start, step.end) for step in steps)
    # Space on the right for the label of the longest bar.
    scale = alt.Scale(domain=[0, 2.0 * max_sales], nice=False)
    bars = base.mark_bar(cornerRadius=2, height=18).encode(
        x=alt.X("From:Q", axis=None, scale=scale),
        x2="To:Q",
        color=alt.Color(
            "Kind:N",
            scale=alt.Scale(domain=list(_STEP_COLOURS), range=list(_STEP_COLOURS.values())),
            legend=None,
        ),
    )
    labels = (
        base.transform_calculate(right="max(datum.From, datum.To)")
        .mark_text(align="left", dx=6, fontSize=12, color=_palette().text)
        .encode(x=alt.X("right:Q", axis=None, scale=scale), text="Effect:N")
    )
    return _configure(alt.layer(bars, labels).properties(height=28 * len(steps)))


def _with_bar_times(chart: alt.Chart) -> alt.Chart:
    """Adds start, middle and end of a day's bar on the time axis."""
    timed: alt.Chart = chart.transform_calculate(
        start=f"time(datum.Day) + {_BAR_START} * 3600000",
        middle="time(datum.Day)",
        end=f"time(datum.Day) + {_BAR_END} * 3600000",
    )
    return timed


def _day_axis(field: str) -> alt.X:
    return alt.X(f"{field}:T", title=None, axis=alt.Axis(format="%-d %b", tickCount=10, grid=False))


def _bars(base: alt.Chart, tooltip: list[alt.Tooltip]) -> alt.Chart:
    kinds = list(_DAY_COLOURS)
    bars: alt.Chart = (
        base.transform_calculate(full=f"datum.Promotion == 'yes' || datum.What == '{SELECTED}'")
        .mark_bar(cornerRadiusTopLeft=2, cornerRadiusTopRight=2)
        .encode(
            x=_day_axis("start"),
            x2="end:T",
            y=alt.Y(
                "Sales:Q", title=number_format().unit("Sales a day"), axis=alt.Axis(format=",.0f")
            ),
            y2=alt.Y2Datum(0),
            color=alt.Color(
                "What:N",
                scale=alt.Scale(domain=kinds, range=[_DAY_COLOURS[kind] for kind in kinds]),
                legend=alt.Legend(title=None, orient="top"),
            ),
            opacity=alt.Opacity(
                "full:N", scale=alt.Scale(domain=[True, False], range=[1.0, 0.5]), legend=None
            ),
            tooltip=tooltip,
        )
    )
    return bars


def _intervals(base: alt.Chart) -> alt.Chart:
    intervals: alt.Chart = (
        base.transform_filter(f"datum['{_HIGH}'] > 0")
        .mark_rule(color=_palette().highlight, strokeWidth=1.5)
        .encode(x=_day_axis("middle"), y=f"{_LOW}:Q", y2=f"{_HIGH}:Q", tooltip=_forecast_tooltip())
    )
    return intervals


def _label(base: alt.Chart, **style: Any) -> alt.Chart:
    label: alt.Chart = (
        base.transform_filter(alt.datum.What == SELECTED)
        .transform_calculate(top=f"max(datum['{_HIGH}'], datum.Sales)")
        .mark_text(dy=-10, fontSize=14, fontWeight="bold", **style)
        .encode(
            x=_day_axis("middle"),
            y="top:Q",
            text=alt.Text("Sales:Q", format=",.0f"),
            tooltip=_forecast_tooltip(),
        )
    )
    return label


def _origin_line(last_known: date) -> alt.Chart:
    frame = pl.DataFrame({"Day": [datetime.combine(last_known, time(12))]})
    line: alt.Chart = (
        alt.Chart(frame)
        .transform_calculate(text="'Sales are known to here'")
        .mark_rule(strokeDash=[4, 4], color="#94a3b8")
        .encode(x=alt.X("Day:T"), tooltip=[alt.Tooltip("text:N", title=" ")])
    )
    return line


def totals_chart(frame: pl.DataFrame) -> Chart:
    """Total forecast per day. ``frame`` has a row per day: Day, Total forecast, Stores open."""
    chart: alt.Chart = (
        _with_bar_times(alt.Chart(frame))
        .mark_bar(color=_TEAL, cornerRadiusTopLeft=2, cornerRadiusTopRight=2)
        .encode(
            x=_day_axis("start"),
            x2="end:T",
            y=alt.Y(
                "Total forecast:Q",
                title=number_format().unit("Forecast, all stores"),
                axis=alt.Axis(format=",.0f"),
            ),
            y2=alt.Y2Datum(0),
            tooltip=[
                alt.Tooltip("Day:T", format=_DAY_FORMAT),
                alt.Tooltip("Total forecast:Q", title="Forecast", format=",.0f"),
                alt.Tooltip("Stores open:Q", format=",.0f"),
            ],
        )
        .properties(height=280)
    )
    return _configure(chart)


def accuracy_chart(scores: dict[str, float]) -> Chart:
    """RMSPE by forecaster, smallest on top; the bar of the first, our model, is coloured."""
    formats = number_format()
    frame = pl.DataFrame(
        {
            "Forecast by": list(scores),
            "RMSPE": list(scores.values()),
            "Error": [formats.percent(score, 1) for score in scores.values()],
        }
    )
    base = alt.Chart(frame).encode(
        x=alt.X("RMSPE:Q", title=None, axis=None),
        y=alt.Y(
            "Forecast by:N", title=None, sort="x", axis=alt.Axis(labelLimit=220, labelFontSize=13)
        ),
        tooltip=[alt.Tooltip("Forecast by:N"), alt.Tooltip("Error:N", title="RMSPE")],
    )
    ours = alt.datum["Forecast by"] == next(iter(scores))
    bars = base.mark_bar(cornerRadiusEnd=3, height=26).encode(
        color=alt.condition(ours, alt.value(_TEAL), alt.value("#cbd5e1"))
    )
    numbers = base.mark_text(align="left", dx=6, fontSize=13, color=_palette().text).encode(
        text="Error:N"
    )
    return _configure(alt.layer(bars, numbers).properties(height=46 * len(scores)))
