"""Forecast totals of rows with their bands: what a door asks for by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from rossmann.errors import CorruptModelError
from rossmann.models.calibration.bias_correction import BIAS_CORRECTION_KEY, bias_factors
from rossmann.models.calibration.totals_covariance import (
    ForecastRows,
    Group,
    group_by,
    sum_by,
    totals_intervals,
)
from rossmann.models.calibration.totals_fit import store_types
from rossmann.models.ensemble.prediction_intervals import residual_scale
from rossmann.schema import FloatArray, Objective, StoreDays

if TYPE_CHECKING:
    from rossmann.data.panel.panel import Panel
    from rossmann.models.ensemble.ensemble import Ensemble


TOTALS_KEY: Final = "totals"
"""Where a version's card holds the table."""
TOTAL_LEVELS: Final = (
    "store_week",
    "store",
    "store_type_week",
    "store_type",
    "chain_week",
    "chain",
)
"""Totals that can be asked for; a week is Monday to Sunday."""
_ALL: Final = -1


@dataclass(frozen=True)
class Totals:
    """Totals of one sort, g of them: arrays (g,).

    ``store``: store number, ``kind``: place in ``schema.STORE_TYPES``, each -1 where the total is
    not of one; ``first``, ``last``: first and last day of its rows, since 1970-01-01; ``rows``:
    how many; ``sales``: the forecast; ``bands``: lower and upper bound of each level.
    """

    by: str
    store: Group
    store_type: Group
    first: Group
    last: Group
    rows: Group
    sales: FloatArray
    bands: list[tuple[FloatArray, FloatArray]]


def forecast_totals(
    panel: "Panel",
    ensemble: "Ensemble",
    rows: StoreDays,
    origin: int,
    by: Sequence[str],
    levels: Sequence[float] = (),
    objective: Objective = "accuracy",
    threads: int = 1,
) -> list[Totals]:
    """Totals of ``rows`` (n,), each store and day once, as of ``origin``, for each sort of ``BY``.

    Closed rows count as zero for certain. With ``objective`` unbiased the totals are of unbiased
    forecasts, within the same bands. Raises ``ValueError`` for an unknown sort or a level outside
    .5 to .99, ``DamagedModel`` for a version without the tables that this takes.
    """
    unknown = [name for name in by if name not in TOTAL_LEVELS]
    if unknown:
        raise ValueError(f"totals are by {', '.join(TOTAL_LEVELS)} (got {unknown[0]})")
    card = ensemble.card
    missing = [t for t in (TOTALS_KEY, BIAS_CORRECTION_KEY) if t not in card]
    if TOTALS_KEY in missing or (objective == "unbiased" and missing):
        raise CorruptModelError("this version has no tables for totals: train a new one")
    lines, point = _lines(panel, ensemble, rows, origin, objective, threads)
    out = []
    for name in by:
        groups, store, kind = _groups(name, lines)
        count = len(store)
        _, found = totals_intervals(card["intervals"], card[TOTALS_KEY], lines, groups, levels)
        sales = sum_by(groups, point, count)
        out.append(
            Totals(
                by=name,
                store=store,
                store_type=kind,
                first=_extreme(np.minimum, groups, lines.day, count),
                last=_extreme(np.maximum, groups, lines.day, count),
                rows=np.bincount(groups, minlength=count).astype(np.int64),
                sales=sales,
                bands=[(np.minimum(low, sales), np.maximum(high, sales)) for low, high in found],
            )
        )
    return out


def _lines(
    panel: "Panel",
    ensemble: "Ensemble",
    rows: StoreDays,
    origin: int,
    objective: Objective,
    threads: int,
) -> tuple[ForecastRows, FloatArray]:
    """The rows as totals see them, and the forecasts that are added up (n,)."""
    opened = np.nonzero(rows.open)[0]
    matrix = panel.matrix(rows.take(opened), origin)
    sales, scale, factor = (np.zeros(len(rows)) for _ in range(3))
    sales[opened] = ensemble.predict(matrix, threads)
    scale[opened] = residual_scale(ensemble.card["intervals"], matrix)
    factor[opened] = 1.0
    if objective == "unbiased":
        factor[opened] = bias_factors(ensemble.card[BIAS_CORRECTION_KEY], matrix)
    kind = store_types(panel)[panel.store_indices(rows.store)]
    return ForecastRows(rows.store, rows.day, kind, sales, scale), sales * factor


def _groups(name: str, lines: ForecastRows) -> tuple[Group, Group, Group]:
    """Each row's group (n,), and each group's store and store type, (g,)."""
    whose = name.removesuffix("_week")
    nobody = np.full(len(lines.day), _ALL)
    store = lines.store if whose == "store" else nobody
    kind = nobody if whose == "chain" else lines.kind
    week = (lines.day.astype(np.int64) + 3) // 7  # 1970-01-01 was a Thursday
    groups, (stores, kinds, _) = group_by(store, kind, nobody if whose == name else week)
    return groups, stores, kinds


def _extreme(choose: np.ufunc, groups: Group, day: npt.NDArray[np.integer], count: int) -> Group:
    """The least or greatest day of each group, (count,)."""
    out = np.zeros(count, np.int64)
    out[groups] = day  # any of the group's own, to begin with
    choose.at(out, groups, day.astype(np.int64))
    return out
