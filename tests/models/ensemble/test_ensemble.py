"""The blend answers each row alike, however it comes; what was saved is what is loaded."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from rossmann.data.panel.panel import Panel
from rossmann.errors import CorruptModelError
from rossmann.models.ensemble.ensemble import (
    FULL_TRUST_DAYS,
    TRUST_FROM_DAYS,
    Ensemble,
    learner_trust,
)
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.schema import FEATURES, OFFSET_COLUMN, FeatureMatrix


@pytest.fixture(scope="module")
def ensemble(trained: TrainedModel) -> Ensemble:
    return Ensemble.load(trained.folder)


@pytest.fixture(scope="module")
def matrix(panel: Panel) -> FeatureMatrix:
    days = np.arange(panel.last_day + 1, panel.last_day + 49)
    parts = [panel.matrix(panel.store_schedule(int(s), days), panel.last_day)
             for s in panel.store_numbers[:20]]  # fmt: skip
    return np.concatenate(parts)


def test_a_row_alone_equals_the_row_in_company(ensemble: Ensemble, matrix: FeatureMatrix) -> None:
    whole = ensemble.predict(matrix)
    order = np.random.default_rng(1).permutation(len(matrix))
    assert (ensemble.predict(matrix[order]) == whole[order]).all()
    alone = np.array([ensemble.predict(matrix[i : i + 1])[0] for i in range(0, len(matrix), 7)])
    assert alone == pytest.approx(whole[::7], rel=1e-12)


def test_threads_change_nothing(ensemble: Ensemble, matrix: FeatureMatrix) -> None:
    assert (ensemble.predict(matrix, threads=1) == ensemble.predict(matrix, threads=2)).all()


def test_forecasts_are_positive_whatever_comes(ensemble: Ensemble, matrix: FeatureMatrix) -> None:
    rng = np.random.default_rng(2)
    wild = rng.normal(0, 100, (500, matrix.shape[1])).astype(np.float32)
    wild[:, OFFSET_COLUMN] = rng.uniform(0, 12, 500)
    wild[rng.random(wild.shape) < 0.2] = np.nan
    wild[:, OFFSET_COLUMN] = np.nan_to_num(wild[:, OFFSET_COLUMN])
    for found in (ensemble.predict(wild), ensemble.predict(matrix)):
        assert np.isfinite(found).all()
        assert (found > 0).all()


def test_the_blend_is_the_weighted_geometric_mean(
    ensemble: Ensemble, matrix: FeatureMatrix
) -> None:
    factors = ensemble.log_factors(matrix)
    weights = ensemble.card["weights"]
    logs = sum(weights[name] * factor for name, factor in factors.items())
    assert ensemble.predict(matrix) == pytest.approx(
        np.exp(matrix[:, OFFSET_COLUMN] + logs), rel=1e-6
    )


def test_members_are_heard_as_a_store_becomes_known(
    ensemble: Ensemble, matrix: FeatureMatrix
) -> None:
    """The same row with more and more days behind it moves from the filter to the members."""
    assert (learner_trust(matrix) == 1.0).all()
    days = FEATURES.index("open_days_365")
    young = np.repeat(matrix[:1], 4, axis=0)
    young[:, days] = (np.nan, 0, TRUST_FROM_DAYS, (TRUST_FROM_DAYS + FULL_TRUST_DAYS) / 2)
    assert learner_trust(young).tolist() == [0.0, 0.0, 0.0, 0.5]
    offset = np.exp(young[:, OFFSET_COLUMN].astype(np.float64))
    found = ensemble.predict(young)
    assert found[:3] == pytest.approx(offset[:3], rel=1e-12)
    (logs,) = np.log(ensemble.predict(young[3:]) / offset[3:])
    factors = ensemble.log_factors(young[3:])
    weights = ensemble.card["weights"]
    assert logs == pytest.approx(0.5 * sum(weights[n] * f[0] for n, f in factors.items()))


def test_no_rows_no_forecasts(ensemble: Ensemble, matrix: FeatureMatrix) -> None:
    assert ensemble.predict(matrix[:0]).shape == (0,)


def test_saved_is_loaded(ensemble: Ensemble, matrix: FeatureMatrix, tmp_path: Path) -> None:
    ensemble.save(tmp_path / "again")
    again = Ensemble.load(tmp_path / "again")
    assert (again.predict(matrix) == ensemble.predict(matrix)).all()
    assert not list((tmp_path / "again").glob("*.pkl"))


@pytest.fixture
def copy(trained: TrainedModel, tmp_path: Path) -> Path:
    return shutil.copytree(trained.folder, tmp_path / "copy")


@pytest.mark.parametrize("name", ["lightgbm.txt", "xgboost.ubj", "catboost.cbm"])
def test_one_changed_byte_is_refused(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(CorruptModelError, match=f"{name} is damaged"):
        Ensemble.load(copy)


def test_a_missing_file_is_named(copy: Path) -> None:
    (copy / "xgboost.ubj").unlink()
    with pytest.raises(CorruptModelError, match=r"xgboost\.ubj is missing"):
        Ensemble.load(copy)


def test_other_features_are_refused(copy: Path) -> None:
    card = json.loads((copy / "ensemble.json").read_text())
    (copy / "ensemble.json").write_text(json.dumps({**card, "fingerprint": "0" * 16}))
    with pytest.raises(CorruptModelError, match="other features"):
        Ensemble.load(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_broken_card_is_refused(copy: Path, text: str) -> None:
    (copy / "ensemble.json").write_text(text)
    with pytest.raises(CorruptModelError):
        Ensemble.load(copy)
