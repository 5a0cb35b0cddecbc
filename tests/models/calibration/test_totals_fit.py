"""Follow-up windows, and the fit of totals to them."""

import json

import numpy as np
import pytest

from rossmann.data.panel.panel import Panel
from rossmann.models.calibration.totals_fit import calibrate_totals, cross_validated_totals
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.evaluation.backtest import (
    BacktestWindow,
    WindowForecasts,
    build_windows,
    follow_up_windows,
    with_follow_ups,
)
from rossmann.models.publishing.trained_model import TrainedModel


def test_follow_up_windows_fill_the_gap_to_the_next_newer_window(panel: Panel) -> None:
    windows = build_windows(panel, (48, 200), 30, 31)
    old, new = windows
    later = follow_up_windows(panel, windows, old, 7, 31)
    assert [w.origin - old.origin for w in later] == [30, 61, 91, 122]  # 152 days in five steps
    assert all(old.origin < w.origin < new.origin for w in later)
    assert all(w.rows.day.min() > w.origin for w in later)
    assert len(follow_up_windows(panel, windows, old, 2, 31)) == 2
    assert follow_up_windows(panel, windows, old, 0, 31) == []
    assert follow_up_windows(panel, windows, new, 7, 31) == []  # only 18 days are left
    (only,) = build_windows(panel, (200,), 30, 31)
    origins = [w.origin for w in follow_up_windows(panel, [only], only, 12, 31)]
    assert [origin - only.origin for origin in origins] == [28, 57, 85, 113, 142, 170]
    assert origins[-1] + 30 == panel.last_day


@pytest.fixture(scope="module")
def outcomes(panel: Panel, trained: TrainedModel) -> list[WindowForecasts]:
    ensemble = Ensemble.load(trained.folder)

    def outcome(window: BacktestWindow, later: list[BacktestWindow]) -> WindowForecasts:
        follow_ups = tuple(outcome(w, []) for w in later)
        forecasts = {"ensemble": ensemble.predict(window.matrix)}
        return WindowForecasts(window, forecasts, follow_ups=follow_ups)

    old, new = build_windows(panel, (48, 200), 30, 31)
    return [outcome(old, follow_up_windows(panel, [old, new], old, 2, 31)), outcome(new, [])]


def test_totals_are_fitted_to_follow_up_windows_too(
    panel: Panel, trained: TrainedModel, outcomes: list[WindowForecasts]
) -> None:
    origins = [o.window.origin for o in with_follow_ups(outcomes)]
    assert origins == sorted(set(origins))
    windows = with_follow_ups(outcomes)
    table = calibrate_totals(panel, windows, trained.card["intervals"])
    assert table["windows"] == 4
    assert len(json.dumps(table)) < 20_000
    assert json.loads(json.dumps(table)) == table
    measured = cross_validated_totals(panel, windows)
    assert measured is not None
    assert measured["windows"] == 4
    assert measured["kinds"]["chain"]["totals"] == 4
    assert measured["kinds"]["chain_day"]["totals"] == 4 * 30
    assert cross_validated_totals(panel, windows[:1]) is None


def test_a_trained_version_has_a_totals_table(trained: TrainedModel) -> None:
    assert trained.card["totals"]["windows"] >= 2
    assert Ensemble.load(trained.folder).card["totals"] == trained.card["totals"]


def test_past_windows_stand_beside_the_bands_that_are_served(
    panel: Panel, trained: TrainedModel, outcomes: list[WindowForecasts]
) -> None:
    windows = with_follow_ups(outcomes)
    table = calibrate_totals(panel, windows, trained.card["intervals"], chain_floor=0.03)
    for past, window in zip(table["past"], windows, strict=True):
        sold, forecast = window.window.sold.sum(), window.forecasts["ensemble"].sum()
        assert past["log_error"] == pytest.approx(float(np.log(sold / forecast)))
        assert past["origin"] == window.window.origin_date.isoformat()
        assert 0 < past["half_width"]["0.80"] < past["half_width"]["0.95"]


def test_the_floor_holds_for_the_total_of_a_chain_without_shocks(
    panel: Panel, trained: TrainedModel, outcomes: list[WindowForecasts]
) -> None:
    windows, intervals = with_follow_ups(outcomes), trained.card["intervals"]
    half_widths = [
        calibrate_totals(panel, windows, intervals, floor)["past"][0]["half_width"]["0.80"]
        for floor in (0.0, 0.05, 0.2)
    ]
    assert half_widths == sorted(half_widths)
    assert half_widths[-1] > 0.2 * 1.5  # Student's t of four windows
