"""Altair charts: sales and forecasts by day, drivers, totals by day, accuracy."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import Any

import altair as alt
import polars as pl

SOLD = "Sold"
FORECAST = "Forecast"
SELECTED = "The day you asked for"
_DAY_COLOURS = {SOLD: "#64748b", FORECAST: "#fb923c", SELECTED: "#c2410c"}
_TEAL = "#0f766e"
PLAIN_DAY = "A plain day"
INCREASE = "Sells more"
DECREASE = "Sells less"
_STEP_COLOURS = {PLAIN_DAY: "#64748b", INCREASE: _TEAL, DECREASE: "#fb923c", SELECTED: "#c2410c"}


@dataclass(frozen=True, slots=True)
class Day:
    """One bar of ``store_chart``; ``sales`` is None where they are unknown."""

    day: date
    kind: str
    sales: float | None
    low: float | None
    high: float | None
    note: str
    promo: bool


def store_chart(days: Sequence[Day], last_known: date | None) -> alt.LayerChart | alt.FacetChart:
    """Past sales, and forecasts with their 80 % range.

    Days with a promotion are opaque, the others lighter. A line marks the end of ``last_known``,
    the last day whose sales the forecast knows. The selected day is labelled with its forecast.
    """
    frame = pl.DataFrame([asdict(day) for day in days]).with_columns(
        *_bar_times(),
        pl.col("day").dt.strftime("%a %d %b %Y").alias("label"),
        pl.when("promo").then(pl.lit("yes")).otherwise(pl.lit("no")).alias("promotion"),
        (pl.col("promo") | (pl.col("kind") == SELECTED)).alias("full"),
    )
    base = alt.Chart(frame).encode(
        x=_day_axis("noon"),
        tooltip=[
            alt.Tooltip("label:N", title="Day"),
            alt.Tooltip("kind:N", title="What"),
            alt.Tooltip("sales:Q", title="Sales", format=",.0f"),
            alt.Tooltip("low:Q", title="80 %: from", format=",.0f"),
            alt.Tooltip("high:Q", title="80 %: to", format=",.0f"),
            alt.Tooltip("promotion:N", title="Promotion"),
            alt.Tooltip("note:N", title="Note"),
        ],
    )
    layers = [_bars(base), _intervals(base)]
    if last_known is not None:
        layers.append(_origin_line(last_known))
    # Drawn twice: a white outline keeps the number readable over bars and ranges.
    layers += [_label(base, stroke="white", strokeWidth=5), _label(base, color="#7c2d12")]
    return alt.layer(*layers).properties(height=330)


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
        """The bar's label: sales, for a driver with its per cent."""
        if self.percent is None:
            return f"{self.end:,.0f}"
        return f"{self.percent:+.1f} % ({self.end - self.start:+,.0f})"


def driver_chart(steps: Sequence[Step]) -> alt.LayerChart | alt.FacetChart:
    """Waterfall chart of sales, top to bottom: each bar starts where the one above it ends."""
    frame = pl.DataFrame(
        [asdict(step) | {"words": step.words, "right": max(step.start, step.end)} for step in steps]
    )
    base = alt.Chart(frame).encode(
        y=alt.Y(
            "label:N",
            title=None,
            sort=None,
            axis=alt.Axis(labelLimit=230, labelFontSize=12, ticks=False, domain=False),
        ),
        tooltip=[alt.Tooltip("label:N", title="What"), alt.Tooltip("words:N", title="Sales")],
    )
    max_sales = max(max(step.start, step.end) for step in steps)
    # Space on the right for the label of the longest bar.
    scale = alt.Scale(domain=[0, 2.0 * max_sales], nice=False)
    bars = base.mark_bar(cornerRadius=2, height=18).encode(
        x=alt.X("start:Q", axis=None, scale=scale),
        x2="end:Q",
        color=alt.Color(
            "kind:N",
            scale=alt.Scale(domain=list(_STEP_COLOURS), range=list(_STEP_COLOURS.values())),
            legend=None,
        ),
    )
    labels = base.mark_text(align="left", dx=6, fontSize=12, color="#334155").encode(
        x=alt.X("right:Q", axis=None, scale=scale), text="words:N"
    )
    return alt.layer(bars, labels).properties(height=28 * len(steps))


def _bar_times(day: str = "day") -> list[pl.Expr]:
    """Middle, start and end of a day's bar on the time axis."""
    noon = pl.col(day).cast(pl.Datetime("ms")) + timedelta(hours=12)
    half = timedelta(hours=10)
    return [noon.alias("noon"), (noon - half).alias("start"), (noon + half).alias("end")]


