"""Metrics that no single row decides, and the rows that decide the others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rossmann.models.evaluation.metrics import capped_rmspe, dominant_rows, rmspe, wape

SOLD = np.full(100, 5000.0)


def test_one_strange_day_does_not_decide_the_capped_error() -> None:
    """A candidate that is better everywhere else has the higher RMSPE, and the lower capped one."""
    production = SOLD * 1.10
    candidate = SOLD * 1.09
    production[7], candidate[7] = SOLD[7] * 12.0, SOLD[7] * 12.5
    assert rmspe(SOLD, candidate) > rmspe(SOLD, production)
    assert capped_rmspe(SOLD, candidate) < capped_rmspe(SOLD, production)
    assert wape(SOLD[8:], candidate[8:]) == pytest.approx(0.09)


@given(st.floats(-0.5, 0.5))
def test_the_capped_error_of_ordinary_days_is_the_rmspe(error: float) -> None:
    forecast = SOLD * (1.0 + error)
    assert capped_rmspe(SOLD, forecast) == pytest.approx(rmspe(SOLD, forecast))


def test_rows_with_a_large_share_of_the_squared_error_are_named() -> None:
    forecast = SOLD * 1.1
    forecast[[3, 40]] = SOLD[0] * np.array([1.4, 2.0])
    (first, large), (second, small) = dominant_rows(SOLD, forecast)
    total = 98 * 0.1**2 + 0.4**2 + 1.0
    assert (first, second) == (40, 3)
    assert (large, small) == pytest.approx((1.0 / total, 0.16 / total))
    assert dominant_rows(SOLD, SOLD * 1.1) == []
    assert dominant_rows(SOLD, SOLD) == []
    assert dominant_rows(np.zeros(3), np.ones(3)) == []


def test_metrics_without_sales_are_no_number() -> None:
    empty = np.zeros(0)
    assert np.isnan([wape(empty, empty), capped_rmspe(np.zeros(2), np.ones(2))]).all()
