"""Served equals offline: the same rows over HTTP, in any company, get the backtest's numbers."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI

from rossmann.data.panel.panel import Panel
from rossmann.errors import RequestError
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.evaluation.metrics import rmspe
from rossmann.models.inference.forecaster import Forecaster, ForecastRequest
from rossmann.models.inference.totals import TOTAL_LEVELS, forecast_totals
from rossmann.schema import STATE_HOLIDAYS, FloatArray, StoreDays
from rossmann.serving.app import create_app
from rossmann.serving.client.client import Client
from rossmann.serving.runtime.service import Service, warm_up
from rossmann.serving.runtime.version_manager import VersionManager
from rossmann.settings import Settings

WINDOW = 48


@pytest.fixture
def client(
    panel: Panel,
    ensemble: Ensemble,
    registry: Any,
    serving_settings: Settings,
    tmp_path: Path,
    live: Callable[[FastAPI], AbstractContextManager[str]],
) -> Iterator[Client]:
    """A client of a live service with the trained version."""

    def make(_: Path) -> Forecaster:
        forecaster = Forecaster(panel, ensemble, threads=2)
        warm_up(forecaster, panel)
        return forecaster

    versions = VersionManager(registry, tmp_path / "cache", make)
    versions.start()
    app = create_app(serving_settings, Service(panel, versions, registry, lambda _: None))
    with live(app) as url, Client(url) as client:
        yield client


def window(panel: Panel) -> tuple[StoreDays, FloatArray]:
    """The last 48 days of history and what was sold on them, in no particular order."""
    rows, sold = panel.sales_rows()
    chosen = np.flatnonzero(rows.day > panel.last_day - WINDOW)
    np.random.default_rng(3).shuffle(chosen)
    return rows.take(chosen), sold[chosen]


def records(rows: StoreDays) -> list[dict[str, Any]]:
    made = []
    for at in range(len(rows)):
        day = date(1970, 1, 1) + timedelta(days=int(rows.day[at]))
        made.append(
            {
                "Store": int(rows.store[at]),
                "DayOfWeek": day.isoweekday(),
                "Date": day.isoformat(),
                "Open": int(rows.open[at]),
                "Promo": int(rows.promo[at]),
                "StateHoliday": STATE_HOLIDAYS[rows.state_holiday[at]],
                "SchoolHoliday": int(rows.school_holiday[at]),
            }
        )
    return made


def test_served_equals_offline_in_any_company(
    client: Client, panel: Panel, ensemble: Ensemble
) -> None:
    rows, sold = window(panel)
    origin = panel.last_day - WINDOW
    offline = ensemble.predict(panel.matrix(rows, origin))
    sent = records(rows)
    as_of = (panel.info.last_day - timedelta(days=WINDOW)).isoformat()

    def served(places: np.ndarray[Any, Any]) -> FloatArray:
        told = client.predict([sent[at] for at in places], as_of=as_of)
        assert told.as_of == as_of
        return np.array(told.predictions)

    everything = np.arange(len(rows))
    whole = served(everything)
    by_day = np.empty(len(rows))
    for day in np.unique(rows.day):
        places = np.flatnonzero(rows.day == day)
        by_day[places] = served(places)
    alone = np.concatenate([served(everything[at : at + 1]) for at in everything])
    order = np.random.default_rng(4).permutation(len(rows))
    shuffled = np.empty(len(rows))
    shuffled[order] = served(order)
    for got in (whole, by_day, alone, shuffled):
        assert np.abs(got / offline - 1).max() < 1e-6
        assert rmspe(sold, got) == pytest.approx(rmspe(sold, offline), rel=1e-6)


def test_bounds_equal_the_offline_ones(client: Client, panel: Panel, ensemble: Ensemble) -> None:
    rows, _ = window(panel)
    rows = rows.take(slice(0, 200))
    origin = panel.last_day - WINDOW
    matrix = panel.matrix(rows, origin)
    offline = ensemble.bounds(matrix, ensemble.predict(matrix), [0.8, 0.95])
    as_of = (panel.info.last_day - timedelta(days=WINDOW)).isoformat()
    told = client.predict(records(rows), as_of=as_of, intervals=[0.8, 0.95])
    for band, (lower, upper) in zip(told.intervals, offline, strict=True):
        assert np.allclose(band.lower, lower, rtol=1e-6)
        assert np.allclose(band.upper, upper, rtol=1e-6)


def test_totals_equal_the_offline_ones(client: Client, panel: Panel, ensemble: Ensemble) -> None:
    rows, _ = window(panel)
    origin = panel.last_day - WINDOW
    as_of = (panel.info.last_day - timedelta(days=WINDOW)).isoformat()
    told = client.predict(records(rows), as_of=as_of, intervals=[0.8], totals=TOTAL_LEVELS)
    request = ForecastRequest(rows, origin, (0.8,))
    offline = forecast_totals(Forecaster(panel, ensemble), request, origin, TOTAL_LEVELS)
    assert [one.by for one in told.totals] == list(TOTAL_LEVELS)
    for got, one in zip(told.totals, offline, strict=True):
        assert np.allclose(got.sales, one.sales, rtol=1e-6)
        assert np.allclose(got.intervals[0].lower, one.intervals[0][0], rtol=1e-6)
        assert np.allclose(got.intervals[0].upper, one.intervals[0][1], rtol=1e-6)
        assert sum(got.rows) == len(rows)
        assert got.store == [None if s < 0 else s for s in one.store]
    chain = told.totals[-1]
    assert (chain.store, chain.store_type) == ([None], [None])
    assert sum(told.predictions) == pytest.approx(chain.sales[0])


def test_a_day_that_comes_twice_has_no_total(client: Client, panel: Panel) -> None:
    rows, _ = window(panel)
    sent = records(rows.take(np.array([0, 1, 0])))
    assert len(client.predict(sent).predictions) == 3
    with pytest.raises(RequestError, match="may come once") as refused:
        client.predict(sent, totals=["chain"])
    assert refused.value.errors[0].loc == ("inputs", 2)
