"""Result of a single prediction: forecast, range, comparison, warnings, chart, attributions.

The attributions are fetched after the forecast is shown, and drawn as a waterfall.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from rossmann.dashboard.shared import charts
from rossmann.dashboard.shared.charts import FORECAST, SELECTED, SOLD, Day, Step, store_chart
from rossmann.dashboard.shared.formats import long_date, number_format, short_date
from rossmann.dashboard.shared.markdown import escape_markdown
from rossmann.dashboard.shared.page_elements import OBJECTIVE_LABELS, announce
from rossmann.dashboard.shared.service_state import client, in_background
from rossmann.dashboard.single.store_days import PAST_WEEKS, StoreDays, request_row
from rossmann.errors import RossmannError
from rossmann.logging_config import get_logger
from rossmann.schema import Objective
from rossmann.serving.schemas.forecasts import (
    Driver,
    ExplainResponse,
    Explanation,
    OtherPromo,
    PredictResponse,
    WarningMessage,
)
from rossmann.serving.schemas.stores import PastDay

LEVEL: Final = 0.8
_BOX_HEIGHT: Final = 118
"""Pixels of a metric: label, number, and difference from the forecast."""
_FIRST_OTHER: Final = 2
"""Rows of the request: the selected day, the same with the other promotion, then other days."""
MIN_SHOWN_EFFECT: Final = 0.5
"""In per cent of sales; smaller drivers are combined."""


@dataclass(frozen=True)
class ForecastInput:
    """The row of the request, and the day as it was planned, with its surroundings."""

    row: dict[str, Any]
    days: StoreDays
    objective: Objective

    @property
    def store(self) -> int:
        """The store's number."""
        return self.days.planned.Store

    @property
    def day(self) -> date:
        """The selected day."""
        return self.days.planned.Date

    @property
    def open(self) -> bool:
        """Whether the store is open by the form."""
        return bool(self.row["Open"])


def show_result(inputs: ForecastInput, region: DeltaGenerator) -> None:
    """Request forecast and drivers at the same time and draw them; ``region`` announces them."""
    drivers = _request_drivers(inputs) if inputs.open else None
    with st.spinner(f"Forecasting store {inputs.store:d}, {short_date(inputs.day)} …"):
        response = _request_forecasts(inputs)
    st.subheader(f"Store {inputs.store:d} · {long_date(inputs.day)}")
    _show_metrics(inputs, response)
    _show_notices(inputs, response)
    _show_chart(inputs, response)
    announce(region, _announcement(inputs, response))
    show_attributions(inputs.row, response, drivers)


def _request_drivers(inputs: ForecastInput) -> Future[ExplainResponse]:
    origin = inputs.days.origin.isoformat()
    return in_background(
        client().explain, [inputs.row], "Production", origin, objective=inputs.objective
    )


def _request_forecasts(inputs: ForecastInput) -> PredictResponse:
    other = {**inputs.row, "Promo": 1 - inputs.row["Promo"]}
    rows = [inputs.row, other, *(request_row(planned) for planned in inputs.days.others)]
    return client().predict(
        rows, as_of=inputs.days.origin.isoformat(), intervals=(LEVEL,), objective=inputs.objective
    )


def _announcement(inputs: ForecastInput, response: PredictResponse) -> str:
    sales = number_format().money(response.predictions[0])
    return f"Store {inputs.store}, {long_date(inputs.day)}: forecast {sales}."


def _show_metrics(inputs: ForecastInput, response: PredictResponse) -> None:
    formats = number_format()
    forecast, interval = response.predictions[0], response.intervals[0]
    low, high = interval.lower[0], interval.upper[0]
    # Side by side where they fit, else below each other: no number is cut.
    metrics = st.container(horizontal=True)
    label = f"Forecast, {inputs.day:%a} {inputs.day.day:d} {inputs.day:%b}"
    metrics.metric(label, escape_markdown(formats.money(forecast)), border=True, height=_BOX_HEIGHT)
    ends = f"{formats.money(low)}\N{EN DASH}{formats.money(high)}" if forecast else formats.money(0)
    metrics.metric(
        "80 % range",
        escape_markdown(ends),
        help="Four days in five end inside this range.",
        border=True,
        height=_BOX_HEIGHT,
    )
    if inputs.days.known is not None:
        _show_known_sales(metrics, inputs.days.known, response)
    else:
        _show_comparison(metrics, inputs, response)


