"""Result of a single prediction: forecast, range, comparison, warnings, chart, attributions."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from rossmann.dashboard.shared.charts import FORECAST, SELECTED, SOLD, Day, store_chart
from rossmann.dashboard.shared.inputs import OBJECTIVE_LABELS, short_date
from rossmann.dashboard.shared.service_state import client, info
from rossmann.dashboard.single.attributions import show_attributions
from rossmann.schema import Objective
from rossmann.serving.schemas.forecasts import PredictResponse
from rossmann.serving.schemas.stores import PastDay, PlannedRow

LEVEL: Final = 0.8
PAST_WEEKS: Final = 8
_BOX_HEIGHT: Final = 118
"""Pixels of a metric: label, number, and difference from the forecast."""
DAYS_AFTER: Final = 7
"""Days after the selected one that are forecast too."""


@dataclass(frozen=True)
class ForecastInput:
    """The row of the request, and the day as it was planned."""

    row: dict[str, Any]
    planned: PlannedRow
    objective: Objective

    @property
    def day(self) -> date:
        """The selected day."""
        return self.planned.Date

    @property
    def open(self) -> bool:
        """Whether the store is open by the form."""
        return bool(self.row["Open"])


def show_result(inputs: ForecastInput) -> None:
    """Request the forecast and draw the result."""
    service = client()
    other = {**inputs.row, "Promo": 1 - inputs.row["Promo"]}
    response = service.predict([inputs.row, other], intervals=(LEVEL,), objective=inputs.objective)
    origin = date.fromisoformat(response.as_of)
    past = service.history(inputs.planned.Store, 7 * PAST_WEEKS, response.as_of).days
    _show_metrics(inputs, response, past)
    _show_notices(inputs, response)
    bars = _forecast_bars(inputs, response)
    # A distant day is drawn without the past, which would lie months to the left of it.
    near = bars[0].day == origin + timedelta(days=1)
    if near:
        bars = [*(_past_bar(day) for day in past), *bars]
    st.altair_chart(store_chart(bars, origin if near else None), width="stretch")
    st.caption(
        f"Model version {response.model_version} ({response.model_stage}), knowing sales up to "
        f"{short_date(origin)}. Made for: {OBJECTIVE_LABELS[response.objective].lower()}. "
        "Thin lines: four days in five end inside them. Pale bars: no promotion."
    )
    show_attributions(inputs.row, response.model_version, response.as_of, response.objective)


def _show_metrics(inputs: ForecastInput, response: PredictResponse, past: list[PastDay]) -> None:
    forecast, interval = response.predictions[0], response.intervals[0]
    low, high = interval.lower[0], interval.upper[0]
    weekday = inputs.day.weekday()
    same_weekday = [p for p in past if p.Date.weekday() == weekday and p.Open and p.Sales]
    # Side by side where they fit, else below each other: no number is cut.
    metrics = st.container(horizontal=True)
    label = f"Forecast, {inputs.day:%a} {inputs.day.day} {inputs.day:%b}"
    metrics.metric(label, f"{forecast:,.0f}", border=True, height=_BOX_HEIGHT)
    metrics.metric(
        "80 % range",
        f"{low:,.0f}\N{EN DASH}{high:,.0f}" if forecast else "0",
        help="Four days in five end inside this range.",
        border=True,
        height=_BOX_HEIGHT,
    )
    sold = _actual_sales(inputs)
    if sold is not None:
        note = "The forecast does not know this number."
        _show_comparison(metrics, "Really sold", sold, forecast, note)
        return
    # Promotions skip weekends: without such a day in the past, the other case would be a guess.
    if inputs.open and any(p.Promo != inputs.row["Promo"] for p in same_weekday):
        name = "Without promotion" if inputs.row["Promo"] else "With promotion"
        _show_comparison(metrics, name, response.predictions[1], forecast, "")
    elif same_weekday:
        mean = sum(p.Sales or 0.0 for p in same_weekday) / len(same_weekday)
        note = f"Mean of the store's {inputs.day:%A}s of the last {PAST_WEEKS} weeks."
        _show_comparison(metrics, f"Recent {inputs.day:%A}s", mean, forecast, note)


def _actual_sales(inputs: ForecastInput) -> float | None:
    """Sales of the day, where they are known already."""
    last = info().data.panel.last_day
    if last is None or inputs.day > last:
        return None
    day = inputs.day.isoformat()
    return client().history(inputs.planned.Store, 1, day).days[0].Sales


def _show_comparison(
    metrics: DeltaGenerator, name: str, value: float, forecast: float, note: str
) -> None:
    """Another number, with its difference from the forecast."""
    metrics.metric(
        name,
        f"{value:,.0f}",
        _format_difference(value / forecast - 1) if forecast else None,
        delta_color="off",
        delta_arrow="off",
        help=note or None,
        border=True,
        height=_BOX_HEIGHT,
    )


def _format_difference(share: float) -> str:
    """In words: a bare -6 % would read as a fall of sales."""
    if round(share, 2) == 0:
        return "as the forecast"
    return f"{abs(share):.0%} {'above' if share > 0 else 'below'} forecast"


def _show_notices(inputs: ForecastInput, response: PredictResponse) -> None:
    if not inputs.open:
        st.info(
            f"The store is closed on this day{_closed_reason(inputs)}, so nothing is sold: "
            "the forecast of a closed day is zero, whatever else is planned.",
            icon=":material/door_front:",
        )
    elif not inputs.planned.Open:
        st.info("As planned, this store is closed on this day.", icon=":material/door_front:")
    if response.warnings:
        text = "\n\n".join(_to_sentence(warning.msg) for warning in response.warnings)
        st.warning(text, icon=":material/info:")


def _closed_reason(inputs: ForecastInput) -> str:
    if inputs.row["StateHoliday"] != "0":
        return " (a holiday)"
    return " (a Sunday)" if inputs.day.isoweekday() == 7 else ""


def _to_sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _past_bar(day: PastDay) -> Day:
    note = "" if day.Open else "closed"
    return Day(day.Date, SOLD, day.Sales, None, None, note, bool(day.Promo))


def _forecast_bars(inputs: ForecastInput, response: PredictResponse) -> list[Day]:
    """Forecasts from the day after the origin, at most ``PAST_WEEKS`` before, to a week after."""
    origin = date.fromisoformat(response.as_of)
    start = max(origin + timedelta(days=1), inputs.day - timedelta(days=7 * PAST_WEEKS))
    count = (inputs.day - start).days + 1 + DAYS_AFTER
    plan = client().plan(inputs.planned.Store, start.isoformat(), count).rows
    other_days = [row for row in plan if inputs.day != row.Date]
    rows = [inputs.row, *(_request_row(row) for row in other_days)]
    forecasts = client().predict(
        rows, as_of=response.as_of, intervals=(LEVEL,), objective=inputs.objective
    )
    days = [inputs.day, *(row.Date for row in other_days)]
    bars = [_forecast_bar(rows[i], day, forecasts, i) for i, day in enumerate(days)]
    return sorted(bars, key=lambda bar: bar.day)


def _forecast_bar(row: dict[str, Any], day: date, response: PredictResponse, index: int) -> Day:
    """The bar of a row of the response; the first is the selected day."""
    interval = response.intervals[0]
    kind = FORECAST if index else SELECTED
    note = "" if row["Open"] else "closed"
    promo = bool(row["Promo"])
    bounds = interval.lower[index], interval.upper[index]
    return Day(day, kind, response.predictions[index], *bounds, note, promo)


def _request_row(planned: PlannedRow) -> dict[str, Any]:
    return planned.model_dump(mode="json", exclude={"scheduled"})
