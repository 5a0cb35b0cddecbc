"""Backtest windows, baselines, metrics, and parity of backtest and served forecasts."""

from dataclasses import replace
from datetime import date
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from rossmann.data.panel.panel import Panel
from rossmann.epoch_days import to_date
from rossmann.errors import DataError
from rossmann.features.schedule_counts import PROMO
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.evaluation.backtest import (
    BacktestWindow,
    WindowForecasts,
    baselines,
    build_windows,
    forecast_window,
    offsets_to_choose_by,
    origins_to_offsets,
    rolling_offsets,
    score_window,
)
from rossmann.models.evaluation.metrics import bias, mae, mape, rmspe
from rossmann.models.inference.forecaster import Forecaster, ForecastRequest
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.schema import Dataset
from rossmann.settings import Settings


def test_windows_follow_their_origins(panel: Panel) -> None:
    windows = build_windows(panel, (48, 200), 48, 31)
    assert [w.origin for w in windows] == [panel.last_day - 200, panel.last_day - 48]
    for window in windows:
        assert window.rows.day.min() == window.origin + 1
        assert window.rows.day.max() <= window.origin + 48
        assert (window.sold > 0).all()
        assert (window.rows.open == 1).all()
        assert len(window.matrix) == len(window.rows) == len(window.sold)


def test_seasonal_naive_is_the_last_same_weekday_and_promotion(panel: Panel) -> None:
    (window,) = build_windows(panel, (48,), 48, 31)
    naive = baselines(panel, window)["seasonal_naive"]
    checked = 0
    for i in range(0, len(naive), 37):
        s = int(panel.store_indices(window.rows.store[i : i + 1])[0])
        for day in range(window.origin, panel.first_day - 1, -1):
            t = day - panel.first_day
            y = panel.arrays.log_sales[s, t]
            same = (day - window.rows.day[i]) % 7 == 0
            if same and panel.arrays.cube[t, s, PROMO] == window.rows.promo[i] and y > 0:
                assert naive[i] == pytest.approx(np.exp(y), rel=1e-5)
                checked += 1
                break
    assert checked > 10


def test_too_short_a_history_raises_an_error(panel: Panel) -> None:
    with pytest.raises(DataError, match="needs more history"):
        build_windows(panel, (610,), 48, 31)


def test_metrics_match_their_definitions() -> None:
    sold, forecast = np.array([100.0, 200.0, 0.0]), np.array([110.0, 180.0, 5.0])
    assert rmspe(sold, forecast) == pytest.approx(0.1)
    assert mape(sold, forecast) == pytest.approx(0.1)
    assert mae(sold, forecast) == pytest.approx(35 / 3)
    assert bias(sold, forecast) == pytest.approx(295 / 300 - 1)
    assert np.isnan(rmspe(np.zeros(2), np.ones(2)))


def test_score_has_the_rmspe_of_every_forecaster(panel: Panel) -> None:
    (window,) = build_windows(panel, (48,), 48, 31)
    score = score_window(
        WindowForecasts(window, {"ensemble": window.sold, **baselines(panel, window)})
    )
    assert score.rmspe["ensemble"] == 0.0
    assert score.rmspe["kalman"] > 0.0
    assert score.as_dict()["origin"] == window.origin_date.isoformat()


@pytest.fixture(scope="module")
def ensemble(trained: TrainedModel) -> Ensemble:
    return Ensemble.load(trained.folder)


@pytest.mark.parametrize(("offset", "days"), [(48, 48), (100, 7), (365, 1)])
def test_backtest_forecasts_equal_served_forecasts(
    panel: Panel, ensemble: Ensemble, offset: int, days: int
) -> None:
    """Bit for bit, in any order of the rows."""
    (window,) = build_windows(panel, (offset,), days, 31)
    forecast = forecast_window(panel, window, ensemble, 1).forecasts["ensemble"]
    order = np.random.default_rng(offset).permutation(len(window.rows))
    served = Forecaster(panel, ensemble).forecast(
        ForecastRequest(window.rows.take(order), as_of=window.origin)
    )
    assert (served.sales == forecast[order]).all()


def test_without_schedule_forecast_uses_no_schedule_after_the_origin(
    panel: Panel, ensemble: Ensemble
) -> None:
    (window,) = build_windows(panel, (48,), 48, 31)
    forecasts = forecast_window(panel, window, ensemble, 1).forecasts
    without_schedule = panel.matrix(window.rows, window.origin, planned_to=window.origin)
    assert (forecasts["without_schedule"] == ensemble.predict(without_schedule)).all()
    assert (forecasts["without_schedule"] != forecasts["ensemble"]).any()


def test_rolling_windows_are_consecutive(panel: Panel) -> None:
    windows: list[BacktestWindow] = build_windows(panel, rolling_offsets(5, 20), 20, 31)
    assert [w.origin for w in windows] == [panel.last_day - 20 * k for k in (5, 4, 3, 2, 1)]
    days = np.concatenate([np.unique(w.rows.day) for w in windows])
    assert (np.diff(days) > 0).all()


def test_origins_must_be_dates_of_history(panel: Panel) -> None:
    last = panel.info.last_day
    assert origins_to_offsets(panel, [date.fromordinal(last.toordinal() - 60)]) == (60,)
    for outside in (last, date(2000, 1, 1)):
        with pytest.raises(DataError, match="an origin must be from"):
            origins_to_offsets(panel, [outside])


def test_choices_look_at_no_window_that_overlaps_a_reserved_one(
    panel: Panel, chain_settings: Settings
) -> None:
    """One window of the real tables stays unseen; of the demo chain nothing is learned."""
    reserved = to_date(panel.last_day - 100)
    settings = chain_settings.model_copy(
        update={"reserved_origins": (reserved,), "windows": (48, 365), "window_days": 30}
    )
    offsets = (200, 131, 130, 129, 100, 71, 70, 48)
    lines: list[str] = []
    assert offsets_to_choose_by(settings, panel, offsets, lines.append) == offsets
    assert not lines
    info = replace(panel.info, dataset=Dataset.REAL)
    real = cast("Panel", SimpleNamespace(info=info, last_day=panel.last_day))
    assert offsets_to_choose_by(settings, real, offsets, lines.append) == (200, 131, 130, 70, 48)
    assert len(lines) == 1
    for offset in offsets:
        origin = str(to_date(panel.last_day - offset))
        assert (origin in lines[0]) == (offset in {129, 100, 71})
    assert offsets_to_choose_by(settings, real, (), lines.append) == (365, 48)
    assert len(lines) == 1
    with pytest.raises(DataError, match="reserved_origins"):
        offsets_to_choose_by(settings, real, (100, 90), lines.append)
