"""What drove a forecast: a store's plain day, times one factor for each driver.

A forecast is exp(kfb + trust x sum of weights x log factors): a sum of logs, and each term is a
sum itself. ``kfb`` is the base filter's state times its design; the members split by Shapley
values. Their parts, summed by driver, are the factors' logs. So nothing is fitted or sampled, and
the factors multiply to the forecast.

The baseline is the store's plain day: the filter's level with its mean weekday effect (Monday to
Saturday), no promotion or holiday, and what the members start all rows from.

MERGED: What drove a forecast, as it is told: for HTTP, and as columns of a table.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from rossmann.errors import CorruptModelError
from rossmann.features import state_space as parts_of
from rossmann.features.offset_components import USUAL_WEEKDAY
from rossmann.models.inference.forecaster import Explanation
from rossmann.schema import FEATURE_CATALOGUE, FeatureMatrix, FloatArray

if TYPE_CHECKING:
    from rossmann.models.ensemble.ensemble import Ensemble


def logarithmic_mean(a: FloatArray, b: FloatArray) -> FloatArray:
    """The logarithmic mean of positive ``a`` and ``b``: (a - b) / log(a / b), and a where equal."""
    change = (a - b) / b
    near = np.abs(change) < 1e-9
    return np.asarray(np.where(near, a, b * change / np.log1p(np.where(near, 1.0, change))))


DRIVER_LABELS: Final[dict[str, str]] = {
    "weekday": "Day of the week",
    "promotion": "Promotion, on the day and around it",
    "holiday": "State holidays and Easter",
    "school": "School holidays",
    "season": "Time of year and Christmas trade",
    "month": "Time of the month",
    "opening": "Closed and open days around",
    "level": "Store's recent level and trend",
    "store": "Competition and kind of store",
    "horizon": "Days ahead",
}
"""The drivers of an open day in the order that they are told, in planners' words."""
TOTALS: Final = "totals"
CLOSED: Final = "closed"
OTHER_LABELS: Final = {TOTALS: "Correction to unbiased totals", CLOSED: "Closed"}
TOLERANCE: Final = 1e-4
"""By how much the parts may miss the log of the forecast before the split is refused.

Measured: 1e-6, from ``kfb`` and XGBoost's values, which are 32 bits wide.
"""

_OF_GROUP: Final = {
    "promo": "promotion",
    "holiday": "holiday",
    "school": "school",
    "opening": "opening",
    "store": "store",
    "horizon": "horizon",
    "history": "level",
    "state_space": "level",
}
_OF_CALENDAR: Final = {
    "day_of_week": "weekday",
    "day_of_month": "month",
    "working_days_left_in_month": "month",
    "days_from_easter": "holiday",
    "days_to_christmas": "season",
}
FEATURE_DRIVERS: Final = tuple(
    _OF_CALENDAR[f.name] if f.group == "calendar" else _OF_GROUP[f.group] for f in FEATURE_CATALOGUE
)
"""The driver of each feature, in the order of ``schema.FEATURES``."""
COMPONENT_DRIVERS: Final[dict[int, str]] = {
    **dict.fromkeys(range(parts_of.FIRST_WEEKDAY, parts_of.PROMOTION), "weekday"),
    parts_of.PROMOTION: "promotion",
    parts_of.PROMO_MONDAY: "promotion",
    parts_of.PROMO_FRIDAY: "promotion",
    parts_of.PROMO_TUESDAY: "promotion",
    parts_of.AFTER_PROMO_WEEK: "promotion",
    parts_of.SCHOOL_DAY: "school",
    parts_of.MONTH_START: "month",
    parts_of.MONTH_END: "month",
    parts_of.BEFORE_MONTH_END: "month",
    parts_of.MID_MONTH: "month",
    parts_of.BEFORE_HOLIDAY: "holiday",
    parts_of.AFTER_HOLIDAY: "holiday",
    parts_of.HOLIDAY_IN_WEEK: "holiday",
    parts_of.OPEN_HOLIDAY: "holiday",
    parts_of.EASTER_WEEK: "holiday",
    parts_of.MOTHERS_DAY: "holiday",
    **dict.fromkeys(range(parts_of.BEFORE_CHRISTMAS, parts_of.NEW_YEARS_EVE + 1), "season"),
    parts_of.REOPENED: "opening",
    parts_of.DECEMBER: "season",
}
"""The driver of each component of the base filter but its level, which is the baseline's."""


