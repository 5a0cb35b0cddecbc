"""Origin, closed is zero, floor, warnings; and that a row's answer is its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rossmann.data.panel.panel import Panel
from rossmann.errors import CorruptModelError, RequestError
from rossmann.models.inference.forecaster import Forecaster, ForecastRequest
from rossmann.schema import FeatureMatrix, FloatArray, StoreDays

CARD: dict[str, Any] = {"intervals": {"levels": [0.5, 0.99]}}


class Constant:
    """A model that says the same of every row."""

    def __init__(self, sales: float) -> None:
        self.card = CARD
        self._sales = sales

    def predict(self, matrix: FeatureMatrix, threads: int = 1) -> FloatArray:
        return np.full(len(matrix), self._sales)

    def bounds(
        self, matrix: FeatureMatrix, sales: FloatArray, levels: Sequence[float]
    ) -> list[tuple[FloatArray, FloatArray]]:
        return [(sales - 10, sales + 10) for _ in levels]


def some_rows(panel: Panel, count: int, seed: int = 1, **fixed: int) -> StoreDays:
    """Rows of any store on days after history, with flags of any kind."""
    rng = np.random.default_rng(seed)
    flags = {
        name: np.full(count, fixed[name]) if name in fixed else rng.integers(0, 2, count)
        for name in ("open", "promo", "school")
    }
    return StoreDays(
        rng.choice(panel.store_numbers, count).astype(np.int32),
        (panel.last_day + rng.integers(1, 49, count)).astype(np.int32),
        flags["open"].astype(np.uint8),
        flags["promo"].astype(np.uint8),
        rng.integers(0, 4, count).astype(np.uint8),
        flags["school"].astype(np.uint8),
    )


@pytest.fixture
def forecaster(make_forecaster: Any, tmp_path: Path) -> Forecaster:
    (tmp_path / "model.txt").write_text("1")
    made: Forecaster = make_forecaster(tmp_path)
    return made


def test_closed_is_zero_whatever_the_model_says(panel: Panel) -> None:
    rows = some_rows(panel, 300)
    told = Forecaster(panel, Constant(7777.0)).forecast(ForecastRequest(rows, levels=(0.8,)))
    assert (told.sales == np.where(rows.open, 7777.0, 0.0)).all()
    assert (told.intervals[0].lower == np.where(rows.open, 7767.0, 0.0)).all()
    assert (told.intervals[0].upper == np.where(rows.open, 7787.0, 0.0)).all()


def test_never_negative(panel: Panel) -> None:
    told = Forecaster(panel, Constant(-5.0)).forecast(
        ForecastRequest(some_rows(panel, 50, open=1), levels=(0.8,))
    )
    assert (told.sales == 0).all() and (told.intervals[0].lower == 0).all()


@pytest.mark.parametrize("sales", [np.nan, np.inf])
def test_what_is_no_number_is_refused(panel: Panel, sales: float) -> None:
    with pytest.raises(CorruptModelError):
        Forecaster(panel, Constant(sales)).forecast(ForecastRequest(some_rows(panel, 5, open=1)))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 60), back=st.integers(0, 300))
def test_shuffled_split_and_repeated_rows_get_the_same_answers(
    forecaster: Forecaster, panel: Panel, seed: int, count: int, back: int
) -> None:
    rows = some_rows(panel, count, seed)
    as_of = panel.last_day - back
    whole = forecaster.forecast(ForecastRequest(rows, as_of)).sales
    rng = np.random.default_rng(seed)
    order = rng.integers(0, count, 2 * count)
    assert (
        forecaster.forecast(ForecastRequest(rows.take(order), as_of)).sales == whole[order]
    ).all()
    cut = int(rng.integers(0, count))
    parts = [part for part in (slice(0, cut), slice(cut, None)) if len(rows.take(part))]
    split = [forecaster.forecast(ForecastRequest(rows.take(part), as_of)).sales for part in parts]
    assert (np.concatenate(split) == whole).all()


def test_matrix_is_the_panels_bit_for_bit(panel: Panel) -> None:
    """What the model is given for a row is what ``Panel.matrix`` says of it, and no more."""
    given_to: list[FeatureMatrix] = []

    class Watching(Constant):
        def predict(self, matrix: FeatureMatrix, threads: int = 1) -> FloatArray:
            given_to.append(matrix.copy())
            return super().predict(matrix)

    rows = some_rows(panel, 400)
    for as_of in (panel.last_day, panel.last_day - 200):
        Forecaster(panel, Watching(1.0)).forecast(ForecastRequest(rows, as_of))
        opened = rows.take(np.flatnonzero(rows.open))
        assert given_to.pop().tobytes() == panel.matrix(opened, as_of).tobytes()


def test_origin(forecaster: Forecaster, panel: Panel) -> None:
    rows = some_rows(panel, 20, open=1)
    assert forecaster.forecast(ForecastRequest(rows)).as_of == panel.last_day
    past = StoreDays(
        rows.store, rows.day - 100, *[getattr(rows, n) for n in StoreDays.__slots__[2:]]
    )
    assert forecaster.forecast(ForecastRequest(past)).as_of == int(past.day.min()) - 1
    assert (
        forecaster.forecast(ForecastRequest(past, panel.last_day - 150)).as_of
        == panel.last_day - 150
    )


def test_refusals_name_their_rows(forecaster: Forecaster, panel: Panel) -> None:
    rows = some_rows(panel, 4)
    for place, store, day, kind in (
        (2, 9999, panel.last_day + 1, "unknown_store"),
        (1, 1, panel.first_day, "date_before_history"),
        (3, 1, panel.last_day + 400, "date_too_far"),
    ):
        stores, days = rows.store.copy(), rows.day.copy()
        stores[place], days[place] = store, day
        with pytest.raises(RequestError) as caught:
            forecaster.forecast(ForecastRequest(StoreDays(stores, days, *[rows.open] * 4)))
        assert [(f.loc[1], f.type) for f in caught.value.errors] == [(place, kind)]
    with pytest.raises(RequestError):
        forecaster.forecast(ForecastRequest(rows.take(slice(0, 0))))


def test_warnings_are_one_of_a_kind_with_count_and_first_rows(panel: Panel) -> None:
    days = np.arange(panel.last_day + 40, panel.last_day + 70, dtype=np.int32)
    rows = panel.store_schedule(int(panel.store_numbers[0]), days)
    told = Forecaster(panel, Constant(1.0), short_history=10**6).forecast(ForecastRequest(rows))
    assert {w.type: w.count for w in told.warnings} == {
        "horizon": 21,
        "no_schedule": 21,
        "short_history": 30,
    }
    assert told.warnings[0].rows == tuple(range(9, 19))