def _show_known_sales(metrics: DeltaGenerator, known: PastDay, response: PredictResponse) -> None:
    """Sales of a past day, compared with a forecast of a model that had not seen them."""
    sold = known.Sales or 0.0
    backtest = known.backtest
    if backtest is not None:
        _show_metric(
            metrics,
            "Backtest forecast",
            backtest.forecast,
            help_text="This day as it was planned, forecast by a model that had not seen it: it "
            f"knew sales up to {short_date(backtest.as_of)}.",
        )
        difference = _format_difference(sold, backtest.forecast, "backtest")
        note = "The backtest did not know this number."
    elif any(warning.type == "in_training" for warning in _own_warnings(response)):
        difference = None
        note = "The model has learned from this day: how close it is says nothing about others."
    else:
        difference = _format_difference(sold, response.predictions[0], "forecast")
        note = "The forecast does not know this number."
    _show_metric(metrics, "Really sold", sold, difference, note)


def _show_comparison(
    metrics: DeltaGenerator, inputs: ForecastInput, response: PredictResponse
) -> None:
    """The other case of a promotion, or recent sales; nothing where there is neither."""
    forecast = response.predictions[0]
    weekday = inputs.day.weekday()
    past = inputs.days.past
    same_weekday = [p for p in past if p.Date.weekday() == weekday and p.Open and p.Sales]
    # Promotions skip weekends: without such a day in the past, the other case would be a guess.
    if inputs.open and any(p.Promo != inputs.row["Promo"] for p in same_weekday):
        name = "Without promotion" if inputs.row["Promo"] else "With promotion"
        other = response.predictions[1]
        _show_metric(metrics, name, other, _format_difference(other, forecast, "forecast"))
    elif same_weekday:
        mean = sum(p.Sales or 0.0 for p in same_weekday) / len(same_weekday)
        note = f"Mean of the store's {inputs.day:%A}s of the last {PAST_WEEKS} weeks."
        difference = _format_difference(mean, forecast, "forecast")
        _show_metric(metrics, f"Recent {inputs.day:%A}s", mean, difference, note)


def _show_metric(
    metrics: DeltaGenerator,
    name: str,
    value: float,
    difference: str | None = None,
    help_text: str | None = None,
) -> None:
    """Another number beside the forecast."""
    metrics.metric(
        escape_markdown(name),
        escape_markdown(number_format().money(value)),
        escape_markdown(difference) if difference else None,
        delta_color="off",
        delta_arrow="off",
        help=escape_markdown(help_text) if help_text else None,
        border=True,
        height=_BOX_HEIGHT,
    )


def _format_difference(value: float, reference: float, name: str) -> str | None:
    """In words: a bare -6 % would read as a fall of sales. None where the reference is zero."""
    if not reference:
        return None
    share = value / reference - 1
    if round(share, 2) == 0:
        return f"as the {name}"
    return f"{number_format().percent(abs(share))} {'above' if share > 0 else 'below'} {name}"


def _show_notices(inputs: ForecastInput, response: PredictResponse) -> None:
    if not inputs.open:
        reason = escape_markdown(_closed_reason(inputs))
        st.info(
            f"The store is closed on this day{reason}, so nothing is sold: "
            "the forecast of a closed day is zero, whatever else is planned.",
            icon=":material/door_front:",
        )
    elif not inputs.days.planned.Open:
        st.info(
            "You opened the store on a day on which its plan has it closed: the forecast is for "
            "an open store.",
            icon=":material/door_open:",
        )
    warnings = _own_warnings(response)
    if warnings:
        text = "\n\n".join(escape_markdown(_to_sentence(warning.msg)) for warning in warnings)
        st.warning(text, icon=":material/info:")


def _own_warnings(response: PredictResponse) -> list[WarningMessage]:
    """Warnings of the selected day, which is the first row."""
    return [warning for warning in response.warnings if 0 in warning.rows]


def _closed_reason(inputs: ForecastInput) -> str:
    if inputs.row["StateHoliday"] != "0":
        return " (a holiday)"
    return " (a Sunday)" if inputs.day.isoweekday() == 7 else ""


def _to_sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _show_chart(inputs: ForecastInput, response: PredictResponse) -> None:
    bars = _forecast_bars(inputs, response)
    # A distant day is drawn without the past, which would lie months to the left of it.
    origin = inputs.days.origin
    near = bars[0].day == origin + timedelta(days=1)
    if near:
        bars = [*(_past_bar(day) for day in inputs.days.past), *bars]
    st.altair_chart(store_chart(bars, origin if near else None), width="stretch")
    st.caption(
        f"Store {inputs.store:d}, model version {response.model_version:d} "
        f"({escape_markdown(response.model_stage)}), "
        f"knowing sales up to {short_date(origin)}. "
        f"Made for: {OBJECTIVE_LABELS[response.objective].lower()}. "
        "Thin lines: four days in five end inside them. Pale bars: no promotion."
    )