@dataclass(frozen=True)
class Attribution:
    """Forecasts (n,) as ``baseline`` (n,) times ``factors``, by driver (n,) each."""

    baseline: FloatArray
    factors: dict[str, FloatArray]

    def with_factor(self, name: str, factor: FloatArray) -> "Attribution":
        """The same with one more factor."""
        return Attribution(self.baseline, {**self.factors, name: factor})

    def with_closed_days(self, closed: npt.NDArray[np.bool_]) -> "Attribution":
        """The same where the rows ``closed`` (n,) sell nothing, for that reason alone."""
        kept = {name: np.where(closed, 1.0, factor) for name, factor in self.factors.items()}
        return Attribution(self.baseline, {**kept, CLOSED: np.where(closed, 0.0, 1.0)})

    def product(self) -> FloatArray:
        """The forecasts, multiplied back, (n,)."""
        out = self.baseline.copy()
        for factor in self.factors.values():
            out *= factor
        return out

    def sales_amounts(self) -> dict[str, FloatArray]:
        """What each driver adds in sales, (n,) each: they sum to forecast less baseline.

        A factor's share of the difference is its share of the log (LMDI).
        """
        sales = self.product()
        closed = sales == 0
        mean = logarithmic_mean(np.where(closed, self.baseline, sales), self.baseline)
        amounts = {}
        for name, factor in self.factors.items():
            shut = factor == 0
            amounts[name] = np.where(shut, -self.baseline, mean * np.log(np.where(shut, 1, factor)))
        return amounts


def attribute(
    ensemble: "Ensemble",
    matrix: FeatureMatrix,
    parts: FloatArray,
    sales: FloatArray,
    threads: int = 1,
) -> Attribution:
    """Split the forecasts ``sales`` (n,) that ``ensemble`` made of ``matrix`` (n, 46).

    ``parts`` (n, N_PARTS) are the panel's ``offset_parts`` of the same rows. What rounding leaves
    over goes into the baseline. Raises ``DamagedModel`` where more than rounding is left over.
    """
    told = ensemble.contributions(matrix, threads)
    logs = {name: np.zeros(len(matrix)) for name in DRIVER_LABELS}
    for place, name in enumerate(FEATURE_DRIVERS):
        logs[name] += told[:, place]
    for place, name in COMPONENT_DRIVERS.items():
        logs[name] += parts[:, place]
    usual = parts[:, USUAL_WEEKDAY]
    logs["weekday"] -= usual
    moved = np.sum(list(logs.values()), axis=0)
    plain = parts[:, parts_of.LEVEL] + usual + told[:, -1]
    left_over = np.abs(np.log(sales) - moved - plain)
    if left_over.size and not left_over.max() <= TOLERANCE:
        raise CorruptModelError(
            f"the drivers miss the forecast by {left_over.max():.1e} on the log scale: load another"
            " version, and report this one"
        )
    factors = {name: np.exp(log) for name, log in logs.items()}
    return Attribution(sales / np.prod(list(factors.values()), axis=0), factors)


_LABELS = {**DRIVER_LABELS, **OTHER_LABELS}


def explanation_records(found: Explanation) -> list[dict[str, Any]]:
    """What ``messages.Explanation`` says of each row; a closed one has one driver."""
    factors = {name: column.tolist() for name, column in found.factors.items()}
    sales = {name: column.tolist() for name, column in found.sales.items()}
    baseline = found.baseline.tolist()
    told = []
    for row, forecast in enumerate(found.forecast.sales.tolist()):
        closed = factors[CLOSED][row] == 0
        told.append(
            {
                "forecast": forecast,
                "baseline": baseline[row],
                "drivers": [
                    {
                        "name": name,
                        "label": _LABELS[name],
                        "factor": column[row],
                        "percent": 100 * (column[row] - 1),
                        "sales": sales[name][row],
                    }
                    for name, column in factors.items()
                    if (name == CLOSED) == closed
                ],
            }
        )
    return told


def explanation_columns(found: Explanation) -> dict[str, FloatArray]:
    """The same as columns (n,): the baseline, and each driver in per cent of sales."""
    named = {f"Driver_{name}": 100 * (factor - 1) for name, factor in found.factors.items()}
    return {"Baseline": found.baseline, **named}
