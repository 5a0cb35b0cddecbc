"""Feature attributions of a forecast: fetched after the forecast is shown, drawn as a waterfall."""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Final

import streamlit as st

from rossmann.dashboard.shared import charts
from rossmann.dashboard.shared.charts import Step
from rossmann.dashboard.shared.markdown import escape_markdown
from rossmann.dashboard.shared.number_format import number_format
from rossmann.dashboard.shared.service_state import client
from rossmann.errors import RossmannError
from rossmann.logging_config import get_logger
from rossmann.serving.schemas.forecasts import (
    Driver,
    ExplainResponse,
    Explanation,
    OtherPromo,
    PredictResponse,
)

MIN_SHOWN_EFFECT: Final = 0.5
"""In per cent of sales; smaller drivers are combined."""


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
