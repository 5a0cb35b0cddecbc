"""Pydantic models of a store: its traits, its sales, its schedule."""

from datetime import date

from pydantic import BaseModel


class StoreSummary(BaseModel):
    """A store and what it sold lately."""

    store: int
    store_type: str
    assortment: str
    competition_distance: float | None
    promo2: bool
    last_day: date | None
    last_sales: float | None
    mean_sales: float | None


class BacktestForecast(BaseModel):
    """Forecast of a past day, as it was planned, by members fitted on no day after ``as_of``."""

    as_of: date
    forecast: float


class PastDay(BaseModel):
    """A day of a store's history; ``Sales`` is null where they are unknown.

    ``backtest``: what to compare ``Sales`` with; null for days that no backtest window holds.
    """

    Date: date
    Sales: float | None
    Open: int
    Promo: int
    backtest: BacktestForecast | None = None


class StoreHistory(BaseModel):
    """A store's days up to ``until``, oldest first.

    ``backtest_version``: the Production version whose backtest its days have; null without one.
    """

    store: int
    until: date
    days: list[PastDay]
    backtest_version: int | None = None


class PlannedRow(BaseModel):
    """The seven fields as planned; ``scheduled`` is false where they are filled by rule."""

    Store: int
    DayOfWeek: int
    Date: date
    Open: int
    Promo: int
    StateHoliday: str
    SchoolHoliday: int
    scheduled: bool


class StorePlan(BaseModel):
    """A store's plan from ``start`` on."""

    store: int
    start: date
    rows: list[PlannedRow]
