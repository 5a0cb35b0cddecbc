"""Pydantic models of a store: its traits, its sales, its schedule."""

from datetime import date
from typing import Annotated

from pydantic import BaseModel, Field


class StoreSummary(BaseModel):
    """A store and what it sold lately."""

    store: Annotated[int, Field(description="number of the store")]
    store_type: Annotated[str, Field(description="`a`, `b`, `c` or `d`")]
    assortment: Annotated[str, Field(description="`a` basic, `b` extra, `c` extended")]
    competition_distance: Annotated[
        float | None, Field(description="metres to the nearest competitor")
    ]
    promo2: Annotated[bool, Field(description="whether it takes part in the continuing promotion")]
    last_day: Annotated[date | None, Field(description="last day with sales within a year")]
    last_sales: Annotated[float | None, Field(description="sales of that day")]
    mean_sales: Annotated[
        float | None, Field(description="mean sales of its open days in the last year")
    ]


class BacktestForecast(BaseModel):
    """Forecast of a past day, as it was planned, by members fitted on no day after ``as_of``."""

    as_of: Annotated[date, Field(description="origin of the forecast")]
    forecast: Annotated[float, Field(description="sales forecast")]


class PastDay(BaseModel):
    """A day of a store's history; ``Sales`` is null where they are unknown.

    ``backtest``: what to compare ``Sales`` with; null for days that no backtest window holds.
    """

    Date: Annotated[date, Field(description="the day")]
    Sales: Annotated[float | None, Field(description="sales; null where unknown")]
    Open: Annotated[int, Field(description="1 where it was open")]
    Promo: Annotated[int, Field(description="1 on a day of promotion")]
    backtest: Annotated[
        BacktestForecast | None, Field(description="forecast of a backtest window")
    ] = None


class StoreHistory(BaseModel):
    """A store's days up to ``until``, oldest first.

    ``backtest_version``: the Production version whose backtest its days have; null without one.
    """

    store: Annotated[int, Field(description="number of the store")]
    until: Annotated[date, Field(description="last day of the list")]
    days: Annotated[list[PastDay], Field(description="its days, oldest first")]
    backtest_version: Annotated[
        int | None, Field(description="version whose backtest the days have")
    ] = None


class PlannedRow(BaseModel):
    """The seven fields as planned; ``scheduled`` is false where they are filled by rule."""

    Store: Annotated[int, Field(description="number of the store")]
    DayOfWeek: Annotated[int, Field(description="1 (Monday) to 7")]
    Date: Annotated[date, Field(description="the day")]
    Open: Annotated[int, Field(description="1 where the store opens")]
    Promo: Annotated[int, Field(description="1 on a day of promotion")]
    StateHoliday: Annotated[str, Field(description="`0`, `a`, `b` or `c`")]
    SchoolHoliday: Annotated[int, Field(description="1 on a school holiday")]
    scheduled: Annotated[bool, Field(description="false where the row is filled by rule")]


class StorePlan(BaseModel):
    """A store's plan from ``start`` on."""

    store: Annotated[int, Field(description="number of the store")]
    start: Annotated[date, Field(description="first day of the plan")]
    rows: Annotated[
        list[PlannedRow], Field(description="the planned rows; without `scheduled` they are inputs")
    ]