def _day_axis(field: str) -> alt.X:
    return alt.X(f"{field}:T", title=None, axis=alt.Axis(format="%-d %b", tickCount=10, grid=False))


def _bars(base: alt.Chart) -> alt.Chart:
    kinds = list(_DAY_COLOURS)
    bars: alt.Chart = base.mark_bar(cornerRadiusTopLeft=2, cornerRadiusTopRight=2).encode(
        x=_day_axis("start"),
        x2="end:T",
        y=alt.Y("sales:Q", title="Sales a day", axis=alt.Axis(format=",.0f")),
        y2=alt.Y2Datum(0),
        color=alt.Color(
            "kind:N",
            scale=alt.Scale(domain=kinds, range=[_DAY_COLOURS[kind] for kind in kinds]),
            legend=alt.Legend(title=None, orient="top"),
        ),
        opacity=alt.Opacity(
            "full:N", scale=alt.Scale(domain=[True, False], range=[1.0, 0.5]), legend=None
        ),
    )
    return bars


def _intervals(base: alt.Chart) -> alt.Chart:
    intervals: alt.Chart = (
        base.transform_filter("isValid(datum.low) && datum.high > 0")
        .mark_rule(color="#7c2d12", strokeWidth=1.5)
        .encode(y="low:Q", y2="high:Q")
    )
    return intervals


def _label(base: alt.Chart, **style: Any) -> alt.Chart:
    label: alt.Chart = (
        base.transform_filter(alt.datum.kind == SELECTED)
        .transform_calculate(top="isValid(datum.high) ? datum.high : datum.sales")
        .mark_text(dy=-10, fontSize=14, fontWeight="bold", **style)
        .encode(y="top:Q", text=alt.Text("sales:Q", format=",.0f"))
    )
    return label


def _origin_line(last_known: date) -> alt.Chart:
    day = last_known + timedelta(days=1)
    frame = pl.DataFrame({"day": [day], "text": ["Sales are known to here"]})
    line: alt.Chart = (
        alt.Chart(frame)
        .mark_rule(strokeDash=[4, 4], color="#94a3b8")
        .encode(x=alt.X("day:T"), tooltip=[alt.Tooltip("text:N", title=" ")])
    )
    return line


def totals_chart(frame: pl.DataFrame) -> alt.Chart:
    """Total forecast per day. ``frame`` has a row per day: day (date), total, stores."""
    chart: alt.Chart = (
        alt.Chart(frame.with_columns(_bar_times()))
        .mark_bar(color=_TEAL, cornerRadiusTopLeft=2, cornerRadiusTopRight=2)
        .encode(
            x=_day_axis("start"),
            x2="end:T",
            y=alt.Y("total:Q", title="Forecast, all stores", axis=alt.Axis(format="~s")),
            y2=alt.Y2Datum(0),
            tooltip=[
                alt.Tooltip("day:T", title="Day", format="%a %d %b %Y"),
                alt.Tooltip("total:Q", title="Forecast", format=",.0f"),
                alt.Tooltip("stores:Q", title="Stores open"),
            ],
        )
        .properties(height=280)
    )
    return chart


def accuracy_chart(scores: dict[str, float]) -> alt.LayerChart | alt.FacetChart:
    """RMSPE by forecaster, smallest on top; the bar of the first, our model, is coloured."""
    frame = pl.DataFrame(
        {
            "who": list(scores),
            "error": list(scores.values()),
            "ours": [index == 0 for index in range(len(scores))],
        }
    )
    base = alt.Chart(frame).encode(
        x=alt.X("error:Q", title=None, axis=None),
        y=alt.Y("who:N", title=None, sort="x", axis=alt.Axis(labelLimit=220, labelFontSize=13)),
        tooltip=[
            alt.Tooltip("who:N", title="Forecast by"),
            alt.Tooltip("error:Q", title="RMSPE", format=".1%"),
        ],
    )
    bars = base.mark_bar(cornerRadiusEnd=3, height=26).encode(
        color=alt.condition("datum.ours", alt.value(_TEAL), alt.value("#cbd5e1"))
    )
    numbers = base.mark_text(align="left", dx=6, fontSize=13).encode(
        text=alt.Text("error:Q", format=".1%")
    )
    return alt.layer(bars, numbers).properties(height=46 * len(scores))