def _past_bar(day: PastDay) -> Day:
    return Day(day.Date, SOLD, day.Sales, None, None, bool(day.Open), bool(day.Promo))


def _forecast_bars(inputs: ForecastInput, response: PredictResponse) -> list[Day]:
    """The selected day's bar and those of the other days, by day."""
    bars = [_forecast_bar(SELECTED, inputs.day, inputs.row, response, 0)]
    for index, planned in enumerate(inputs.days.others, _FIRST_OTHER):
        row = request_row(planned)
        bars.append(_forecast_bar(FORECAST, planned.Date, row, response, index))
    return sorted(bars, key=lambda bar: bar.day)


def _forecast_bar(
    kind: str, day: date, row: dict[str, Any], response: PredictResponse, index: int
) -> Day:
    """The bar of a row of the response, in whole numbers."""
    interval = response.intervals[0]
    sales, low, high = (
        float(round(values[index]))
        for values in (response.predictions, interval.lower, interval.upper)
    )
    return Day(day, kind, sales, low, high, bool(row["Open"]), bool(row["Promo"]))


def show_attributions(
    row: dict[str, Any], forecast: PredictResponse, requested: Future[ExplainResponse] | None
) -> None:
    """Draw the drivers of the forecast of ``row``, or one line where the service has none.

    ``requested``: the request for them, made with that for the forecast; None for a closed day.
    Call it last on a page: the explanation takes longer than the forecast, which is then drawn.
    """
    st.markdown("**What drives this forecast**")
    if requested is None:
        st.caption("The store is closed on this day: nothing drives its sales, they are zero.")
        return
    try:
        with st.spinner("Looking for what drives it …"):
            response = requested.result()
            if response.model_version != forecast.model_version:
                # Another version has become Production between the two, or is tried on this store.
                response = client().explain(
                    [row], forecast.model_version, forecast.as_of, objective=forecast.objective
                )
    except RossmannError as error:
        get_logger("dashboard").info("no drivers: %s", error)
        st.caption("What drives it cannot be told at the moment; the forecast stands.")
        return
    steps = waterfall_steps(response.explanations[0])
    st.altair_chart(charts.driver_chart(steps), width="stretch")
    if (other := response.explanations[0].other_promo) is not None:
        _show_other_promo(other)
    st.caption(
        "Plain day x drivers = forecast. A plain day is the store's mean from Monday to Saturday, "
        "without promotion and holidays. Drivers say what the model made of its inputs, which "
        "need not be what causes sales."
    )


def _show_other_promo(other: OtherPromo) -> None:
    """The forecast with the promotion switched, and why the driver says another number."""
    plan = "With a promotion" if other.promo else "Without the promotion"
    change = "more" if other.percent >= 0 else "less"
    formats = number_format()
    sales = escape_markdown(formats.money(other.forecast))
    percent = escape_markdown(formats.percent(abs(other.percent) / 100, 1))
    st.markdown(
        f"{plan} on this day the forecast is **{sales}**, {percent}"
        f" {change}. The driver says another number: it counts from an average day, and holds the"
        " promotions of the days around, too. To decide on a promotion, take this line."
    )


def waterfall_steps(explanation: Explanation) -> list[Step]:
    """From the plain day to the forecast, the largest driver first, small ones combined last."""
    large = [d for d in explanation.drivers if abs(d.percent) >= MIN_SHOWN_EFFECT]
    large.sort(key=lambda driver: -abs(driver.percent))
    small = [d for d in explanation.drivers if abs(d.percent) < MIN_SHOWN_EFFECT]
    if len(small) == 1:
        large, small = [*large, small[0]], []
    steps = [Step("A plain day", charts.PLAIN_DAY, 0.0, explanation.baseline, None)]
    for driver in [*large, *_combine(small)]:
        start = steps[-1].end
        kind = charts.INCREASE if driver.sales >= 0 else charts.DECREASE
        steps.append(Step(driver.label, kind, start, start + driver.sales, driver.percent))
    return [*steps, Step("Forecast", charts.SELECTED, 0.0, explanation.forecast, None)]


def _combine(drivers: Sequence[Driver]) -> list[Driver]:
    """Drivers as one: factors multiply, sales add up."""
    if not drivers:
        return []
    factor = 1.0
    for driver in drivers:
        factor *= driver.factor
    label = f"{len(drivers)} other, under {MIN_SHOWN_EFFECT:g} % each"
    sales = sum(driver.sales for driver in drivers)
    return [
        Driver(name="other", label=label, factor=factor, percent=100 * (factor - 1), sales=sales)
    ]
