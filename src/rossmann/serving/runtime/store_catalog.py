"""Stores of the panel for the API: attributes, schedule, and history with its backtest forecasts.

The backtest forecasts of past days are those of the Production version, which forecast them unseen.
They are stored with the version in the registry. The thread that polls the registry loads them, so
that no request waits for it.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from rossmann.epoch_days import format_iso_day, parse_iso_day, weekday_of
from rossmann.errors import ErrorDetail, ModelError, RequestError, ServiceError
from rossmann.logging_config import get_logger
from rossmann.models.gate.backtest_predictions import (
    BacktestPredictions,
    DayForecast,
    NewestForecasts,
)
from rossmann.models.inference.row_checks import check_stores, format_value, last_forecast_day
from rossmann.models.inference.row_warnings import NO_TRAINING
from rossmann.schema import ASSORTMENTS, STATE_HOLIDAYS, STORE_TYPES
from rossmann.serving.runtime.registry_view import LoadedVersion, VersionKey
from rossmann.serving.runtime.version_manager import VersionManager
from rossmann.serving.schemas.stores import (
    BacktestForecast,
    PastDay,
    PlannedRow,
    StoreHistory,
    StorePlan,
    StoreSummary,
)

if TYPE_CHECKING:
    from rossmann.data.panel.panel import Panel

_RETRY_SECONDS: Final = 60.0
"""Seconds until the registry is asked again after it failed to answer."""

_YEAR: Final = 364
"""Days of a summary's mean sales: whole weeks."""


@dataclass(frozen=True, slots=True)
class VersionBacktest:
    """A version's number and its backtest forecasts."""

    version: int
    forecasts: NewestForecasts


FindBacktest = Callable[[], VersionBacktest | None]
"""Returns the backtest of the Production version; None while it has none."""


class BacktestForecasts:
    """Holds the backtest of the Production version; ``load`` reads that of a version.

    ``load`` may raise ``ModelError`` where there is none that can be used, ``ServiceError`` where
    the registry does not answer, and ``OSError``.
    """

    def __init__(
        self, versions: VersionManager, load: Callable[[LoadedVersion], BacktestPredictions]
    ) -> None:
        self._versions = versions
        self._load = load
        self._loaded: tuple[VersionKey, VersionBacktest | None] | None = None
        self._retry_at = 0.0
        self._logger = get_logger("backtest")

    def current(self) -> VersionBacktest | None:
        """The backtest of the version that answers as Production, if it is loaded; never blocks."""
        production, loaded = self._versions.production, self._loaded
        if production is None or loaded is None or loaded[0] != production.key:
            return None
        return loaded[1]

    def refresh(self) -> None:
        """Load the backtest of a new Production version; for one thread."""
        production = self._versions.production
        if production is None or (self._loaded is not None and self._loaded[0] == production.key):
            return
        if self._versions.registry_unreachable or time.monotonic() < self._retry_at:
            return
        try:
            backtest = self._read(production)
        except ModelError as error:
            self._logger.info(
                "no backtest forecasts", version=production.version, reason=str(error)
            )
            backtest = None
        except (ServiceError, OSError) as error:
            self._logger.info(
                "no backtest forecasts", version=production.version, reason=str(error)
            )
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            return
        self._loaded = production.key, backtest

    def _read(self, version: LoadedVersion) -> VersionBacktest | None:
        if version.forecaster.training_span == NO_TRAINING:
            return None  # its backtest is of another chain
        return VersionBacktest(version.version, NewestForecasts(self._load(version)))


@dataclass(frozen=True, slots=True)
class StoreAttributes:
    """A row of the store table; ``competition_distance`` in metres, None where unknown."""

    store_type: str
    assortment: str
    competition_distance: float | None
    promo2: bool


def read_store_attributes(folder: Path) -> dict[int, StoreAttributes]:
    """The store table of a data version, by store number."""
    table = pl.read_parquet(folder / "stores.parquet")
    names = ("Store", "StoreType", "Assortment", "CompetitionDistance", "Promo2")
    return {
        number: StoreAttributes(
            STORE_TYPES[kind],
            ASSORTMENTS[assortment],
            None if metres is None or np.isnan(metres) else metres,
            bool(promo2),
        )
        for number, kind, assortment, metres, promo2 in table.select(names).iter_rows()
    }


