"""Follow-up windows, and the fit of totals to them."""

import json

import pytest

from rossmann.data.panel.panel import Panel
from rossmann.models.calibration.totals_fit import (
    calibrate_totals,
    cross_validated_totals,
    with_follow_ups,
)
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.evaluation.backtest import (
    BacktestWindow,
    WindowForecasts,
    build_windows,
    follow_up_windows,
)
from rossmann.models.publishing.trained_model import TrainedModel


def test_follow_up_windows_end_before_the_next_newer_window(panel: Panel) -> None:
    windows = build_windows(panel, (48, 200), 30, 31)
    old, new = windows
    later = follow_up_windows(panel, windows, old, 7, 31)
    assert [w.origin - old.origin for w in later] == [30, 60, 90, 120]
    assert all(w.origin + w.days <= new.origin for w in later)
    assert all(w.rows.day.min() > w.origin for w in later)
    assert len(follow_up_windows(panel, windows, old, 2, 31)) == 2
    assert follow_up_windows(panel, windows, old, 0, 31) == []
    assert follow_up_windows(panel, windows, new, 7, 31) == []  # only 18 days are left


@pytest.fixture(scope="module")
def outcomes(panel: Panel, trained: TrainedModel) -> list[WindowForecasts]:
    ensemble = Ensemble.load(trained.folder)

    def outcome(window: BacktestWindow, later: list[BacktestWindow]) -> WindowForecasts:
        follow_ups = tuple(outcome(w, []) for w in later)
        return WindowForecasts(window, {"ensemble": ensemble.predict(window.matrix)}, follow_ups)

    old, new = build_windows(panel, (48, 200), 30, 31)
    return [outcome(old, follow_up_windows(panel, [old, new], old, 2, 31)), outcome(new, [])]


def test_totals_are_fitted_to_follow_up_windows_too(
    panel: Panel, trained: TrainedModel, outcomes: list[WindowForecasts]
) -> None:
    origins = [o.window.origin for o in with_follow_ups(outcomes)]
    assert origins == sorted(set(origins))
    table = calibrate_totals(panel, outcomes, trained.card["intervals"])
    assert table["windows"] == 4
    assert len(json.dumps(table)) < 20_000
    assert json.loads(json.dumps(table)) == table
    measured = cross_validated_totals(panel, outcomes)
    assert measured is not None
    assert measured["windows"] == 4
    assert measured["kinds"]["chain"]["totals"] == 4
    assert measured["kinds"]["chain_day"]["totals"] == 4 * 30
    assert cross_validated_totals(panel, outcomes[:1]) is None


def test_a_trained_version_has_a_totals_table(trained: TrainedModel) -> None:
    assert trained.card["totals"]["windows"] >= 2
    assert Ensemble.load(trained.folder).card["totals"] == trained.card["totals"]
