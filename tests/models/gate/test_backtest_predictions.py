"""Stored backtest predictions: content, size, damaged files."""

import json
from pathlib import Path

import numpy as np
import pytest

from rossmann.data.panel.panel import Panel
from rossmann.errors import CorruptModelError
from rossmann.models.evaluation.backtest import MemberOutputs
from rossmann.models.gate.backtest_predictions import (
    PREDICTIONS_FILE,
    BacktestPredictions,
    NewestForecasts,
    WindowPredictions,
    read_predictions,
)
from rossmann.models.publishing.trained_model import TrainedModel


def test_file_has_the_rows_that_were_scored(trained: TrainedModel) -> None:
    predictions = read_predictions(trained.folder / PREDICTIONS_FILE)
    assert [w.origin for w in predictions.windows] == [str(w.origin) for w in trained.windows]
    for window, scored in zip(predictions.windows, trained.windows, strict=True):
        assert len(window.sold) == len(window.store) == scored.rows
        assert window.rmspe == pytest.approx(scored.rmspe["ensemble"], abs=1e-6)
        assert window.bias == pytest.approx(scored.ensemble["bias"], abs=1e-6)
        naive = np.sqrt(np.mean((window.naive / window.sold - 1) ** 2))
        assert naive == pytest.approx(scored.rmspe["seasonal_naive"], abs=1e-6)
        assert set(predictions.coverage[window.origin]) == {"0.80", "0.95"}


def test_file_is_small(trained: TrainedModel) -> None:
    path = trained.folder / PREDICTIONS_FILE
    rows = sum(len(window.sold) for window in read_predictions(path).all_windows)
    assert rows > sum(window.rows for window in trained.windows)  # follow-ups, too
    # 10 bytes of columns and 2 x 3 log factors of 4 bytes
    assert path.stat().st_size < 40 * rows + 10_000


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut short"])
def test_a_damaged_file_raises_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / PREDICTIONS_FILE
    path.write_bytes(content)
    with pytest.raises(CorruptModelError, match="evidence"):
        read_predictions(path)
    with pytest.raises(CorruptModelError):
        read_predictions(tmp_path / "none.npz")


def test_a_truncated_file_raises_an_error(trained: TrainedModel, tmp_path: Path) -> None:
    content = (trained.folder / PREDICTIONS_FILE).read_bytes()
    (tmp_path / PREDICTIONS_FILE).write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptModelError):
        read_predictions(tmp_path / PREDICTIONS_FILE)


def window(
    origin: str, store: list[int], day: list[int], forecast: list[float]
) -> WindowPredictions:
    values = np.array(forecast)
    columns = np.array(store, np.int32), np.array(day, np.int32), values, values, values
    return WindowPredictions(origin, 48, *columns)


def test_newest_forecast_of_a_day_is_from_the_newest_origin() -> None:
    windows = (
        window("2015-05-01", [2, 1, 1], [10, 11, 12], [1.0, 2.0, 3.0]),
        window("2015-04-01", [1, 1, 3], [11, 10, 12], [4.0, 5.0, 6.0]),
    )
    newest = NewestForecasts(BacktestPredictions(windows, {}))
    old, new = "2015-04-01", "2015-05-01"
    assert newest.of_store(1, 0, 99) == {10: (old, 5.0), 11: (new, 2.0), 12: (new, 3.0)}
    assert newest.of_store(1, 11, 11) == {11: (new, 2.0)}
    assert newest.of_store(2, 11, 99) == newest.of_store(4, 0, 99) == newest.of_store(0, 0, 9) == {}
    assert newest.of_store(3, 12, 12) == {12: (old, 6.0)}


def test_newest_forecasts_of_no_window_are_empty() -> None:
    assert NewestForecasts(BacktestPredictions((), {})).of_store(1, 0, 99) == {}


def test_newest_forecasts_hold_every_row_of_a_trained_version(trained: TrainedModel) -> None:
    predictions = read_predictions(trained.folder / PREDICTIONS_FILE)
    newest = NewestForecasts(predictions)
    for one in predictions.windows:  # windows of one training do not overlap
        for n in range(0, len(one.store), 97):
            day = int(one.day[n])
            assert newest.of_store(int(one.store[n]), day, day) == {
                day: (one.origin, one.forecast[n])
            }


def test_log_factors_are_read_on_demand_and_give_the_forecast(
    trained: TrainedModel, panel: Panel
) -> None:
    path = trained.folder / PREDICTIONS_FILE
    assert all(not window.log_factors for window in read_predictions(path).all_windows)
    predictions = read_predictions(path, with_log_factors=True)
    card = {"weights": trained.card["weights"]}
    for window in predictions.windows:
        rows = panel.schedule(window.store, window.day)
        matrix = panel.matrix(rows, window.origin_day)
        factors = dict(
            zip(predictions.members, window.log_factors["ensemble"].astype(np.float64), strict=True)
        )
        assert window.log_factors["without_schedule"].shape == (3, len(window.sold))
        blended = MemberOutputs(matrix, factors).blend(card)
        # weights of the filter are cross-validated: most of the forecast is the members'
        assert np.corrcoef(np.log(blended), np.log(window.forecast))[0, 1] > 0.95
        part = window.take(np.array([4, 2]))
        assert (part.log_factors["ensemble"] == window.log_factors["ensemble"][:, [4, 2]]).all()
    assert {window.age_days for window in predictions.windows} == {0}
    ages = [window.age_days or 0 for window in predictions.later]
    assert min(ages) > 0
    fits = {window.fit_day for window in predictions.windows}
    assert {window.fit_day for window in predictions.later} <= fits


def test_a_file_of_an_earlier_release_is_read(trained: TrainedModel, tmp_path: Path) -> None:
    path = trained.folder / PREDICTIONS_FILE
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored if "log_factors" not in name}
        about = json.loads(str(stored["about"]))
    kept = {name: about[name] for name in ("later", "coverage")}
    kept["windows"] = [{"origin": w["origin"], "days": w["days"]} for w in about["windows"]]
    arrays["about"] = np.array(json.dumps(kept))
    np.savez_compressed(tmp_path / PREDICTIONS_FILE, **arrays)
    old = read_predictions(tmp_path / PREDICTIONS_FILE, with_log_factors=True)
    new = read_predictions(path)
    assert old.members == ()
    assert {window.fit_day for window in old.all_windows} == {None}
    for before, after in zip(old.all_windows, new.all_windows, strict=True):
        assert (before.forecast == after.forecast).all()
