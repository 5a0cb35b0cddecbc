"""What drove a forecast: fetched after the forecast is shown, told in words and a picture."""

from collections.abc import Sequence
from typing import Any, Final

import streamlit as st

from rossmann.dashboard.shared import charts
from rossmann.dashboard.shared import service_state as state
from rossmann.dashboard.shared.charts import Step
from rossmann.errors import RossmannError
from rossmann.logging_config import get_logger
from rossmann.schema import Objective
from rossmann.serving.schemas.forecasts import Driver, Explanation

MIN_SHOWN_EFFECT: Final = 0.5
"""Drivers that change the sales by less than so many per cent are gathered."""


def show(row: dict[str, Any], version: int, as_of: str, objective: Objective) -> None:
    """Draw the drivers of the forecast of ``row``; a service without them is told in one line.

    Call it last on a page: the split takes longer than the forecast, which is drawn by then.
    """
    st.markdown("**What drives this forecast**")
    if not row["Open"]:
        st.caption("The store is closed on this day: nothing drives its sales, they are zero.")
        return
    try:
        with st.spinner("Looking for what drives it …"):
            answer = state.client().explain([row], version, as_of, objective=objective)
    except RossmannError as error:
        get_logger("dashboard").info("no drivers: %s", error)
        st.caption("What drives it cannot be told at the moment; the forecast stands.")
        return
    told = answer.explanations[0]
    st.altair_chart(charts.driver_chart(waterfall_steps(told)), width="stretch")
    st.caption(
        "Plain day x drivers = forecast. A plain day is the store's mean from Monday to Saturday, "
        "without promotion and holidays. Drivers say what the model made of its inputs, which "
        "need not be what causes sales."
    )


def waterfall_steps(told: Explanation) -> list[Step]:
    """From the plain day to the forecast, the largest driver first, small ones gathered last."""
    large = sorted((d for d in told.drivers if abs(d.percent) >= MIN_SHOWN_EFFECT), key=_size)
    small = [d for d in told.drivers if abs(d.percent) < MIN_SHOWN_EFFECT]
    if len(small) == 1:
        large, small = [*large, small[0]], []
    out = [Step("A plain day", charts.PLAIN, 0.0, told.baseline, None)]
    for driver in [*large, *_gathered(small)]:
        start = out[-1].end
        kind = charts.MORE if driver.sales >= 0 else charts.LESS
        out.append(Step(driver.label, kind, start, start + driver.sales, driver.percent))
    return [*out, Step("Forecast", charts.CHOSEN, 0.0, told.forecast, None)]


def _size(driver: Driver) -> float:
    return -abs(driver.percent)


def _gathered(small: Sequence[Driver]) -> list[Driver]:
    """Drivers as one: factors multiply, sales add up."""
    if not small:
        return []
    factor = 1.0
    for driver in small:
        factor *= driver.factor
    label = f"{len(small)} other, under {MIN_SHOWN_EFFECT:g} % each"
    sales = sum(driver.sales for driver in small)
    return [
        Driver(name="other", label=label, factor=factor, percent=100 * (factor - 1), sales=sales)
    ]
