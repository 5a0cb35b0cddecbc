"""Output of the tree kernels, compared with the libraries that fitted the trees."""

from pathlib import Path

import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st

from rossmann.errors import CorruptModelError, ModelError
from rossmann.models.members import LEARNERS
from rossmann.models.members.base import BaseLearner, TrainingInputs, verify_against_library
from rossmann.models.members.xgboost import verify_missing
from rossmann.models.trees.forest import Forest, parse_lightgbm
from rossmann.models.trees.node_trees import DEEP_TREE_DEPTH, NodeTrees
from rossmann.models.trees.row_encoding import BLOCK_ROWS
from rossmann.schema import FEATURES, FeatureMatrix, FloatArray

PARAMS = {
    "lightgbm": {"rounds": 70, "num_leaves": 31, "learning_rate": 0.1, "min_data_in_leaf": 5},
    "xgboost": {"rounds": 70, "max_depth": 6, "eta": 0.1},
    "catboost": {"rounds": 70, "depth": 6, "learning_rate": 0.1, "thread_count": 1},
}


def rows(count: int, seed: int) -> FeatureMatrix:
    """Rows with ties, missing values, and very large and small values."""
    rng = np.random.default_rng(seed)
    out = rng.normal(size=(count, len(FEATURES))).astype(np.float32)
    out[:, :10] = rng.integers(-3, 4, (count, 10))
    out[:, 10] *= 1e30
    out[:, 11] *= 1e-36
    out[:, 5:40][rng.random((count, 35)) < 0.2] = np.nan
    out[:, -1] = 8.0
    return out


def sales_of(matrix: FeatureMatrix) -> FloatArray:
    filled = np.nan_to_num(matrix.astype(np.float64))
    log = 8 + 0.1 * filled[:, 0] + 0.2 * (filled[:, 7] > 0) - 0.1 * np.isnan(matrix[:, 12])
    return np.exp(log + 0.05 * filled[:, 20])


@pytest.fixture(scope="module", params=LEARNERS)
def member(request: pytest.FixtureRequest) -> BaseLearner:
    matrix = rows(3000, 1)
    params = PARAMS[request.param]
    return LEARNERS[request.param].fit(
        TrainingInputs.of(matrix, sales_of(matrix)), params, 7, 1, lambda share: None
    )


def library_output(member: BaseLearner, matrix: FeatureMatrix) -> FloatArray:
    booster = member.booster
    if type(member).__name__ == "LightGBM":
        return np.asarray(booster.predict(matrix, raw_score=True))
    if type(member).__name__ == "XGBoost":
        return np.asarray(booster.inplace_predict(matrix, predict_type="margin"), np.float64)
    return np.asarray(booster.predict(matrix))


def test_output_equals_the_library(member: BaseLearner) -> None:
    matrix = rows(5000, 2)
    expected = library_output(member, matrix)
    assert expected.std() > 0.05
    # XGBoost adds its leaves in float32
    tolerance = 2e-6 if type(member).__name__ == "XGBoost" else 1e-12
    assert np.abs(member.forest(matrix) - expected).max() <= tolerance


def test_shallow_and_deep_trees_are_compared(member: BaseLearner) -> None:
    """Shallow trees descend all rows to the end, deep ones only rows not yet at a leaf."""
    trees = member.forest.trees
    if isinstance(trees, NodeTrees) and type(member).__name__ == "LightGBM":
        assert (trees.depth < DEEP_TREE_DEPTH).any()
        assert len({int(depth) for depth in trees.depth if depth >= DEEP_TREE_DEPTH}) > 2
    matrix = rows(2 * BLOCK_ROWS + 17, 4)  # two full blocks and a partial one
    alone = np.concatenate([member.forest(matrix[i : i + 1]) for i in range(len(matrix))])
    assert (member.forest(matrix) == alone).all()


