"""Windows that one fit forecasts after its own: none that a newer fit saw, none beyond history."""

import json

import pytest

from rossmann.data.panel.panel import Panel
from rossmann.models.calibration.totals_fit import calibrate_totals, cross_totals, flat
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.evaluation.windows import Outcome, Window, later_windows, open_windows
from rossmann.models.publishing.trained_model import Trained


def test_later_windows_follow_and_reach_no_newer_one(panel: Panel) -> None:
    windows = open_windows(panel, (48, 200), 30, 31)
    old, new = windows
    later = later_windows(panel, windows, old, 7, 31)
    assert [w.origin - old.origin for w in later] == [30, 60, 90, 120]
    assert all(w.origin + w.days <= new.origin for w in later)
    assert all(w.rows.day.min() > w.origin for w in later)
    assert len(later_windows(panel, windows, old, 2, 31)) == 2
    assert later_windows(panel, windows, old, 0, 31) == []
    assert later_windows(panel, windows, new, 7, 31) == []  # 18 days are left: no whole window


@pytest.fixture(scope="module")
def outcomes(panel: Panel, trained: Trained) -> list[Outcome]:
    ensemble = Ensemble.load(trained.folder)

    def outcome(window: Window, later: list[Window]) -> Outcome:
        after = tuple(outcome(w, []) for w in later)
        return Outcome(window, {"ensemble": ensemble.predict(window.matrix)}, after)

    old, new = open_windows(panel, (48, 200), 30, 31)
    return [outcome(old, later_windows(panel, [old, new], old, 2, 31)), outcome(new, [])]


def test_totals_learn_from_later_windows_too(
    panel: Panel, trained: Trained, outcomes: list[Outcome]
) -> None:
    origins = [o.window.origin for o in flat(outcomes)]
    assert origins == sorted(set(origins))
    table = calibrate_totals(panel, outcomes, trained.card["intervals"])
    assert table["windows"] == 4
    assert len(json.dumps(table)) < 20_000
    assert json.loads(json.dumps(table)) == table
    found = cross_totals(panel, outcomes)
    assert found is not None
    assert found["windows"] == 4
    assert found["kinds"]["chain"]["totals"] == 4
    assert found["kinds"]["chain_day"]["totals"] == 4 * 30
    assert cross_totals(panel, outcomes[:1]) is None


def test_a_trained_version_carries_its_table(trained: Trained) -> None:
    assert trained.card["totals"]["windows"] >= 2
    assert Ensemble.load(trained.folder).card["totals"] == trained.card["totals"]
