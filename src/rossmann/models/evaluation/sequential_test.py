"""Sequential test: whether one forecast is better, for those who look again every day.

A p-value of a fixed sample says nothing where people look until it is small. The p-value here holds
at all looks together: it is that of the normal mixture martingale (Robbins 1970; Howard, Ramdas,
McAuliffe and Sekhon, *Time-uniform, nonparametric, nonasymptotic confidence sequences*, 2021) with
the standard error by stores and weeks and, for the few weeks, Student's t. Before four weeks, and
for less than the minimum improvement, there is no verdict.

``benchmarks/paired_test.py --looks`` simulates how often it errs in 90 daily looks.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final, Literal

import numpy as np

from rossmann.models.evaluation.clustered_errors import Estimate, student_t_cdf

Verdict = Literal["better", "worse", "undecided"]

MIN_WEEKS: Final = 4
"""Weeks with known sales before there is a verdict."""
MAX_P_VALUE: Final = 0.05
MIN_IMPROVEMENT: Final = 0.005
"""Share by which the WAPE must differ for a verdict."""
_MIXTURE_VARIANCE: Final = 0.25
"""Variance of the mixture, for each week in units of the weekly one: chosen in the simulation."""
_SMALLEST: Final = 1e-300


@dataclass(frozen=True)
class SequentialTest:
    """``improvement``: share by which the first WAPE is lower, negative where it is higher, with
    its ``standard_error``; ``p_value``: of no difference, valid at all looks together.
    """

    improvement: float
    standard_error: float
    p_value: float
    weeks: int
    verdict: Verdict


def sequential_test(improvement: Estimate, weeks: int) -> SequentialTest:
    """The test of an improvement that was estimated from ``weeks`` weeks."""
    p_value = _p_value(improvement, weeks)
    is_clear = p_value <= MAX_P_VALUE and abs(improvement.value) >= MIN_IMPROVEMENT
    verdict: Verdict = "undecided"
    if weeks >= MIN_WEEKS and is_clear:
        verdict = "better" if improvement.value > 0 else "worse"
    return SequentialTest(improvement.value, improvement.error, p_value, weeks, verdict)


def improvement_of_separate(first: Estimate, second: Estimate) -> Estimate:
    """The improvement of the first WAPE on the second, measured on other stores.

    What dates do to both is taken as independent, which makes the standard error larger.
    """
    if not second.value:
        return Estimate(float("nan"), float("nan"))
    ratio = first.value / second.value
    error = math.hypot(first.error, ratio * second.error) / second.value
    return Estimate(1.0 - ratio, error)


def _p_value(improvement: Estimate, weeks: int) -> float:
    if weeks < 2 or not np.isfinite(improvement).all() or improvement.error <= 0:
        return 1.0
    tail = student_t_cdf(-abs(improvement.value) / improvement.error, weeks - 1)
    z = NormalDist().inv_cdf(max(tail, _SMALLEST))
    spread = weeks * _MIXTURE_VARIANCE
    return min(1.0, math.sqrt(spread + 1.0) * math.exp(-z * z * spread / (2.0 * (spread + 1.0))))
