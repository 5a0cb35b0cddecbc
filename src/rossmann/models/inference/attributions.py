"""Feature attributions: a forecast as a baseline times one factor for each driver.

A forecast is exp(kfb + trust x sum of weights x log factors), so its log is a sum. ``kfb`` is the
base filter's state times its design vector; the members are attributed by Shapley values. These
terms, summed by driver, are the logs of the factors. Nothing is fitted or sampled, and the factors
multiply to the forecast.

The baseline is the filter's level with its mean weekday effect (Monday to Saturday), no promotion
or holiday, and the members' expected value.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from rossmann.errors import CorruptModelError
from rossmann.features import state_space
from rossmann.features.offset_components import MEAN_WEEKDAY
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
"""The drivers of an open day in the order of the response, in planners' words."""
TOTALS: Final = "totals"
CLOSED: Final = "closed"
OTHER_LABELS: Final = {TOTALS: "Correction to unbiased totals", CLOSED: "Closed"}
TOLERANCE: Final = 1e-4
"""By how much the parts may miss the log of the forecast before an error is raised.

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
    **dict.fromkeys(range(state_space.FIRST_WEEKDAY, state_space.PROMOTION), "weekday"),
    state_space.PROMOTION: "promotion",
    state_space.PROMO_MONDAY: "promotion",
    state_space.PROMO_FRIDAY: "promotion",
    state_space.PROMO_TUESDAY: "promotion",
    state_space.AFTER_PROMO_WEEK: "promotion",
    state_space.SCHOOL_DAY: "school",
    state_space.MONTH_START: "month",
    state_space.MONTH_END: "month",
    state_space.BEFORE_MONTH_END: "month",
    state_space.MID_MONTH: "month",
    state_space.BEFORE_HOLIDAY: "holiday",
    state_space.AFTER_HOLIDAY: "holiday",
    state_space.HOLIDAY_IN_WEEK: "holiday",
    state_space.OPEN_HOLIDAY: "holiday",
    state_space.EASTER_WEEK: "holiday",
    state_space.MOTHERS_DAY: "holiday",
    **dict.fromkeys(range(state_space.BEFORE_CHRISTMAS, state_space.NEW_YEARS_EVE + 1), "season"),
    state_space.REOPENED: "opening",
    state_space.DECEMBER: "season",
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
            zero = factor == 0
            amounts[name] = np.where(zero, -self.baseline, mean * np.log(np.where(zero, 1, factor)))
        return amounts


def attribute(
    ensemble: "Ensemble",
    matrix: FeatureMatrix,
    components: FloatArray,
    sales: FloatArray,
    threads: int = 1,
    check: Callable[[], None] = lambda: None,
) -> Attribution:
    """Attribute the forecasts ``sales`` (n,) that ``ensemble`` made of ``matrix`` (n, 46).

    ``components`` (n, N_COMPONENTS) are ``Panel.offset_components`` of the same rows. Rounding
    errors go into the baseline. ``check`` is called between rows, and may raise to end the work.
    Raises ``CorruptModelError`` where the rest is larger than those.
    """
    contributions = ensemble.contributions(matrix, threads, check)
    logs = {name: np.zeros(len(matrix)) for name in DRIVER_LABELS}
    for column, name in enumerate(FEATURE_DRIVERS):
        logs[name] += contributions[:, column]
    for column, name in COMPONENT_DRIVERS.items():
        logs[name] += components[:, column]
    mean_weekday = components[:, MEAN_WEEKDAY]
    logs["weekday"] -= mean_weekday
    log_factors = np.sum(list(logs.values()), axis=0)
    log_baseline = components[:, state_space.LEVEL] + mean_weekday + contributions[:, -1]
    residual = np.abs(np.log(sales) - log_factors - log_baseline)
    if residual.size and not residual.max() <= TOLERANCE:
        raise CorruptModelError(
            f"the drivers miss the forecast by {residual.max():.1e} on the log scale: load another"
            " version, and report this one"
        )
    factors = {name: np.exp(log) for name, log in logs.items()}
    return Attribution(sales / np.prod(list(factors.values()), axis=0), factors)


_LABELS = {**DRIVER_LABELS, **OTHER_LABELS}


def explanation_records(explanation: Explanation) -> list[dict[str, Any]]:
    """The fields of ``schemas.forecasts.Explanation`` for each row; a closed row has one driver."""
    factors = {name: column.tolist() for name, column in explanation.factors.items()}
    sales = {name: column.tolist() for name, column in explanation.sales.items()}
    baseline = explanation.baseline.tolist()
    promo, other = explanation.promo.tolist(), explanation.other_promo.tolist()
    records = []
    for row, forecast in enumerate(explanation.forecast.sales.tolist()):
        closed = factors[CLOSED][row] == 0
        records.append(
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
                "other_promo": None
                if closed
                else {
                    "promo": 0 if promo[row] else 1,
                    "forecast": other[row],
                    "percent": 100 * (other[row] / forecast - 1) if forecast else 0.0,
                },
            }
        )
    return records


def explanation_columns(explanation: Explanation) -> dict[str, FloatArray]:
    """The same as columns (n,): the baseline, each driver in per cent of sales, the other promo."""
    percent = {f"Driver_{name}": 100 * (factor - 1) for name, factor in explanation.factors.items()}
    other = {"Sales_other_promo": explanation.other_promo}
    return {"Baseline": explanation.baseline, **percent, **other}
