"""Where better parameters are looked for: around the present ones, each within sane limits.

Only what stands in the parameters file is searched; a parameter that a person adds there joins
the search if it is named below. Every range is on the log scale, so that half and double are
equally far; a parameter that is 0 or less has no such range, and stays.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

Number = float | int
Params = dict[str, Number]
DIGITS: Final = 3
"""Significant digits of a proposal: more would be noise in the parameters file."""


@dataclass(frozen=True)
class Range:
    """From the present value over ``factor`` to the present value times it, within limits."""

    factor: float
    least: float
    most: float
    whole: bool = False

    def around(self, present: Number) -> tuple[Number, Number]:
        """Lowest and highest value to try; the present one lies between, even beyond limits."""
        low = min(max(present / self.factor, self.least), present)
        high = max(min(present * self.factor, self.most), present)
        return (math.floor(low), math.ceil(high)) if self.whole else (low, high)


SPACE: Final[dict[str, dict[str, Range]]] = {
    "lightgbm": {
        "rounds": Range(1.5, 1, 5000, whole=True),
        "learning_rate": Range(2, 0.001, 1),
        "num_leaves": Range(2, 3, 1024, whole=True),
        "feature_fraction": Range(2, 0.05, 1),
        "bagging_fraction": Range(1.6, 0.1, 1),
        "min_data_in_leaf": Range(3, 1, 5000, whole=True),
        "lambda_l2": Range(5, 0.001, 1000),
        "path_smooth": Range(5, 0.001, 1000),
        "max_bin": Range(2, 15, 255, whole=True),
    },
    "xgboost": {
        "rounds": Range(1.5, 1, 5000, whole=True),
        "eta": Range(2, 0.001, 1),
        "max_depth": Range(1.3, 2, 14, whole=True),
        "colsample_bytree": Range(2, 0.05, 1),
        "subsample": Range(1.6, 0.1, 1),
        "min_child_weight": Range(3, 0.1, 5000),
        "lambda": Range(5, 0.001, 1000),
        "gamma": Range(5, 0.001, 100),
        "max_bin": Range(2, 15, 1024, whole=True),
    },
    "catboost": {
        "rounds": Range(1.5, 1, 5000, whole=True),
        "learning_rate": Range(2, 0.001, 1),
        "depth": Range(1.3, 2, 12, whole=True),
        "rsm": Range(2, 0.05, 1),
        "l2_leaf_reg": Range(5, 0.01, 1000),
        "border_count": Range(2, 15, 254, whole=True),
        "random_strength": Range(5, 0.01, 100),
        "bagging_temperature": Range(5, 0.01, 10),
    },
}


def distributions(member: str, present: Mapping[str, Number]) -> dict[str, BaseDistribution]:
    """What Optuna draws from, by parameter, in the order of ``SPACE``."""
    found: dict[str, BaseDistribution] = {}
    for name, span in SPACE[member].items():
        if name not in present or present[name] <= 0:
            continue
        low, high = span.around(present[name])
        if low == high:
            continue
        kind = IntDistribution if span.whole else FloatDistribution
        found[name] = kind(low, high, log=True)  # type: ignore[arg-type]
    return found


def rounded(params: Mapping[str, Number]) -> Params:
    """The proposal with few digits: what is tried is, to the digit, what would be written."""
    return {
        name: value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")
        for name, value in params.items()
    }
