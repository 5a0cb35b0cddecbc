"""Training: training rows, reproducibility, accuracy against the baselines, card and report."""

import json
from pathlib import Path

import numpy as np
import pytest

from rossmann.data.panel.panel import Panel
from rossmann.errors import SettingsError
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.members import LEARNERS
from rossmann.models.members.base import TrainingInputs, target_ratio
from rossmann.models.members.fit import sample_schedule_ends, sample_training_rows
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.models.training.train import train
from rossmann.schema import FEATURES, MAX_HORIZON, OFFSET_COLUMN, feature_fingerprint
from rossmann.settings import Settings


def test_training_horizons_are_uniform_and_early_rows_are_excluded(panel: Panel) -> None:
    examples = sample_training_rows(panel, 31, seed=1)
    horizon = examples.matrix[:, FEATURES.index("horizon")]
    counts = np.bincount(horizon.astype(int), minlength=MAX_HORIZON + 1)[1:]
    assert horizon.min() == 1
    assert horizon.max() == MAX_HORIZON
    assert counts.max() < 1.35 * counts.min()
    assert (examples.day - horizon - panel.first_day + 1 >= 31).all()


def test_training_rows_equal_the_rows_that_serving_builds(panel: Panel) -> None:
    """The matrix that members learn from equals the one that a request gets, bit for bit."""
    examples = sample_training_rows(panel, 31, seed=1)
    origins = examples.day - examples.matrix[:, FEATURES.index("horizon")].astype(np.int64)
    plan_ends = sample_schedule_ends(examples.day, origins, seed=1)
    rows, sold = panel.sales_rows()
    kept = np.nonzero(np.isin(rows.day, examples.day))[0]
    for i in np.random.default_rng(0).integers(0, len(examples.sold), 50):
        same = kept[(rows.day[kept] == examples.day[i]) & (sold[kept] == examples.sold[i])]
        served = {
            panel.matrix(
                panel.store_schedule(int(rows.store[j]), examples.day[i : i + 1]),
                int(origins[i]),
                planned_to=int(plan_ends[i]),
                region_day=panel.last_day,
            )[0].tobytes()
            for j in same
        }
        assert examples.matrix[i].tobytes() in served


def test_some_training_rows_have_no_schedule(panel: Panel) -> None:
    examples = sample_training_rows(panel, 31, seed=1)
    unknown = np.isnan(examples.matrix[:, FEATURES.index("days_to_promo")]).mean()
    assert 0.2 < unknown < 0.4
    origins = examples.day - 5
    ends = sample_schedule_ends(examples.day, origins, seed=2)
    assert 0.17 < (ends == origins).mean() < 0.23
    assert (ends >= origins).all()


def test_a_samples_matrix_is_the_part_of_the_whole_one(panel: Panel) -> None:
    """Of a large chain only the sample's is built, bit for bit the same."""
    rows = sample_training_rows(panel, 31, seed=1)
    chosen = np.sort(np.random.default_rng(2).choice(len(rows.sold), 500, replace=False))
    sample = rows.take(chosen)
    assert sample.matrix.tobytes() == rows.matrix[chosen].tobytes()
    assert (sample.sold == rows.sold[chosen]).all()
    assert (sample.day == rows.day[chosen]).all()


def test_inputs_hold_the_matrix_with_the_offset_apart(panel: Panel) -> None:
    rows = sample_training_rows(panel, 31, seed=1)
    inputs = rows.inputs()
    assert (inputs.features[:, OFFSET_COLUMN] == 0.0).all()
    assert (inputs.offset == rows.matrix[:, OFFSET_COLUMN]).all()
    others = np.delete(np.arange(len(FEATURES)), OFFSET_COLUMN)
    assert inputs.features[:, others].tobytes() == rows.matrix[:, others].tobytes()
    copied = TrainingInputs.of(rows.matrix, rows.sold)
    assert copied.features.tobytes() == inputs.features.tobytes()
    assert (rows.matrix[:, OFFSET_COLUMN] != 0.0).all()


def test_training_rows_have_the_regions_that_are_known_at_their_end(panel: Panel) -> None:
    """Not those of each row's origin: an unknown region would tell members the year."""
    examples, column = sample_training_rows(panel, 31, seed=1), FEATURES.index("region")
    early = panel.first_day + 60
    for rows, day in ((examples, panel.last_day), (examples.known_at(early), early)):
        expected = panel.regions(rows.rows, day)
        assert (rows.matrix[:, column] == expected).all()
    unknown = [(r.matrix[:, column] < 0).mean() for r in (examples.known_at(early), examples)]
    assert unknown[0] > unknown[1]


def test_same_seed_gives_the_same_model(
    chain_settings: Settings, trained: TrainedModel, panel: Panel
) -> None:
    again = train(chain_settings, "quick")
    assert again.folder != trained.folder
    days = np.arange(panel.last_day + 1, panel.last_day + 40)
    matrix = panel.matrix(panel.store_schedule(int(panel.store_numbers[2]), days), panel.last_day)
    first, second = (Ensemble.load(t.folder).predict(matrix) for t in (trained, again))
    assert (first == second).all()
    assert again.card["metrics"] == trained.card["metrics"]


def test_ensemble_beats_the_baselines(trained: TrainedModel) -> None:
    assert len(trained.windows) == 2
    for window in trained.windows:
        assert window.rmspe["ensemble"] < window.rmspe["seasonal_naive"]
        assert window.rmspe["ensemble"] < window.rmspe["median"]


def test_card_holds_lineage_and_metrics(trained: TrainedModel, panel: Panel) -> None:
    card = json.loads((trained.folder / "ensemble.json").read_text())
    assert card["fingerprint"] == feature_fingerprint()
    assert card["data"]["version"] == panel.info.version
    assert card["data"]["dataset"] == "demo"
    assert card["features"] == list(FEATURES)
    assert set(card["files"]) == {name for m in LEARNERS.values() for name in m.files()}
    assert card["params"]["training_rows"] > 1000
    assert len(card["metrics"]["windows"]) == 2


def test_summary_has_table_and_picture(trained: TrainedModel) -> None:
    report = (trained.folder / "report.md").read_text()
    assert "Seasonal naive" in report
    picture = Path(trained.folder / "pictures" / "windows.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


def test_unknown_profile_is_rejected(chain_settings: Settings) -> None:
    with pytest.raises(SettingsError, match="no profile 'huge'; there are: full, quick"):
        train(chain_settings, "huge")


def test_target_ratio_has_a_floor() -> None:
    matrix = np.zeros((2, len(FEATURES)), np.float32)
    matrix[:, OFFSET_COLUMN] = np.log(1000.0)
    inputs = TrainingInputs.of(matrix, np.array([2000.0, 1.0]))
    assert target_ratio(inputs) == pytest.approx([2.0, 0.2], rel=1e-6)
