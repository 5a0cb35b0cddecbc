"""The paired permutation test of two forecasts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rossmann.models.evaluation.metrics import N_PERMUTATIONS, permutation_test
from rossmann.schema import FloatArray


def rows(stores: int, days: int) -> tuple[FloatArray, FloatArray]:
    return np.repeat(np.arange(stores), days), np.tile(np.arange(days), stores)


def noisy(sold: FloatArray, sd: float, seed: int) -> FloatArray:
    return sold * np.exp(np.random.default_rng(seed).normal(0, sd, len(sold)))


def test_equal_forecasts_are_significant_as_often_as_the_level() -> None:
    """Two forecasts of one quality, each with errors that a store's rows share."""
    store, day = rows(60, 20)
    sold = np.full(len(store), 5000.0)
    rng = np.random.default_rng(1)
    passed = 0
    for _ in range(200):
        levels = rng.normal(0, 0.08, (2, 60))
        first, second = (sold * np.exp(level[store] + rng.normal(0, 0.05, len(store)))
                       for level in levels)  # fmt: skip
        passed += permutation_test(store, day, sold, first, second).p_value <= 0.05
    assert 2 <= passed <= 22  # 10 expected; these bounds fail once in thousands of runs


@given(seed=st.integers(0, 50), stores=st.sampled_from([1, 3, 40]))
def test_a_clearly_better_forecast_is_significant(seed: int, stores: int) -> None:
    store, day = rows(stores, 84)
    sold = np.full(len(store), 5000.0)
    test = permutation_test(
        store, day, sold, noisy(sold, 0.05, seed), noisy(sold, 0.12, seed + 100)
    )
    assert test.p_value < 0.01
    assert test.first_rmspe < test.second_rmspe
    assert test.share_of_stores_better > 0.9
    assert (
        permutation_test(store, day, sold, noisy(sold, 0.12, seed), noisy(sold, 0.05, 7)).p_value
        > 0.5
    )


def test_the_same_forecast_has_p_value_one() -> None:
    store, day = rows(30, 10)
    sold = np.linspace(1000, 9000, len(store))
    first = noisy(sold, 0.1, 3)
    test = permutation_test(store, day, sold, first, first.copy())
    assert test.p_value == 1
    assert test.share_of_stores_better == 0


def test_result_does_not_depend_on_row_order() -> None:
    store, day = rows(30, 10)
    sold = np.linspace(1000, 9000, len(store))
    first, second = noisy(sold, 0.1, 3), noisy(sold, 0.102, 4)
    test = permutation_test(store, day, sold, first, second)
    order = np.random.default_rng(0).permutation(len(store))
    again = permutation_test(store[order], day[order], sold[order], first[order], second[order])
    assert again.p_value == pytest.approx(test.p_value)
    assert again.first_rmspe == pytest.approx(test.first_rmspe)
    assert 1 / (N_PERMUTATIONS + 1) <= test.p_value <= 1


def test_nan_is_not_significant() -> None:
    store, day = rows(30, 10)
    sold = np.full(len(store), 5000.0)
    broken = sold.copy()
    broken[7] = np.nan
    assert not permutation_test(store, day, sold, broken, sold * 1.1).p_value <= 0.05


def test_no_rows_raise_an_error() -> None:
    none = np.empty(0)
    with pytest.raises(ValueError, match="no row"):
        permutation_test(none, none, none, none, none)
