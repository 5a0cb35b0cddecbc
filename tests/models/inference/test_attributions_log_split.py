"""The log split leaves nothing over, whatever is split."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rossmann.models.inference.attributions import logarithmic_mean
from rossmann.models.members.catboost import to_log_contributions

FLOOR = 0.02
parts = st.lists(
    st.lists(st.floats(-0.5, 0.5), min_size=4, max_size=4), min_size=1, max_size=20
).map(np.array)


@given(parts, st.floats(0.01, 3.0))
def test_the_logs_sum_to_the_log(moves: np.ndarray, start: float) -> None:
    values = np.column_stack([moves, np.full(len(moves), start)])
    split = to_log_contributions(values, FLOOR)
    ratio = np.maximum(values.sum(axis=1), FLOOR)
    assert split.sum(axis=1) == pytest.approx(np.log(ratio), abs=1e-9)
    assert (split[:, -1] == np.log(max(start, FLOOR))).all()


@given(parts, st.floats(0.1, 3.0))
def test_parts_keep_their_sign_and_their_order(moves: np.ndarray, start: float) -> None:
    split = to_log_contributions(np.column_stack([moves, np.full(len(moves), start)]), FLOOR)[
        :, :-1
    ]
    big = np.abs(moves) > 1e-9
    assert (np.sign(split)[big] == np.sign(moves)[big]).all()
    for row, told in zip(moves, split, strict=True):
        assert (np.diff(told[np.argsort(row)]) >= -1e-12).all()


@pytest.mark.parametrize("moved", [0.0, 1e-18, 1e-15, -1e-13, 1e-9])
def test_what_hardly_moves_is_split_as_well(moved: float) -> None:
    split = to_log_contributions(np.array([[moved / 2 + 0.3, moved / 2 - 0.3, 1.7]]), FLOOR)[0]
    assert split[:2] == pytest.approx([0.3 / 1.7, -0.3 / 1.7], rel=1e-6)


def test_floored_ratios_have_logs_too() -> None:
    values = np.array([[-1.5, 0.2, 1.0], [-0.5, 0.0, -0.3]])
    split = to_log_contributions(values, FLOOR)
    assert split.sum(axis=1) == pytest.approx(np.log([FLOOR, FLOOR]))
    assert np.isfinite(split).all()


@given(st.floats(1e-3, 1e5), st.floats(1e-3, 1e5))
def test_the_logarithmic_mean_lies_between(a: float, b: float) -> None:
    (mean,) = logarithmic_mean(np.array([a]), np.array([b]))
    assert min(a, b) * (1 - 1e-6) <= mean <= max(a, b) * (1 + 1e-6)
    if a != b:
        assert mean * np.log(a / b) == pytest.approx(a - b, rel=1e-6, abs=1e-9 * a)
