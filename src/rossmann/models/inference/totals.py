"""Forecast totals by store, store type and chain, with prediction intervals and quantiles."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from rossmann.data.uploads.fields import repeated_day_errors
from rossmann.errors import CorruptModelError, RequestError
from rossmann.models.calibration.bias_correction import BIAS_CORRECTION_KEY, bias_factors
from rossmann.models.calibration.totals_covariance import (
    ForecastRows,
    Group,
    TotalsTables,
    group_by,
    sum_by_group,
    total_bounds,
    total_quantile,
    totals_variance,
)
from rossmann.models.calibration.totals_fit import store_types
from rossmann.models.ensemble.prediction_intervals import validate_table
from rossmann.models.ensemble.residual_scale import IntervalInputs, residual_scale
from rossmann.schema import FloatArray

if TYPE_CHECKING:
    from rossmann.models.inference.forecaster import Forecaster, ForecastRequest

TOTALS_KEY: Final = "totals"
"""Key of a version's card that holds the table for totals."""
TOTAL_LEVELS: Final = (
    "store_week",
    "store",
    "store_type_week",
    "store_type",
    "chain_week",
    "chain",
)
"""Totals that can be requested; a week is Monday to Sunday."""
_ALL: Final = -1


@dataclass(frozen=True)
class Totals:
    """Totals of one level, g of them: arrays (g,).

    ``store``: store number, ``store_type``: index in ``schema.STORE_TYPES``, each -1 where the
    total spans several; ``first``, ``last``: first and last epoch day of its rows; ``rows``: how
    many; ``sales``: the forecast; ``intervals``: lower and upper bound of each interval level;
    ``quantiles``: the total at each quantile.
    """

    by: str
    store: Group
    store_type: Group
    first: Group
    last: Group
    rows: Group
    sales: FloatArray
    intervals: list[tuple[FloatArray, FloatArray]]
    quantiles: list[FloatArray]


def forecast_totals(
    forecaster: "Forecaster",
    request: "ForecastRequest",
    origin: int,
    by: Sequence[str],
    check: Callable[[], None] = lambda: None,
) -> list[Totals]:
    """Totals of the request's rows, each store and day once, as of ``origin``, for each of ``by``.

    Closed rows count as exactly zero. With ``objective`` unbiased the totals are of unbiased
    forecasts, within the same intervals; quantiles are the same for both. ``check`` is called
    between levels, and may raise to end the work. Raises ``RequestError`` where a store's day comes
    twice, ``ValueError`` for a name outside ``TOTAL_LEVELS``, an interval level outside .5 to .99
    or a quantile outside .01 to .99, ``CorruptModelError`` for a version without the tables that
    this takes.
    """
    unknown = [name for name in by if name not in TOTAL_LEVELS]
    if unknown:
        raise ValueError(f"totals are by {', '.join(TOTAL_LEVELS)} (got {unknown[0]})")
    card = forecaster.ensemble.card
    missing = [key for key in (TOTALS_KEY, BIAS_CORRECTION_KEY) if key not in card]
    if TOTALS_KEY in missing or (request.objective == "unbiased" and missing):
        raise CorruptModelError("this version has no tables for totals: train a new one")
    repeated = list(repeated_day_errors(request.rows, "inputs {}".format))
    if repeated:
        raise RequestError([replace(error, loc=("inputs", *error.loc)) for error in repeated])
    check()
    validate_table(card["intervals"])
    rows, point_forecasts = _forecast_rows(forecaster, request, origin)
    tables, totals = (card["intervals"], card[TOTALS_KEY]), []
    for name in by:
        check()
        totals.append(_totals_by(name, rows, point_forecasts, request, tables))
    return totals


def _totals_by(
    name: str,
    rows: ForecastRows,
    point_forecasts: FloatArray,
    request: "ForecastRequest",
    tables: TotalsTables,
) -> Totals:
    groups, store, store_type = _groups(name, rows)
    count = len(store)
    variance = totals_variance(tables[1], rows, groups)
    bounds = [total_bounds(tables, variance, level) for level in request.levels]
    sales = sum_by_group(groups, point_forecasts, count)
    return Totals(
        by=name,
        store=store,
        store_type=store_type,
        first=_extreme(np.minimum, groups, rows.day, count),
        last=_extreme(np.maximum, groups, rows.day, count),
        rows=np.bincount(groups, minlength=count).astype(np.int64),
        sales=sales,
        intervals=[(np.minimum(low, sales), np.maximum(up, sales)) for low, up in bounds],
        quantiles=[total_quantile(tables, variance, p) for p in request.quantiles],
    )


def _forecast_rows(
    forecaster: "Forecaster", request: "ForecastRequest", origin: int
) -> tuple[ForecastRows, FloatArray]:
    """The rows with sales and residual scale, and the point forecasts that are added up, (n,)."""
    panel, ensemble, rows = forecaster.panel, forecaster.ensemble, request.rows
    open_rows = np.nonzero(rows.open)[0]
    matrix = panel.matrix(rows.take(open_rows), origin)
    sales, scale, factor = (np.zeros(len(rows)) for _ in range(3))
    sales[open_rows] = ensemble.predict(matrix)
    inputs = IntervalInputs(matrix, rows.day[open_rows], sales[open_rows])
    scale[open_rows] = residual_scale(ensemble.card["intervals"], inputs)
    factor[open_rows] = 1.0
    if request.objective == "unbiased":
        factor[open_rows] = bias_factors(ensemble.card[BIAS_CORRECTION_KEY], matrix)
    store_type = store_types(panel)[panel.store_indices(rows.store)]
    return ForecastRows(rows.store, rows.day, store_type, sales, scale), sales * factor


def _groups(name: str, rows: ForecastRows) -> tuple[Group, Group, Group]:
    """Each row's group (n,), and each group's store and store type, (g,)."""
    unit = name.removesuffix("_week")
    all_rows = np.full(len(rows.day), _ALL)
    store = rows.store if unit == "store" else all_rows
    store_type = all_rows if unit == "chain" else rows.store_type
    week = (rows.day.astype(np.int64) + 3) // 7  # 1970-01-01 was a Thursday
    groups, (stores, store_types_, _) = group_by(
        store, store_type, all_rows if unit == name else week
    )
    return groups, stores, store_types_


def _extreme(choose: np.ufunc, groups: Group, day: npt.NDArray[np.integer], count: int) -> Group:
    """The least or greatest day of each group, (count,)."""
    out = np.zeros(count, np.int64)
    out[groups] = day  # any day of the group as the start
    choose.at(out, groups, day.astype(np.int64))
    return out