def test_output_equals_the_library_at_every_threshold(member: BaseLearner) -> None:
    """On a threshold, and on the numbers just above and below it."""
    trees = member.forest.trees
    column = trees.link & 255 if isinstance(trees, NodeTrees) else trees.column
    threshold = trees.threshold
    usable = np.isfinite(threshold) & (np.abs(threshold) < 1e37)
    feature, threshold = np.asarray(column, np.int64)[usable] % len(FEATURES), threshold[usable]
    matrix = rows(3 * len(threshold), 3)
    for i, direction in enumerate((None, np.float32(np.inf), np.float32(-np.inf))):
        at = np.arange(len(threshold)) + i * len(threshold)
        matrix[at, feature] = threshold if direction is None else np.nextafter(threshold, direction)
    matrix[np.abs(matrix) < 1.1e-35] = 0.0  # LightGBM treats such numbers as zero
    difference = np.abs(member.forest(matrix) - library_output(member, matrix))
    assert difference.max() <= 2e-6


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_row_output_is_independent_of_other_rows(member: BaseLearner, data: st.DataObject) -> None:
    matrix = rows(4 * BLOCK_ROWS + 5, 4)
    expected = member.forest(matrix)
    picked = data.draw(st.lists(st.integers(0, len(matrix) - 1), min_size=1, max_size=200))
    threads = data.draw(st.integers(1, 4))
    assert (member.forest(matrix[picked], threads) == expected[picked]).all()


def test_output_is_independent_of_the_number_of_rows(member: BaseLearner) -> None:
    matrix = rows(2 * BLOCK_ROWS + 3, 12)
    expected = member.forest(matrix)
    for count in range(1, len(matrix)):
        assert (member.forest(matrix[:count]) == expected[:count]).all(), count


def test_output_is_independent_of_threads(member: BaseLearner) -> None:
    matrix = rows(3000, 5)
    assert (member.forest(matrix, 1) == member.forest(matrix, 3)).all()


def test_saved_member_loads_unchanged(member: BaseLearner, tmp_path: Path) -> None:
    matrix = rows(300, 6)
    member.save(tmp_path)
    again = type(member).load(tmp_path)
    assert (again.factor(matrix, 1) == member.factor(matrix, 1)).all()
    assert again.contributions(matrix[:3], 1) == pytest.approx(member.contributions(matrix[:3], 1))


def test_missing_booster_raises_only_when_used(member: BaseLearner, tmp_path: Path) -> None:
    member.save(tmp_path)
    (tmp_path / member.file).unlink()
    again = type(member).load(tmp_path)
    assert len(again.factor(rows(2, 8), 1)) == 2
    with pytest.raises(CorruptModelError, match="does not load"):
        again.contributions(rows(1, 8), 1)


def test_differing_trees_raise(member: BaseLearner) -> None:
    forest = Forest(member.forest.trees, member.forest.start + 0.01)
    with pytest.raises(ModelError, match="answer otherwise"):
        verify_against_library(forest, rows(100, 9), lambda part: library_output(member, part))


def test_xgboost_takes_a_missing_value_as_the_largest() -> None:
    matrix = rows(3000, 1)
    inputs = TrainingInputs.of(matrix, sales_of(matrix))
    member = LEARNERS["xgboost"].fit(inputs, PARAMS["xgboost"], 7, 1, lambda share: None)
    fresh = rows(2000, 2)
    largest = np.where(np.isnan(fresh), np.float32(np.finfo(np.float32).max), fresh)
    assert (member.forest(fresh) == member.forest(largest)).all()
    zero = np.nan_to_num(fresh, nan=0.0)
    assert (member.forest(fresh) != member.forest(zero)).any()


def test_xgboost_that_learned_where_missing_values_go_raises() -> None:
    matrix = rows(3000, 1)
    data = xgboost.DMatrix(matrix, np.log(sales_of(matrix)))
    booster = xgboost.train({"max_depth": 6}, data, 20)
    with pytest.raises(ModelError, match="missing value"):
        verify_missing(booster, matrix)


def test_tree_of_one_leaf() -> None:
    text = "tree\nTree=0\nnum_leaves=1\nleaf_value=0.25\n\nTree=1\nnum_leaves=1\nleaf_value=-1\n"
    forest = parse_lightgbm(text + "\nend of trees\n")
    assert (forest(rows(20, 1)) == -0.75).all()
    assert (forest(rows(2, 1)) == -0.75).all()


def test_matrix_of_another_width_raises(member: BaseLearner) -> None:
    with pytest.raises(ValueError, match="46"):
        member.forest(np.zeros((2, 45), np.float32))
