"""The pictures: sales as bars, forecasts in another colour, with their range."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import Any

import altair as alt
import polars as pl

SOLD = "Sold"
FORECAST = "Forecast"
CHOSEN = "The day you asked for"
_COLOURS = {SOLD: "#64748b", FORECAST: "#fb923c", CHOSEN: "#c2410c"}
_BAR = "#0f766e"
PLAIN = "A plain day"
MORE = "Sells more"
LESS = "Sells less"
_STEPS = {PLAIN: "#64748b", MORE: _BAR, LESS: "#fb923c", CHOSEN: "#c2410c"}


@dataclass(frozen=True, slots=True)
class Day:
    """One bar of the store's chart; ``sales`` is None where nothing is known."""

    day: date
    kind: str
    sales: float | None
    low: float | None
    high: float | None
    note: str
    promo: bool


def store_chart(days: Sequence[Day], ends: date | None) -> alt.LayerChart | alt.FacetChart:
    """Sales of the days before, and forecasts with their 80 % range from the day after ``ends``.

    Days with a promotion are drawn full, the others lighter. ``ends`` is the last day whose sales
    the forecast has seen: a line marks it. The chosen day carries its number.
    """
    frame = pl.DataFrame([asdict(day) for day in days]).with_columns(
        *_span(),
        pl.col("day").dt.strftime("%a %d %b %Y").alias("label"),
        pl.when("promo").then(pl.lit("yes")).otherwise(pl.lit("no")).alias("promotion"),
        (pl.col("promo") | (pl.col("kind") == CHOSEN)).alias("full"),
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
    layers = [_bars(base), _ranges(base)]
    if ends is not None:
        layers.append(_border(ends))
    # Twice: a white rim keeps the number readable before bars and ranges.
    layers += [_number(base, stroke="white", strokeWidth=5), _number(base, color="#7c2d12")]
    return alt.layer(*layers).properties(height=330)


@dataclass(frozen=True, slots=True)
class Step:
    """One bar on the way from the plain day to the forecast; ``percent`` is a driver's alone."""

    label: str
    kind: str
    start: float
    end: float
    percent: float | None

    @property
    def words(self) -> str:
        """What is written beside the bar: a whole, or a driver's per cent and sales."""
        if self.percent is None:
            return f"{self.end:,.0f}"
        return f"{self.percent:+.1f} % ({self.end - self.start:+,.0f})"


def driver_chart(steps: Sequence[Step]) -> alt.LayerChart | alt.FacetChart:
    """A waterfall of sales, top to bottom: each bar begins where the one above it ended."""
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
    widest = max(max(step.start, step.end) for step in steps)
    # Room on the right for the numbers of the longest bar.
    room = alt.Scale(domain=[0, 2.0 * widest], nice=False)
    bars = base.mark_bar(cornerRadius=2, height=18).encode(
        x=alt.X("start:Q", axis=None, scale=room),
        x2="end:Q",
        color=alt.Color(
            "kind:N",
            scale=alt.Scale(domain=list(_STEPS), range=list(_STEPS.values())),
            legend=None,
        ),
    )
    words = base.mark_text(align="left", dx=6, fontSize=12, color="#334155").encode(
        x=alt.X("right:Q", axis=None, scale=room), text="words:N"
    )
    return alt.layer(bars, words).properties(height=28 * len(steps))


def _span(day: str = "day") -> list[pl.Expr]:
    """Where a day's bar starts and ends on the time axis, and its middle."""
    noon = pl.col(day).cast(pl.Datetime("ms")) + timedelta(hours=12)
    half = timedelta(hours=10)
    return [noon.alias("noon"), (noon - half).alias("start"), (noon + half).alias("end")]


def _day_axis(field: str) -> alt.X:
    return alt.X(f"{field}:T", title=None, axis=alt.Axis(format="%-d %b", tickCount=10, grid=False))


def _bars(base: alt.Chart) -> alt.Chart:
    kinds = list(_COLOURS)
    bars: alt.Chart = base.mark_bar(cornerRadiusTopLeft=2, cornerRadiusTopRight=2).encode(
        x=_day_axis("start"),
        x2="end:T",
        y=alt.Y("sales:Q", title="Sales a day", axis=alt.Axis(format=",.0f")),
        y2=alt.Y2Datum(0),
        color=alt.Color(
            "kind:N",
            scale=alt.Scale(domain=kinds, range=[_COLOURS[kind] for kind in kinds]),
            legend=alt.Legend(title=None, orient="top"),
        ),
        opacity=alt.Opacity(
            "full:N",
            scale=alt.Scale(domain=[True, False], range=[1.0, 0.5]),
            legend=None,
        ),
    )
    return bars


def _ranges(base: alt.Chart) -> alt.Chart:
    ranges: alt.Chart = (
        base.transform_filter("isValid(datum.low) && datum.high > 0")
        .mark_rule(color="#7c2d12", strokeWidth=1.5)
        .encode(y="low:Q", y2="high:Q")
    )
    return ranges


def _number(base: alt.Chart, **style: Any) -> alt.Chart:
    number: alt.Chart = (
        base.transform_filter(alt.datum.kind == CHOSEN)
        .transform_calculate(top="isValid(datum.high) ? datum.high : datum.sales")
        .mark_text(dy=-10, fontSize=14, fontWeight="bold", **style)
        .encode(y="top:Q", text=alt.Text("sales:Q", format=",.0f"))
    )
    return number


def _border(ends: date) -> alt.Chart:
    frame = pl.DataFrame({"day": [ends + timedelta(days=1)], "text": ["Sales are known to here"]})
    border: alt.Chart = (
        alt.Chart(frame)
        .mark_rule(strokeDash=[4, 4], color="#94a3b8")
        .encode(x=alt.X("day:T"), tooltip=[alt.Tooltip("text:N", title=" ")])
    )
    return border


def totals_chart(frame: pl.DataFrame) -> alt.Chart:
    """Total forecast per day. ``frame`` has a row per day: day (date), total, stores."""
    chart: alt.Chart = (
        alt.Chart(frame.with_columns(_span()))
        .mark_bar(color=_BAR, cornerRadiusTopLeft=2, cornerRadiusTopRight=2)
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
    """RMSPE by forecaster, shortest on top; the model's own bar (the first) is coloured."""
    frame = pl.DataFrame(
        {
            "who": list(scores),
            "error": list(scores.values()),
            "ours": [place == 0 for place in range(len(scores))],
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
        color=alt.condition("datum.ours", alt.value(_BAR), alt.value("#cbd5e1"))
    )
    numbers = base.mark_text(align="left", dx=6, fontSize=13).encode(
        text=alt.Text("error:Q", format=".1%")
    )
    return alt.layer(bars, numbers).properties(height=46 * len(scores))
