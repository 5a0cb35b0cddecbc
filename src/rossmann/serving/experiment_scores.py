"""Two versions against each other, and against the sales that are known by now."""

from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from rossmann.models.metrics import bias, rmspe
from rossmann.models.paired import compare
from rossmann.schema import FloatArray
from rossmann.serving.experiment_messages import Agreement, KnownSales, SideScore
from rossmann.serving.ports import StorePanel

if TYPE_CHECKING:
    from rossmann.monitoring.experiment_log import Distinct

FAR: Final = 0.1
"""From here on two forecasts of a row differ by much."""


def agreement(pairs: "Distinct") -> Agreement | None:
    """How far the challenger is from Production, on open days; None where there is no row."""
    both = (pairs.open > 0) & (pairs.sales > 0) & (pairs.other > 0)
    if not both.any():
        return None
    ratio = pairs.sales[both] / pairs.other[both]
    return Agreement(
        rows=len(ratio),
        mean_ratio=float(ratio.mean()),
        mean_absolute_log_difference=float(np.abs(np.log(ratio)).mean()),
        beyond_10_percent=float(np.mean(np.abs(ratio - 1) > FAR)),
    )


def known_sales(panel: StorePanel, rows: "Distinct") -> FloatArray:
    """What was sold (n,), by the history that is known by now.

    NaN where that is not known, where nothing was sold, and where the day was not as planned (open,
    and with a promotion or without): a forecast for another plan is not wrong.
    """
    sold = np.full(len(rows.store), np.nan)
    here = (rows.open > 0) & (rows.day <= panel.last_day) & (panel.locate(rows.store) >= 0)
    places = np.flatnonzero(here)
    order = places[np.argsort(rows.store[places], kind="stable")]
    for group in np.split(order, np.flatnonzero(np.diff(rows.store[order])) + 1):
        if len(group):
            sold[group] = _of_store(panel, int(rows.store[group[0]]), rows.take(group))
    return sold


def _of_store(panel: StorePanel, store: int, rows: "Distinct") -> FloatArray:
    first, last = int(rows.day.min()), int(rows.day.max())
    past = panel.history(store, last, last - first + 1)
    at = np.searchsorted(past.day, rows.day)
    at = np.minimum(at, len(past.day) - 1)
    sold = past.sales[at]
    fits = (past.day[at] == rows.day) & (past.open[at] > 0) & (past.promo[at] == rows.promo)
    return np.asarray(np.where(fits & (sold > 0), sold, np.nan), np.float64)


def paired_score(
    panel: StorePanel, pairs: "Distinct", challenger: int, production: int
) -> KnownSales | None:
    """Both on the same rows, with a test; None where no sales are known."""
    sold = known_sales(panel, pairs)
    known = np.isfinite(sold)
    if not known.any():
        return None
    sold, rows = sold[known], pairs.take(known)
    test = compare(rows.store, rows.day, sold, rows.sales, rows.other)
    return KnownSales(
        paired=True,
        challenger=_score(challenger, rows.store, sold, rows.sales),
        production=_score(production, rows.store, sold, rows.other),
        chance=test.p,
        better_stores=test.better,
    )


def apart_score(
    panel: StorePanel, theirs: "Distinct", mine: "Distinct", challenger: int, production: int
) -> KnownSales | None:
    """Each on stores of its own; None where sales are known for neither."""
    sides = []
    for version, rows in ((challenger, theirs), (production, mine)):
        sold = known_sales(panel, rows)
        known = np.isfinite(sold)
        found = rows.take(known)
        sides.append(_score(version, found.store, sold[known], found.sales))
    if not sides[0].rows and not sides[1].rows:
        return None
    return KnownSales(
        paired=False, challenger=sides[0], production=sides[1], chance=None, better_stores=None
    )


def _score(
    version: int, store: npt.NDArray[np.int32], sold: FloatArray, sales: FloatArray
) -> SideScore:
    some = len(sold) > 0
    return SideScore(
        model_version=version,
        rows=len(sold),
        stores=len(np.unique(store)),
        rmspe=rmspe(sold, sales) if some else None,
        bias=bias(sold, sales) if some else None,
    )