class StoreCatalog:
    """Stores of one panel; methods raise ``RequestError`` for unknown stores and days."""

    def __init__(
        self,
        panel: "Panel",
        attributes: Mapping[int, StoreAttributes],
        backtest: FindBacktest = lambda: None,
    ) -> None:
        self._panel = panel
        self._attributes = attributes
        self._backtest = backtest

    @cached_property
    def _summaries(self) -> dict[int, StoreSummary]:
        return {int(number): self._summary(int(number)) for number in self._panel.store_numbers}

    def list(self) -> list[StoreSummary]:
        """Every store, by number."""
        return list(self._summaries.values())

    def get(self, number: int) -> StoreSummary:
        """One store."""
        self._require_store(number)
        return self._summaries[number]

    def _summary(self, number: int) -> StoreSummary:
        attributes = self._attributes[number]
        past = self._panel.history(number, self._panel.last_day, _YEAR)
        sold = np.flatnonzero(np.nan_to_num(past.sales) > 0)
        last = int(sold[-1]) if len(sold) else None
        return StoreSummary(
            store=number,
            store_type=attributes.store_type,
            assortment=attributes.assortment,
            competition_distance=attributes.competition_distance,
            promo2=attributes.promo2,
            last_day=None if last is None else format_iso_day(past.day[last]),
            last_sales=None if last is None else float(past.sales[last]),
            mean_sales=float(past.sales[sold].mean()) if len(sold) else None,
        )

    def history(self, number: int, days: int, until: str | None) -> StoreHistory:
        """The last ``days`` days up to ``until``, or up to the end of history.

        With Production's backtest forecasts, where they are loaded.
        """
        self._require_store(number)
        first, last = self._panel.first_day, self._panel.last_day
        end = last if until is None else _parse_day("until", until, first, last)
        past = self._panel.history(number, end, days)
        unknown = np.isnan(past.sales)
        backtest = self._backtest()
        first_day = int(past.day[0])
        forecasts = {} if backtest is None else backtest.forecasts.of_store(number, first_day, end)
        return StoreHistory(
            store=number,
            until=format_iso_day(end),
            backtest_version=None if backtest is None else backtest.version,
            days=[
                PastDay(
                    Date=format_iso_day(past.day[at]),
                    Sales=None if unknown[at] else float(past.sales[at]),
                    Open=int(past.open[at]),
                    Promo=int(past.promo[at]),
                    backtest=_backtest_forecast(forecasts.get(int(past.day[at]))),
                )
                for at in range(len(past.day))
            ],
        )

    def plan(self, number: int, start: str | None, days: int) -> StorePlan:
        """The plan from ``start`` on, or from the day after history; cut where forecasts end."""
        self._require_store(number)
        first, last = self._panel.first_day, self._panel.last_day
        end = last_forecast_day(last)
        begin = last + 1 if start is None else _parse_day("start", start, first, end)
        days_ahead = np.arange(begin, min(begin + days, end + 1), dtype=np.int32)
        rows = self._panel.store_schedule(number, days_ahead)
        scheduled = self._panel.is_scheduled(self._panel.store_indices(rows.store), rows.day)
        return StorePlan(
            store=number,
            start=format_iso_day(begin),
            rows=[
                PlannedRow(
                    Store=number,
                    DayOfWeek=weekday_of(int(rows.day[at])) + 1,
                    Date=format_iso_day(rows.day[at]),
                    Open=int(rows.open[at]),
                    Promo=int(rows.promo[at]),
                    StateHoliday=STATE_HOLIDAYS[rows.state_holiday[at]],
                    SchoolHoliday=int(rows.school_holiday[at]),
                    scheduled=bool(scheduled[at]),
                )
                for at in range(len(rows))
            ],
        )

    def _require_store(self, number: int) -> None:
        errors = check_stores(self._panel, {0: number})
        if errors:
            raise RequestError([ErrorDetail(("path", "store"), errors[0].msg, errors[0].type)])


class StoreCatalogCache:
    """The catalog of the panel in service, rebuilt when the panel changes.

    ``backtest``: returns Production's backtest, None while it has none.
    """

    def __init__(self, panel: Callable[[], "Panel"], backtest: FindBacktest = lambda: None) -> None:
        self._panel = panel
        self._backtest = backtest
        self._current: tuple[Panel, StoreCatalog] | None = None

    def get(self) -> StoreCatalog:
        """The catalog for one request."""
        panel, current = self._panel(), self._current
        if current is None or current[0] is not panel:
            # Two threads may both build it, with the same content.
            attributes = read_store_attributes(panel.info.folder)
            current = (panel, StoreCatalog(panel, attributes, self._backtest))
            self._current = current
        return current[1]


def _backtest_forecast(day: DayForecast | None) -> BacktestForecast | None:
    return None if day is None else BacktestForecast(as_of=day.as_of, forecast=day.forecast)


def _parse_day(name: str, text: str, low: int, high: int) -> int:
    day = parse_iso_day(text)
    if day is None:
        msg = f"{name} must be a real date written YYYY-MM-DD (got {format_value(text)})"
        raise RequestError([ErrorDetail(("query", name), msg, "date_format")])
    if not low <= day <= high:
        limits = f"from {format_iso_day(low)} to {format_iso_day(high)}"
        msg = f"{name} must be {limits} (got {format_value(text)})"
        raise RequestError([ErrorDetail(("query", name), msg, "date_range")])
    return day
