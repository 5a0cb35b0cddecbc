"""Windows to reweight from: as training had them, with the sales that the tables have now."""

from dataclasses import replace

import numpy as np
import pytest

from rossmann.data.panel.panel import Panel
from rossmann.errors import DataError
from rossmann.models.calibration.filter_weights import cross_validate_filter_weights
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.evaluation.backtest import WindowForecasts, with_follow_ups
from rossmann.models.gate.backtest_predictions import (
    PREDICTIONS_FILE,
    BacktestPredictions,
    read_predictions,
)
from rossmann.models.members.fit import first_training_day
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.models.training.stored_windows import forecast_recent_windows, restore_windows
from rossmann.settings import Settings


@pytest.fixture(scope="module")
def stored(trained: TrainedModel) -> BacktestPredictions:
    return read_predictions(trained.folder / PREDICTIONS_FILE, with_log_factors=True)


@pytest.fixture(scope="module")
def ensemble(trained: TrainedModel) -> Ensemble:
    return Ensemble.load(trained.folder)


@pytest.fixture(scope="module")
def restored(
    panel: Panel, ensemble: Ensemble, stored: BacktestPredictions
) -> list[WindowForecasts]:
    return restore_windows(panel, ensemble, stored, panel.last_day)


def test_restored_windows_are_those_of_the_training(
    panel: Panel, trained: TrainedModel, restored: list[WindowForecasts],
    stored: BacktestPredictions, chain_settings: Settings,
) -> None:  # fmt: skip
    first_day = first_training_day(panel, chain_settings.history_days)
    again = cross_validate_filter_weights(restored, first_day, trained.card["weights"])
    assert [str(o.window.origin_date) for o in again] == [w.origin for w in stored.windows]
    assert sum(len(o.follow_ups) for o in again) == len(stored.later) > 0
    by_origin = {window.origin: window for window in stored.all_windows}
    for outcome in with_follow_ups(again):
        window = by_origin[str(outcome.window.origin_date)]
        assert (outcome.window.rows.store == window.store).all()
        assert (outcome.window.rows.day == window.day).all()
        assert (outcome.window.sold == window.sold).all()
        assert outcome.age_days == window.age_days
        assert outcome.forecasts["ensemble"] == pytest.approx(window.forecast, rel=1e-6)
        assert outcome.forecasts["seasonal_naive"] == pytest.approx(window.naive, rel=1e-6)
    for outcome, scored in zip(again, trained.windows, strict=True):
        for name, rmspe in scored.rmspe.items():
            errors = outcome.forecasts[name] / outcome.window.sold - 1
            assert np.sqrt(np.mean(errors**2)) == pytest.approx(rmspe, rel=1e-5), name


def test_corrected_sales_count_as_they_are_now_and_lost_rows_are_left_out(
    panel: Panel, ensemble: Ensemble, stored: BacktestPredictions
) -> None:
    window = stored.windows[0]
    is_lost = np.arange(len(window.sold)) % 7 == 3
    sold = np.where(np.arange(len(window.sold)) % 5 == 0, 2 * window.sold, window.sold)
    store = np.where(is_lost, 10_000, window.store).astype(np.int32)
    changed = replace(stored, windows=(replace(window, sold=sold, store=store),), later=())
    (outcome,) = restore_windows(panel, ensemble, changed, panel.last_day)
    assert (outcome.window.sold == window.sold[~is_lost]).all()
    assert (outcome.window.rows.store == window.store[~is_lost]).all()
    factors = window.log_factors["ensemble"][:, ~is_lost]
    for number, name in enumerate(stored.members):
        assert (outcome.members["ensemble"].log_factors[name] == factors[number]).all()


def test_a_window_without_rows_is_left_out_with_its_follow_ups(
    panel: Panel, ensemble: Ensemble, stored: BacktestPredictions
) -> None:
    first, *others = stored.windows
    gone = replace(first, store=np.full_like(first.store, 10_000))
    changed = replace(stored, windows=(gone, *others))
    kept = restore_windows(panel, ensemble, changed, panel.last_day)
    assert [str(o.window.origin_date) for o in kept] == [w.origin for w in others]


def test_windows_of_the_version_s_own_members_are_not_restored(
    panel: Panel, ensemble: Ensemble, stored: BacktestPredictions
) -> None:
    fit_day = stored.windows[-1].fit_day
    assert fit_day is not None
    kept = restore_windows(panel, ensemble, stored, fit_day)
    assert [str(o.window.origin_date) for o in kept] == [w.origin for w in stored.windows[:-1]]


def test_another_chain_s_tables_are_refused(
    panel: Panel, ensemble: Ensemble, stored: BacktestPredictions
) -> None:
    windows = tuple(replace(w, sold=w.sold + 1) for w in stored.windows)
    with pytest.raises(DataError, match=r"0 have the same sales .* another chain"):
        restore_windows(panel, ensemble, replace(stored, windows=windows, later=()), 0)


def test_recent_windows_roll_back_to_the_last_training_day(
    panel: Panel, ensemble: Ensemble, chain_settings: Settings
) -> None:
    settings = chain_settings.model_copy(update={"window_days": 20})
    for days, count in ((0, 0), (19, 0), (20, 1), (59, 2), (60, 3)):
        last = panel.last_day - days
        recent = forecast_recent_windows(panel, ensemble, last, settings)
        expected = [panel.last_day - 20 * k for k in range(count, 0, -1)]
        assert [outcome.window.origin for outcome in recent] == expected
        assert [outcome.age_days for outcome in recent] == [o - last for o in expected]
        for outcome in recent:
            assert outcome.window.rows.day.min() > last
            matrix = panel.matrix(outcome.window.rows, outcome.window.origin)
            assert (outcome.forecasts["ensemble"] == ensemble.predict(matrix)).all()
