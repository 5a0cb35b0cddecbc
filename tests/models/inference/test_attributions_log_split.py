"""Split of a ratio's log into contributions that sum to it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rossmann.models.inference.attributions import logarithmic_mean
from rossmann.models.members.catboost import to_log_contributions

MIN_RATIO = 0.02
parts = st.lists(
    st.lists(st.floats(-0.5, 0.5), min_size=4, max_size=4), min_size=1, max_size=20
).map(np.array)


@given(parts, st.floats(0.01, 3.0))
def test_log_contributions_sum_to_the_log_ratio(moves: np.ndarray, start: float) -> None:
    values = np.column_stack([moves, np.full(len(moves), start)])
    split = to_log_contributions(values, MIN_RATIO)
    ratio = np.maximum(values.sum(axis=1), MIN_RATIO)
    assert split.sum(axis=1) == pytest.approx(np.log(ratio), abs=1e-9)
    assert (split[:, -1] == np.log(max(start, MIN_RATIO))).all()


@given(parts, st.floats(0.1, 3.0))
def test_log_contributions_keep_sign_and_order(moves: np.ndarray, start: float) -> None:
    split = to_log_contributions(np.column_stack([moves, np.full(len(moves), start)]), MIN_RATIO)[
        :, :-1
    ]
    big = np.abs(moves) > 1e-9
    assert (np.sign(split)[big] == np.sign(moves)[big]).all()
    for row, log_row in zip(moves, split, strict=True):
        assert (np.diff(log_row[np.argsort(row)]) >= -1e-12).all()


@pytest.mark.parametrize("total", [0.0, 1e-18, 1e-15, -1e-13, 1e-9])
def test_tiny_sums_are_split_in_proportion(total: float) -> None:
    split = to_log_contributions(np.array([[total / 2 + 0.3, total / 2 - 0.3, 1.7]]), MIN_RATIO)[0]
    assert split[:2] == pytest.approx([0.3 / 1.7, -0.3 / 1.7], rel=1e-6)


def test_ratios_below_the_minimum_have_finite_logs() -> None:
    values = np.array([[-1.5, 0.2, 1.0], [-0.5, 0.0, -0.3]])
    split = to_log_contributions(values, MIN_RATIO)
    assert split.sum(axis=1) == pytest.approx(np.log([MIN_RATIO, MIN_RATIO]))
    assert np.isfinite(split).all()


@given(st.floats(1e-3, 1e5), st.floats(1e-3, 1e5))
def test_logarithmic_mean_lies_between_its_arguments(a: float, b: float) -> None:
    (mean,) = logarithmic_mean(np.array([a]), np.array([b]))
    assert min(a, b) * (1 - 1e-6) <= mean <= max(a, b) * (1 + 1e-6)
    if a != b:
        assert mean * np.log(a / b) == pytest.approx(a - b, rel=1e-6, abs=1e-9 * a)
