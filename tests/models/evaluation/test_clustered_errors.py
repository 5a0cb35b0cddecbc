"""Student's t distribution function, against SciPy's."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.special import stdtr

from rossmann.models.evaluation.clustered_errors import student_t_cdf


@given(st.floats(-1e6, 1e6), st.integers(1, 2_000))
@example(1e-9, 3)
@example(0.0, 1)
@example(-700.0, 400)
def test_student_t_is_that_of_scipy_in_the_tails_too(value: float, degrees: int) -> None:
    expected = float(stdtr(degrees, value))
    assert student_t_cdf(value, degrees) == pytest.approx(expected, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize(("value", "expected"), [(math.inf, 1.0), (-math.inf, 0.0)])
def test_student_t_at_its_ends(value: float, expected: float) -> None:
    assert student_t_cdf(value, 5) == expected


def test_no_number_stays_none() -> None:
    assert math.isnan(student_t_cdf(math.nan, 5))
