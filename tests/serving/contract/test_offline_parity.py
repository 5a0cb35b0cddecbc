"""Served forecasts equal offline forecasts, for any batching of the rows."""

import re
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
from rossmann.models.ensemble.residual_scale import IntervalInputs
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
    """The last 48 days of history and their actual sales, shuffled."""
    rows, actual = panel.sales_rows()
    chosen = np.flatnonzero(rows.day > panel.last_day - WINDOW)
    np.random.default_rng(3).shuffle(chosen)
    return rows.take(chosen), actual[chosen]


def to_json_rows(rows: StoreDays) -> list[dict[str, Any]]:
    json_rows = []
    for index in range(len(rows)):
        day = date(1970, 1, 1) + timedelta(days=int(rows.day[index]))
        json_rows.append(
            {
                "Store": int(rows.store[index]),
                "DayOfWeek": day.isoweekday(),
                "Date": day.isoformat(),
                "Open": int(rows.open[index]),
                "Promo": int(rows.promo[index]),
                "StateHoliday": STATE_HOLIDAYS[rows.state_holiday[index]],
                "SchoolHoliday": int(rows.school_holiday[index]),
            }
        )
    return json_rows


def test_served_forecast_equals_offline_for_any_batching(
    client: Client, panel: Panel, ensemble: Ensemble
) -> None:
    rows, actual = window(panel)
    origin = panel.last_day - WINDOW
    offline = ensemble.predict(panel.matrix(rows, origin))
    sent = to_json_rows(rows)
    as_of = (panel.info.last_day - timedelta(days=WINDOW)).isoformat()

    def serve(indices: np.ndarray[Any, Any]) -> FloatArray:
        result = client.predict([sent[index] for index in indices], as_of=as_of)
        assert result.as_of == as_of
        return np.array(result.predictions)

    all_rows = np.arange(len(rows))
    in_one_request = serve(all_rows)
    by_day = np.empty(len(rows))
    for day in np.unique(rows.day):
        indices = np.flatnonzero(rows.day == day)
        by_day[indices] = serve(indices)
    one_by_one = np.concatenate([serve(all_rows[index : index + 1]) for index in all_rows])
    order = np.random.default_rng(4).permutation(len(rows))
    shuffled = np.empty(len(rows))
    shuffled[order] = serve(order)
    for online in (in_one_request, by_day, one_by_one, shuffled):
        assert np.abs(online / offline - 1).max() < 1e-6
        assert rmspe(actual, online) == pytest.approx(rmspe(actual, offline), rel=1e-6)


def test_served_intervals_equal_offline(client: Client, panel: Panel, ensemble: Ensemble) -> None:
    rows, _ = window(panel)
    rows = rows.take(slice(0, 200))
    origin = panel.last_day - WINDOW
    matrix = panel.matrix(rows, origin)
    inputs = IntervalInputs(matrix, rows.day, ensemble.predict(matrix))
    offline = ensemble.bounds(inputs, [0.8, 0.95])
    as_of = (panel.info.last_day - timedelta(days=WINDOW)).isoformat()
    result = client.predict(to_json_rows(rows), as_of=as_of, intervals=[0.8, 0.95])
    for interval, (lower, upper) in zip(result.intervals, offline, strict=True):
        assert np.allclose(interval.lower, lower, rtol=1e-6)
        assert np.allclose(interval.upper, upper, rtol=1e-6)


def test_served_quantiles_equal_offline_for_any_batching(
    client: Client, panel: Panel, ensemble: Ensemble
) -> None:
    rows, _ = window(panel)
    rows = rows.take(slice(0, 200))
    origin = panel.last_day - WINDOW
    matrix = panel.matrix(rows, origin)
    inputs = IntervalInputs(matrix, rows.day, ensemble.predict(matrix))
    quantiles = (0.1, 0.45, 0.9)
    offline = ensemble.quantiles(inputs, quantiles)
    as_of = (panel.info.last_day - timedelta(days=WINDOW)).isoformat()
    sent = to_json_rows(rows)
    result = client.predict(sent, as_of=as_of, intervals=[0.8], quantiles=quantiles)
    for quantile, expected in zip(result.quantiles, offline, strict=True):
        assert np.allclose(quantile.sales, expected, rtol=1e-6)
    (interval,) = result.intervals
    assert result.quantiles[0].sales == interval.lower
    assert result.quantiles[2].sales == interval.upper
    for index in range(0, 200, 20):
        single = client.predict([sent[index]], as_of=as_of, quantiles=quantiles)
        assert [q.sales[0] for q in single.quantiles] == [q.sales[index] for q in result.quantiles]


def test_served_totals_equal_offline(client: Client, panel: Panel, ensemble: Ensemble) -> None:
    rows, _ = window(panel)
    origin = panel.last_day - WINDOW
    as_of = (panel.info.last_day - timedelta(days=WINDOW)).isoformat()
    options = {"intervals": [0.8], "quantiles": [0.1, 0.6], "totals": TOTAL_LEVELS}
    result = client.predict(to_json_rows(rows), as_of=as_of, **options)  # type: ignore[arg-type]
    request = ForecastRequest(rows, origin, (0.8,), quantiles=(0.1, 0.6))
    offline = forecast_totals(Forecaster(panel, ensemble), request, origin, TOTAL_LEVELS)
    assert [total.by for total in result.totals] == list(TOTAL_LEVELS)
    for online, expected in zip(result.totals, offline, strict=True):
        assert np.allclose(online.sales, expected.sales, rtol=1e-6)
        assert np.allclose(online.intervals[0].lower, expected.intervals[0][0], rtol=1e-6)
        assert np.allclose(online.intervals[0].upper, expected.intervals[0][1], rtol=1e-6)
        assert [q.quantile for q in online.quantiles] == [0.1, 0.6]
        assert online.quantiles[0].sales == online.intervals[0].lower
        assert np.allclose(online.quantiles[1].sales, expected.quantiles[1], rtol=1e-6)
        assert sum(online.rows) == len(rows)
        assert online.store == [None if s < 0 else s for s in expected.store]
    chain = result.totals[-1]
    assert (chain.store, chain.store_type) == ([None], [None])
    assert sum(result.predictions) == pytest.approx(chain.sales[0])


def test_totals_of_a_repeated_row_are_rejected(client: Client, panel: Panel) -> None:
    rows, _ = window(panel)
    sent = to_json_rows(rows.take(np.array([0, 1, 0, 2, 1, 1])))
    assert len(client.predict(sent).predictions) == 6
    with pytest.raises(RequestError, match="may come once") as caught:
        client.predict(sent, totals=["chain"])
    assert [error.loc for error in caught.value.errors] == [("inputs", n) for n in (2, 4, 5)]
    first = [re.search("is in inputs ([0-9]+) already", e.msg) for e in caught.value.errors]
    assert [match and match[1] for match in first] == ["0", "1", "1"]
