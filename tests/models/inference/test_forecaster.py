"""The forecaster: origin, closed days, invalid rows, warnings; rows are independent."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rossmann.data.panel.panel import Panel
from rossmann.errors import CorruptModelError, RequestError
from rossmann.models.ensemble.residual_scale import IntervalInputs
from rossmann.models.inference.forecaster import Forecaster, ForecastRequest
from rossmann.schema import FeatureMatrix, FloatArray, StoreDays

CARD: dict[str, Any] = {"intervals": {"levels": [0.5, 0.99]}}


class Constant:
    """A model with the same forecast for every row."""

    def __init__(self, sales: float) -> None:
        self.card = CARD
        self._sales = sales

    def predict(self, matrix: FeatureMatrix, threads: int = 1) -> FloatArray:
        return np.full(len(matrix), self._sales)

    def bounds(
        self, rows: IntervalInputs, levels: Sequence[float]
    ) -> list[tuple[FloatArray, FloatArray]]:
        return [(rows.forecast - 10, rows.forecast + 10) for _ in levels]

    def quantiles(self, rows: IntervalInputs, quantiles: Sequence[float]) -> list[FloatArray]:
        return [rows.forecast + 100 * quantile - 50 for quantile in quantiles]


def random_rows(panel: Panel, count: int, seed: int = 1, **fixed: int) -> StoreDays:
    """Rows of random stores, days after history and flags."""
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


def test_closed_days_have_zero_forecasts_bounds_and_quantiles(panel: Panel) -> None:
    rows = random_rows(panel, 300)
    request = ForecastRequest(rows, levels=(0.8,), quantiles=(0.9, 0.1))
    forecast = Forecaster(panel, Constant(7777.0)).forecast(request)
    assert (forecast.sales == np.where(rows.open, 7777.0, 0.0)).all()
    assert (forecast.intervals[0].lower == np.where(rows.open, 7767.0, 0.0)).all()
    assert (forecast.intervals[0].upper == np.where(rows.open, 7787.0, 0.0)).all()
    assert [quantile.quantile for quantile in forecast.quantiles] == [0.9, 0.1]
    for quantile, expected in zip(forecast.quantiles, (7817.0, 7737.0), strict=True):
        assert (quantile.sales == np.where(rows.open, expected, 0.0)).all()


def test_only_what_is_requested_is_computed(panel: Panel) -> None:
    class NoBounds(Constant):
        bounds = quantiles = None  # type: ignore[assignment]

    forecast = Forecaster(panel, NoBounds(1.0)).forecast(ForecastRequest(random_rows(panel, 9)))
    assert forecast.intervals == forecast.quantiles == ()
    for options, name in (({"levels": (0.8,)}, "quantiles"), ({"quantiles": (0.1,)}, "bounds")):
        model = Constant(1.0)
        setattr(model, name, None)
        Forecaster(panel, model).forecast(ForecastRequest(random_rows(panel, 9), **options))


def test_quantiles_out_of_range_raise_errors_with_their_index(
    forecaster: Forecaster, panel: Panel
) -> None:
    request = ForecastRequest(random_rows(panel, 3), quantiles=(0.01, 0.005, 0.99, 0.995))
    with pytest.raises(RequestError) as error:
        forecaster.forecast(request)
    assert [(f.loc, f.type) for f in error.value.errors] == [
        (("quantiles", 1), "quantile_range"),
        (("quantiles", 3), "quantile_range"),
    ]
    assert error.value.errors[0].msg == "a quantile must be from 0.01 to 0.99 (got 0.005)"


def test_negative_forecasts_become_zero(panel: Panel) -> None:
    forecast = Forecaster(panel, Constant(-5.0)).forecast(
        ForecastRequest(random_rows(panel, 50, open=1), levels=(0.8,))
    )
    assert (forecast.sales == 0).all() and (forecast.intervals[0].lower == 0).all()


@pytest.mark.parametrize("sales", [np.nan, np.inf])
def test_non_finite_forecasts_raise(panel: Panel, sales: float) -> None:
    with pytest.raises(CorruptModelError):
        Forecaster(panel, Constant(sales)).forecast(ForecastRequest(random_rows(panel, 5, open=1)))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 60), days_back=st.integers(0, 300))
def test_forecast_of_a_row_is_independent_of_other_rows_and_order(
    forecaster: Forecaster, panel: Panel, seed: int, count: int, days_back: int
) -> None:
    rows = random_rows(panel, count, seed)
    as_of = panel.last_day - days_back
    expected = forecaster.forecast(ForecastRequest(rows, as_of)).sales
    rng = np.random.default_rng(seed)
    order = rng.integers(0, count, 2 * count)
    assert (
        forecaster.forecast(ForecastRequest(rows.take(order), as_of)).sales == expected[order]
    ).all()
    cut = int(rng.integers(0, count))
    parts = [part for part in (slice(0, cut), slice(cut, None)) if len(rows.take(part))]
    split = [forecaster.forecast(ForecastRequest(rows.take(part), as_of)).sales for part in parts]
    assert (np.concatenate(split) == expected).all()


def test_parts_of_many_rows_are_the_forecast_of_all(
    forecaster: Forecaster, panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = random_rows(panel, 500)
    origins = panel.last_day - np.random.default_rng(2).integers(0, 60, 500)
    request = ForecastRequest(rows, levels=(0.8, 0.95), quantiles=(0.1, 0.7))
    expected = forecaster.predict_rows(request, origins)
    asked: list[int] = []
    monkeypatch.setattr("rossmann.models.inference.forecaster.CHECKED_ROWS", 64)
    sales, intervals, quantiles = forecaster.predict_rows(request, origins, lambda: asked.append(1))
    assert len(asked) == -(-int(rows.open.sum()) // 64) > 2
    assert (sales == expected[0]).all() and (sales == 0).any() and (sales > 0).any()
    for one, other in zip(intervals, expected.intervals, strict=True):
        assert (one.lower == other.lower).all() and (one.upper == other.upper).all()
    assert len(quantiles) == 2
    for value, same in zip(quantiles, expected.quantiles, strict=True):
        assert value.quantile == same.quantile and (value.sales == same.sales).all()


def test_model_gets_the_matrix_of_the_panel(panel: Panel) -> None:
    """Bit for bit, and for open rows only."""
    matrices: list[FeatureMatrix] = []

    class RecordingModel(Constant):
        def predict(self, matrix: FeatureMatrix, threads: int = 1) -> FloatArray:
            matrices.append(matrix.copy())
            return super().predict(matrix)

    rows = random_rows(panel, 400)
    for as_of in (panel.last_day, panel.last_day - 200):
        Forecaster(panel, RecordingModel(1.0)).forecast(ForecastRequest(rows, as_of))
        open_rows = rows.take(np.flatnonzero(rows.open))
        assert matrices.pop().tobytes() == panel.matrix(open_rows, as_of).tobytes()


def test_default_origin_is_before_the_first_row_and_within_history(
    forecaster: Forecaster, panel: Panel
) -> None:
    rows = random_rows(panel, 20, open=1)
    assert forecaster.forecast(ForecastRequest(rows)).as_of == panel.last_day
    past = StoreDays(
        rows.store, rows.day - 100, *[getattr(rows, n) for n in StoreDays.__slots__[2:]]
    )
    assert forecaster.forecast(ForecastRequest(past)).as_of == int(past.day.min()) - 1
    assert (
        forecaster.forecast(ForecastRequest(past, panel.last_day - 150)).as_of
        == panel.last_day - 150
    )


def test_invalid_rows_raise_errors_with_their_index(forecaster: Forecaster, panel: Panel) -> None:
    rows = random_rows(panel, 4)
    for index, store, day, error_type in (
        (2, 9999, panel.last_day + 1, "unknown_store"),
        (1, 1, panel.first_day, "date_before_history"),
        (3, 1, panel.last_day + 400, "date_too_far"),
    ):
        stores, days = rows.store.copy(), rows.day.copy()
        stores[index], days[index] = store, day
        with pytest.raises(RequestError) as error:
            forecaster.forecast(ForecastRequest(StoreDays(stores, days, *[rows.open] * 4)))
        assert [(f.loc[1], f.type) for f in error.value.errors] == [(index, error_type)]
    with pytest.raises(RequestError):
        forecaster.forecast(ForecastRequest(rows.take(slice(0, 0))))


def test_warnings_of_a_type_are_merged_with_count_and_first_rows(panel: Panel) -> None:
    days = np.arange(panel.last_day + 40, panel.last_day + 70, dtype=np.int32)
    rows = panel.store_schedule(int(panel.store_numbers[0]), days)
    forecast = Forecaster(panel, Constant(1.0), short_history=10**6).forecast(ForecastRequest(rows))
    assert {w.type: w.count for w in forecast.warnings} == {
        "horizon": 21,
        "no_schedule": 21,
        "short_history": 30,
    }
    assert forecast.warnings[0].rows == tuple(range(9, 19))
