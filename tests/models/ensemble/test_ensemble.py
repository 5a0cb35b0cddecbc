"""Ensemble: independent rows, blend, saving and loading, corrupt files."""

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
    BlendWeights,
    Ensemble,
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


def test_row_forecast_is_independent_of_other_rows(
    ensemble: Ensemble, matrix: FeatureMatrix
) -> None:
    expected = ensemble.predict(matrix)
    order = np.random.default_rng(1).permutation(len(matrix))
    assert (ensemble.predict(matrix[order]) == expected[order]).all()
    alone = np.array([ensemble.predict(matrix[i : i + 1])[0] for i in range(0, len(matrix), 7)])
    assert alone == pytest.approx(expected[::7], rel=1e-12)


def test_forecast_is_independent_of_threads(ensemble: Ensemble, matrix: FeatureMatrix) -> None:
    assert (ensemble.predict(matrix, threads=1) == ensemble.predict(matrix, threads=2)).all()


def test_forecasts_are_positive_and_finite(ensemble: Ensemble, matrix: FeatureMatrix) -> None:
    rng = np.random.default_rng(2)
    extreme = rng.normal(0, 100, (500, matrix.shape[1])).astype(np.float32)
    extreme[:, OFFSET_COLUMN] = rng.uniform(0, 12, 500)
    extreme[rng.random(extreme.shape) < 0.2] = np.nan
    extreme[:, OFFSET_COLUMN] = np.nan_to_num(extreme[:, OFFSET_COLUMN])
    for sales in (ensemble.predict(extreme), ensemble.predict(matrix)):
        assert np.isfinite(sales).all()
        assert (sales > 0).all()


def test_blend_is_the_weighted_geometric_mean(ensemble: Ensemble, matrix: FeatureMatrix) -> None:
    factors = ensemble.log_factors(matrix)
    weights = ensemble.card["weights"]
    logs = sum(weights[name] * factor for name, factor in factors.items())
    shares = BlendWeights(ensemble.card, ensemble.members).member_shares(matrix)
    assert ensemble.predict(matrix) == pytest.approx(
        np.exp(matrix[:, OFFSET_COLUMN] + shares * logs), rel=1e-6
    )


def test_learner_trust_grows_with_days_of_sales(ensemble: Ensemble, matrix: FeatureMatrix) -> None:
    """The forecast moves from the filter to the members as days of sales increase."""
    plain = BlendWeights({"weights": ensemble.card["weights"]}, ensemble.members)
    assert (plain.member_shares(matrix) == 1.0).all()
    days = FEATURES.index("open_days_365")
    new_store = np.repeat(matrix[:1], 4, axis=0)
    new_store[:, days] = (np.nan, 0, TRUST_FROM_DAYS, (TRUST_FROM_DAYS + FULL_TRUST_DAYS) / 2)
    assert plain.member_shares(new_store).tolist() == [0.0, 0.0, 0.0, 0.5]
    offset = np.exp(new_store[:, OFFSET_COLUMN].astype(np.float64))
    sales = ensemble.predict(new_store)
    assert sales[:3] == pytest.approx(offset[:3], rel=1e-12)
    factors = ensemble.log_factors(new_store[3:])
    (logs,) = np.log(plain.blend(factors, new_store[3:]) / offset[3:])
    weights = ensemble.card["weights"]
    assert logs == pytest.approx(0.5 * sum(weights[n] * f[0] for n, f in factors.items()))


def test_forecast_does_not_depend_on_the_order_of_members(
    ensemble: Ensemble, matrix: FeatureMatrix
) -> None:
    """A trained version and the same one read from files have them in different orders."""
    members = dict(reversed(ensemble.members.items()))
    assert (Ensemble(members, ensemble.card).predict(matrix) == ensemble.predict(matrix)).all()


def test_no_rows_give_no_forecasts(ensemble: Ensemble, matrix: FeatureMatrix) -> None:
    assert ensemble.predict(matrix[:0]).shape == (0,)


def test_load_reads_what_save_wrote(
    ensemble: Ensemble, matrix: FeatureMatrix, tmp_path: Path
) -> None:
    ensemble.save(tmp_path / "again")
    again = Ensemble.load(tmp_path / "again")
    assert (again.predict(matrix) == ensemble.predict(matrix)).all()
    assert not list((tmp_path / "again").glob("*.pkl"))


@pytest.fixture
def copy(trained: TrainedModel, tmp_path: Path) -> Path:
    return shutil.copytree(trained.folder, tmp_path / "copy")


@pytest.mark.parametrize("name", ["lightgbm.txt", "xgboost.ubj", "catboost.cbm"])
def test_changed_byte_raises(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(CorruptModelError, match=f"{name} is damaged"):
        Ensemble.load(copy)


def test_missing_file_raises_with_its_name(copy: Path) -> None:
    (copy / "xgboost.ubj").unlink()
    with pytest.raises(CorruptModelError, match=r"xgboost\.ubj is missing"):
        Ensemble.load(copy)


def test_other_features_raise(copy: Path) -> None:
    card = json.loads((copy / "ensemble.json").read_text())
    (copy / "ensemble.json").write_text(json.dumps({**card, "fingerprint": "0" * 16}))
    with pytest.raises(CorruptModelError, match="other features"):
        Ensemble.load(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_broken_card_raises(copy: Path, text: str) -> None:
    (copy / "ensemble.json").write_text(text)
    with pytest.raises(CorruptModelError):
        Ensemble.load(copy)
