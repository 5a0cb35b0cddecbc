"""The answer to a single question: the number, its range, what stands behind it, and a picture."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from rossmann.dashboard.shared import charts
from rossmann.dashboard.shared import inputs as dates
from rossmann.dashboard.shared import inputs as objectives
from rossmann.dashboard.shared import service_state as state
from rossmann.dashboard.shared.charts import Day
from rossmann.dashboard.single import attributions as drivers
from rossmann.schema import Objective
from rossmann.serving.schemas.forecasts import PredictResponse
from rossmann.serving.schemas.stores import PastDay, PlannedRow

LEVEL: Final = 0.8
WEEKS: Final = 8
_DASH: Final = "\N{EN DASH}"
_BOX: Final = 118
"""Pixels of a number's box: a label, the number, and how far it lies from the forecast."""
AROUND: Final = 7
"""Days on either side of the chosen one that are forecast as well."""


@dataclass(frozen=True)
class Question:
    """What the planner asks: the row as the service takes it, and the day as it was planned."""

    row: dict[str, Any]
    planned: PlannedRow
    objective: Objective

    @property
    def day(self) -> date:
        """The day asked for."""
        return self.planned.Date

    @property
    def open(self) -> bool:
        """Whether the store is to open."""
        return bool(self.row["Open"])


def show(question: Question) -> None:
    """Ask the service and draw its answer."""
    service = state.client()
    other = {**question.row, "Promo": 1 - question.row["Promo"]}
    answer = service.predict(
        [question.row, other], intervals=(LEVEL,), objective=question.objective
    )
    known = date.fromisoformat(answer.as_of)
    past = service.history(question.planned.Store, 7 * WEEKS, answer.as_of).days
    _numbers(question, answer, past)
    _words(question, answer)
    bars = _forecasts(question, answer)
    # A far day is drawn without the past, which would lie months to the left of it.
    near = bars[0].day == known + timedelta(days=1)
    if near:
        bars = [*(_sold(day) for day in past), *bars]
    st.altair_chart(charts.store_chart(bars, known if near else None), width="stretch")
    st.caption(
        f"Model version {answer.model_version} ({answer.model_stage}), knowing sales up to "
        f"{dates.short_date(known)}. Made for: {objectives.WORDS[answer.objective].lower()}. "
        "Thin lines: four days in five end inside them. Pale bars: no promotion."
    )
    drivers.show(question.row, answer.model_version, answer.as_of, answer.objective)


def _numbers(question: Question, answer: PredictResponse, past: list[PastDay]) -> None:
    here, band = answer.predictions[0], answer.intervals[0]
    like = [p for p in past if p.Date.weekday() == question.day.weekday() and p.Open and p.Sales]
    # Side by side where there is room, else below each other: no number is cut.
    boxes = st.container(horizontal=True)
    label = f"Forecast, {question.day:%a} {question.day.day} {question.day:%b}"
    boxes.metric(label, f"{here:,.0f}", border=True, height=_BOX)
    boxes.metric(
        "80 % range",
        _DASH.join(f"{bound[0]:,.0f}" for bound in (band.lower, band.upper)) if here else "0",
        help="Four days in five end inside this range.",
        border=True,
        height=_BOX,
    )
    really = _really_sold(question)
    if really is not None:
        _compare(boxes, "Really sold", really, here, "The forecast does not know this number.")
        return
    # Without a like day to learn from, the other case would be a guess: promotions skip weekends.
    if question.open and any(p.Promo != question.row["Promo"] for p in like):
        name = "Without promotion" if question.row["Promo"] else "With promotion"
        _compare(boxes, name, answer.predictions[1], here, "")
    elif like:
        usual = sum(p.Sales or 0.0 for p in like) / len(like)
        note = f"Mean of the store's {question.day:%A}s of the last {WEEKS} weeks."
        _compare(boxes, f"Recent {question.day:%A}s", usual, here, note)


def _really_sold(question: Question) -> float | None:
    """What was sold, where the day has passed already."""
    last = state.info().data.panel.last_day
    if last is None or question.day > last:
        return None
    day = question.day.isoformat()
    return state.client().history(question.planned.Store, 1, day).days[0].Sales


def _compare(place: DeltaGenerator, name: str, other: float, here: float, note: str) -> None:
    """Another number beside the forecast, with how far it lies from it."""
    place.metric(
        name,
        f"{other:,.0f}",
        _beside(other / here - 1) if here else None,
        delta_color="off",
        delta_arrow="off",
        help=note or None,
        border=True,
        height=_BOX,
    )


def _beside(share: float) -> str:
    """A bare -6 % would read as a fall."""
    if round(share, 2) == 0:
        return "as the forecast"
    return f"{abs(share):.0%} {'above' if share > 0 else 'below'} forecast"


def _words(question: Question, answer: PredictResponse) -> None:
    if not question.open:
        st.info(
            f"The store is closed on this day{_why_closed(question)}, so nothing is sold: "
            "the forecast of a closed day is zero, whatever else is planned.",
            icon=":material/door_front:",
        )
    elif not question.planned.Open:
        st.info("As planned, this store is closed on this day.", icon=":material/door_front:")
    if answer.warnings:
        text = "\n\n".join(_sentence(notice.msg) for notice in answer.warnings)
        st.warning(text, icon=":material/info:")


def _why_closed(question: Question) -> str:
    if question.row["StateHoliday"] != "0":
        return " (a holiday)"
    return " (a Sunday)" if question.day.isoweekday() == 7 else ""


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _sold(day: PastDay) -> Day:
    note = "" if day.Open else "closed"
    return Day(day.Date, charts.SOLD, day.Sales, None, None, note, bool(day.Promo))


def _forecasts(question: Question, answer: PredictResponse) -> list[Day]:
    """Forecasts from the day after what is known, or some weeks before, to a week after."""
    known = date.fromisoformat(answer.as_of)
    start = max(known + timedelta(days=1), question.day - timedelta(days=7 * WEEKS))
    count = (question.day - start).days + 1 + AROUND
    plan = state.client().plan(question.planned.Store, start.isoformat(), count).rows
    around = [row for row in plan if question.day != row.Date]
    rows = [question.row, *(_as_row(row) for row in around)]
    told = state.client().predict(
        rows, as_of=answer.as_of, intervals=(LEVEL,), objective=question.objective
    )
    days = [question.day, *(row.Date for row in around)]
    bars = [_bar(rows[i], day, i == 0, told, i) for i, day in enumerate(days)]
    return sorted(bars, key=lambda bar: bar.day)


def _bar(row: dict[str, Any], day: date, chosen: bool, told: PredictResponse, i: int) -> Day:
    band = told.intervals[0]
    kind = charts.CHOSEN if chosen else charts.FORECAST
    note = "" if row["Open"] else "closed"
    promo = bool(row["Promo"])
    return Day(day, kind, told.predictions[i], band.lower[i], band.upper[i], note, promo)


def _as_row(planned: PlannedRow) -> dict[str, Any]:
    return planned.model_dump(mode="json", exclude={"scheduled"})
