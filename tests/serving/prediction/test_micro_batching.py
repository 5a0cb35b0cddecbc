"""Requests that are forecast together: each gets what it would have got alone."""

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
from rossmann.models.inference.forecaster import Forecast, Forecaster
from rossmann.schema import FeatureMatrix, FloatArray, Objective, StoreDays
from rossmann.serving.prediction.micro_batching import MAX_BATCH_ROWS, MicroBatcher

Asked = tuple[StoreDays, int | None, tuple[float, ...], Objective]


@pytest.fixture
def forecaster(panel: Panel, ensemble: Ensemble) -> Forecaster:
    return Forecaster(panel, ensemble)


def rows_of(panel: Panel, count: int, seed: int, earliest: int = 1, latest: int = 90) -> StoreDays:
    """Rows of any store up to ``latest`` days after history, some of them closed."""
    rng = np.random.default_rng(seed)
    flags = [rng.integers(0, most, count).astype(np.uint8) for most in (2, 2, 4, 2)]
    return StoreDays(
        rng.choice(panel.store_numbers, count).astype(np.int32),
        (panel.last_day + rng.integers(earliest, latest, count)).astype(np.int32),
        *flags,
    )


def together(forecaster: Forecaster, asked: Sequence[Asked]) -> list[Forecast | BaseException]:
    """What comes of all when they come at one moment."""

    async def play() -> list[Forecast | BaseException]:
        door = MicroBatcher(lambda: len(asked))
        work = [door.forecast(forecaster, *one) for one in asked]
        return await asyncio.gather(*work, return_exceptions=True)

    return asyncio.run(play())


def same(one: Forecast, other: Forecast) -> bool:
    """Equal to the last bit, bounds and warnings too."""
    return (
        (one.sales == other.sales).all()
        and (one.as_of, one.objective, one.warnings)
        == (other.as_of, other.objective, other.warnings)
        and [band.level for band in one.bands] == [band.level for band in other.bands]
        and all(
            (a.lower == b.lower).all() and (a.upper == b.upper).all()
            for a, b in zip(one.bands, other.bands, strict=True)
        )
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[*HealthCheck])
@given(st.data())
def test_each_gets_what_it_gets_alone(
    forecaster: Forecaster, panel: Panel, data: st.DataObject
) -> None:
    origins = st.one_of(st.none(), st.integers(panel.last_day - 60, panel.last_day))
    levels = st.sampled_from([(), (0.8,), (0.8, 0.95)])
    asked: list[Asked] = []
    for seed in range(data.draw(st.integers(2, 40))):
        count = data.draw(st.integers(1, 24))
        objective: Objective = data.draw(st.sampled_from(["accuracy", "unbiased"]))
        rows = rows_of(panel, count, seed)
        asked.append((rows, data.draw(origins), data.draw(levels), objective))
    for one, found in zip(asked, together(forecaster, asked), strict=True):
        assert isinstance(found, Forecast)
        assert same(found, forecaster.forecast(*one))


def test_one_that_is_refused_costs_no_other(forecaster: Forecaster, panel: Panel) -> None:
    good: list[Asked] = [(rows_of(panel, 3, seed), None, (), "accuracy") for seed in range(5)]
    bad: Asked = (rows_of(panel, 2, 9), panel.last_day + 5, (), "accuracy")
    found = together(forecaster, [*good[:2], bad, *good[2:]])
    refused = found.pop(2)
    assert isinstance(refused, RequestError)
    with pytest.raises(RequestError) as alone:
        forecaster.forecast(*bad)
    assert refused.errors == alone.value.errors
    for one, answer in zip(good, found, strict=True):
        assert isinstance(answer, Forecast) and same(answer, forecaster.forecast(*one))


class Counting:
    """An ensemble that notes how many rows it is asked for at once."""

    def __init__(self, ensemble: Ensemble, sales: float | None = None) -> None:
        self.card, self._own, self._sales = ensemble.card, ensemble, sales
        self.asked: list[int] = []

    def predict(self, matrix: FeatureMatrix, threads: int = 1) -> FloatArray:
        self.asked.append(len(matrix))
        if self._sales is not None:
            return np.full(len(matrix), self._sales)
        return self._own.predict(matrix, threads)

    def bounds(self, *given: Any) -> Any:
        return self._own.bounds(*given)

    def contributions(self, *given: Any) -> Any:
        return self._own.contributions(*given)


def test_they_go_in_portions(ensemble: Ensemble, panel: Panel) -> None:
    model = Counting(ensemble)
    full = [np.ones(20, np.uint8)] * 4
    rows = StoreDays(
        np.resize(panel.store_numbers, 20), np.full(20, panel.last_day + 1, np.int32), *full
    )
    together(Forecaster(panel, model), [(rows, None, (), "accuracy")] * 30)
    assert sum(model.asked) == 600
    assert max(model.asked) <= MAX_BATCH_ROWS
    assert len(model.asked) == 5


def test_one_alone_is_not_kept_waiting(ensemble: Ensemble, panel: Panel) -> None:
    model = Counting(ensemble)
    asked: list[Asked] = [(rows_of(panel, 4, seed), None, (), "accuracy") for seed in range(3)]

    async def play() -> None:
        door = MicroBatcher(lambda: 1)
        for one in asked:
            await door.forecast(Forecaster(panel, model), *one)

    asyncio.run(play())
    assert model.asked == [int(one[0].open.sum()) for one in asked if one[0].open.any()]


def test_versions_do_not_mix(ensemble: Ensemble, panel: Panel) -> None:
    one, two = (Forecaster(panel, Counting(ensemble, sales)) for sales in (1_000.0, 2_000.0))
    rows = rows_of(panel, 5, 3)

    async def play() -> list[Forecast]:
        door = MicroBatcher(lambda: 9)
        every = [door.forecast((one, two)[n % 2], rows, None, (), "accuracy") for n in range(8)]
        return list(await asyncio.gather(*every))

    for number, found in enumerate(asyncio.run(play())):
        assert set(found.sales[rows.open == 1]) == {(1_000.0, 2_000.0)[number % 2]}


def test_a_broken_model_is_told_to_all(ensemble: Ensemble, panel: Panel) -> None:
    asked: list[Asked] = [(rows_of(panel, 9, seed), None, (), "accuracy") for seed in range(3)]
    found = together(Forecaster(panel, Counting(ensemble, float("nan"))), asked)
    assert [type(one) for one in found] == [CorruptModelError] * 3


def test_one_that_gives_up_takes_nothing_from_the_others(
    forecaster: Forecaster, panel: Panel
) -> None:
    asked: list[Asked] = [(rows_of(panel, 3, seed), None, (), "accuracy") for seed in range(4)]

    async def play() -> list[Forecast | BaseException]:
        door = MicroBatcher(lambda: 4)
        tasks = [asyncio.create_task(door.forecast(forecaster, *one)) for one in asked]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        tasks[0].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    gone, *others = asyncio.run(play())
    assert isinstance(gone, asyncio.CancelledError)
    for one, answer in zip(asked[1:], others, strict=True):
        assert isinstance(answer, Forecast) and same(answer, forecaster.forecast(*one))
