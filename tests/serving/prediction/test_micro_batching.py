"""Micro-batches: each request gets the forecast that it would get alone."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rossmann.data.panel.panel import Panel
from rossmann.errors import CorruptModelError, RequestError
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.inference.forecaster import Forecast, Forecaster, ForecastRequest
from rossmann.schema import FeatureMatrix, FloatArray, Objective, StoreDays
from rossmann.serving.prediction.micro_batching import MAX_BATCH_ROWS, MicroBatcher


@pytest.fixture
def forecaster(panel: Panel, ensemble: Ensemble) -> Forecaster:
    return Forecaster(panel, ensemble)


def random_rows(panel: Panel, count: int, seed: int) -> StoreDays:
    """Rows of any store up to 90 days after history, some of them closed."""
    rng = np.random.default_rng(seed)
    flags = [rng.integers(0, high, count).astype(np.uint8) for high in (2, 2, 4, 2)]
    return StoreDays(
        rng.choice(panel.store_numbers, count).astype(np.int32),
        (panel.last_day + rng.integers(1, 90, count)).astype(np.int32),
        *flags,
    )


def forecast_at_once(
    forecaster: Forecaster, requests: Sequence[ForecastRequest]
) -> list[Forecast | BaseException]:
    """The results of requests that are ready in the same turn of the event loop."""

    async def run() -> list[Forecast | BaseException]:
        batcher = MicroBatcher(lambda: len(requests))
        work = [batcher.forecast(forecaster, request) for request in requests]
        return await asyncio.gather(*work, return_exceptions=True)

    return asyncio.run(run())


def is_same(one: Forecast, other: Forecast) -> bool:
    """Equal to the last bit, with intervals, quantiles and warnings."""
    return (
        (one.sales == other.sales).all()
        and (one.as_of, one.objective, one.warnings)
        == (other.as_of, other.objective, other.warnings)
        and [i.level for i in one.intervals] == [i.level for i in other.intervals]
        and all(
            (a.lower == b.lower).all() and (a.upper == b.upper).all()
            for a, b in zip(one.intervals, other.intervals, strict=True)
        )
        and [q.quantile for q in one.quantiles] == [q.quantile for q in other.quantiles]
        and all(
            (a.sales == b.sales).all() for a, b in zip(one.quantiles, other.quantiles, strict=True)
        )
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[*HealthCheck])
@given(st.data())
def test_batched_forecasts_equal_single_ones(
    forecaster: Forecaster, panel: Panel, data: st.DataObject
) -> None:
    origins = st.one_of(st.none(), st.integers(panel.last_day - 60, panel.last_day))
    levels = st.sampled_from([(), (0.8,), (0.8, 0.95)])
    quantiles = st.sampled_from([(), (), (0.1, 0.9), (0.45,)])
    requests = []
    for seed in range(data.draw(st.integers(2, 40))):
        count = data.draw(st.integers(1, 24))
        objective: Objective = data.draw(st.sampled_from(["accuracy", "unbiased"]))
        rows = random_rows(panel, count, seed)
        origin, own_levels = data.draw(origins), data.draw(levels)
        requests.append(ForecastRequest(rows, origin, own_levels, objective, data.draw(quantiles)))
    results = forecast_at_once(forecaster, requests)
    for request, result in zip(requests, results, strict=True):
        assert isinstance(result, Forecast)
        assert is_same(result, forecaster.forecast(request))


def test_invalid_request_fails_alone(forecaster: Forecaster, panel: Panel) -> None:
    valid = [ForecastRequest(random_rows(panel, 3, seed)) for seed in range(5)]
    invalid = ForecastRequest(random_rows(panel, 2, 9), panel.last_day + 5)
    results = forecast_at_once(forecaster, [*valid[:2], invalid, *valid[2:]])
    error = results.pop(2)
    assert isinstance(error, RequestError)
    with pytest.raises(RequestError) as single:
        forecaster.forecast(invalid)
    assert error.errors == single.value.errors
    for request, result in zip(valid, results, strict=True):
        assert isinstance(result, Forecast) and is_same(result, forecaster.forecast(request))


class CountingEnsemble:
    """An ensemble that records the rows of each call; ``sales`` replaces its forecasts."""

    def __init__(self, ensemble: Ensemble, sales: float | None = None) -> None:
        self.card, self._ensemble, self._sales = ensemble.card, ensemble, sales
        self.rows_by_call: list[int] = []

    def predict(self, matrix: FeatureMatrix, threads: int = 1) -> FloatArray:
        self.rows_by_call.append(len(matrix))
        if self._sales is not None:
            return np.full(len(matrix), self._sales)
        return self._ensemble.predict(matrix, threads)

    def bounds(self, *arguments: Any) -> Any:
        return self._ensemble.bounds(*arguments)

    def quantiles(self, *arguments: Any) -> Any:
        return self._ensemble.quantiles(*arguments)

    def contributions(self, *arguments: Any) -> Any:
        return self._ensemble.contributions(*arguments)


def test_batches_have_a_maximum_size(ensemble: Ensemble, panel: Panel) -> None:
    model = CountingEnsemble(ensemble)
    ones = [np.ones(20, np.uint8)] * 4
    rows = StoreDays(
        np.resize(panel.store_numbers, 20), np.full(20, panel.last_day + 1, np.int32), *ones
    )
    forecast_at_once(Forecaster(panel, model), [ForecastRequest(rows)] * 30)
    assert sum(model.rows_by_call) == 600
    assert max(model.rows_by_call) <= MAX_BATCH_ROWS
    assert len(model.rows_by_call) == 5


def test_single_requests_are_not_delayed(ensemble: Ensemble, panel: Panel) -> None:
    model = CountingEnsemble(ensemble)
    requests = [ForecastRequest(random_rows(panel, 4, seed)) for seed in range(3)]

    async def run() -> None:
        batcher = MicroBatcher(lambda: 1)
        for request in requests:
            await batcher.forecast(Forecaster(panel, model), request)

    asyncio.run(run())
    open_rows = [int(request.rows.open.sum()) for request in requests]
    assert model.rows_by_call == [count for count in open_rows if count]


def test_batches_do_not_mix_versions(ensemble: Ensemble, panel: Panel) -> None:
    versions = [
        Forecaster(panel, CountingEnsemble(ensemble, sales)) for sales in (1_000.0, 2_000.0)
    ]
    rows = random_rows(panel, 5, 3)

    async def run() -> list[Forecast]:
        batcher = MicroBatcher(lambda: 9)
        work = [batcher.forecast(versions[n % 2], ForecastRequest(rows)) for n in range(8)]
        return list(await asyncio.gather(*work))

    for number, forecast in enumerate(asyncio.run(run())):
        assert set(forecast.sales[rows.open == 1]) == {(1_000.0, 2_000.0)[number % 2]}


def test_model_error_reaches_every_request(ensemble: Ensemble, panel: Panel) -> None:
    requests = [ForecastRequest(random_rows(panel, 9, seed)) for seed in range(3)]
    broken = Forecaster(panel, CountingEnsemble(ensemble, float("nan")))
    results = forecast_at_once(broken, requests)
    assert [type(result) for result in results] == [CorruptModelError] * 3


def test_cancelled_request_leaves_the_others(forecaster: Forecaster, panel: Panel) -> None:
    requests = [ForecastRequest(random_rows(panel, 3, seed)) for seed in range(4)]

    async def run() -> list[Forecast | BaseException]:
        batcher = MicroBatcher(lambda: 4)
        work = [asyncio.create_task(batcher.forecast(forecaster, one)) for one in requests]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        work[0].cancel()
        return await asyncio.gather(*work, return_exceptions=True)

    cancelled, *others = asyncio.run(run())
    assert isinstance(cancelled, asyncio.CancelledError)
    for request, result in zip(requests[1:], others, strict=True):
        assert isinstance(result, Forecast) and is_same(result, forecaster.forecast(request))
