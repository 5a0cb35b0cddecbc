"""Windows to reweight a version from: its backtest's, as stored with it, and recent ones.

A stored window keeps what the members of its fit gave for each row. Its rows are looked up again in
the panel at hand, so sales that were corrected since count as they are now. Recent windows are days
after the version's training data, forecast by its own members, which never saw them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from rossmann.data.panel.panel import Panel
from rossmann.errors import DataError
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.evaluation.backtest import (
    BacktestWindow,
    MemberOutputs,
    WindowForecasts,
    blend_members,
    blended_matrices,
    build_windows,
    forecast_window,
    rolling_offsets,
)
from rossmann.models.gate.backtest_predictions import (
    BacktestPredictions,
    WindowPredictions,
    row_keys,
)
from rossmann.schema import FloatArray, StoreDays
from rossmann.settings import Settings

_MIN_SHARE_OF_SAME_SALES: Final = 0.5
"""With fewer rows whose sales are as stored, the tables are another chain's."""


@dataclass(frozen=True)
class _FoundWindow:
    """A stored window's rows that have sales in the panel: their numbers in the window, their
    fields, and the sales that the panel has, (n,) each.
    """

    stored: WindowPredictions
    index: npt.NDArray[np.int64]
    rows: StoreDays
    sold: FloatArray

    @property
    def same_sales(self) -> int:
        """How many rows have the stored sales, which are in single precision."""
        return int((self.stored.sold[self.index] == self.sold.astype(np.float32)).sum())


def restore_windows(
    panel: Panel, ensemble: Ensemble, stored: BacktestPredictions, last_training_day: int
) -> list[WindowForecasts]:
    """The windows that fits of the backtest forecast, oldest first, with their follow-ups.

    ``last_training_day``: of the ensemble's members, since 1970-01-01. Windows that these forecast
    are left out, as ``forecast_recent_windows`` makes them anew; so are rows without sales in the
    panel, and a window without any row, with its follow-ups. Raises ``DataError`` where the panel
    is of another chain.
    """
    found = [
        _find_rows(panel, window)
        for window in stored.all_windows
        if window.fit_day not in {None, last_training_day}
    ]
    _check_same_chain(found)
    by_fit: dict[int | None, list[WindowForecasts]] = {}
    for window in found:
        if len(window.rows):
            outcome = _restore(panel, ensemble, window, stored.members)
            by_fit.setdefault(window.stored.fit_day, []).append(outcome)
    return [
        replace(first, follow_ups=tuple(later))
        for first, *later in by_fit.values()
        if not first.age_days
    ]


def forecast_recent_windows(
    panel: Panel, ensemble: Ensemble, last_training_day: int, settings: Settings
) -> list[WindowForecasts]:
    """Windows of ``window_days`` after the members' training data, oldest first.

    They roll back from the last day of history, as many as fit; each is as old as its origin is
    after the last training day.
    """
    days = settings.window_days
    count = max((panel.last_day - last_training_day) // days, 0)
    sold_on = np.unique(panel.sales_rows()[0].day)
    offsets = [
        offset
        for offset in rolling_offsets(count, days)
        # tables may lack some weeks: such a window has no rows
        if ((sold_on > panel.last_day - offset) & (sold_on <= panel.last_day - offset + days)).any()
    ]
    return [
        forecast_window(
            panel, window, ensemble, settings.thread_count, window.origin - last_training_day
        )
        for window in build_windows(panel, offsets, days, settings.history_days)
    ]


def _find_rows(panel: Panel, stored: WindowPredictions) -> _FoundWindow:
    rows, sold = panel.sales_rows()
    origin = stored.origin_day
    inside = np.nonzero((rows.day > origin) & (rows.day <= origin + stored.days))[0]
    if origin < panel.first_day:
        inside = inside[:0]
    keys = row_keys(rows.store[inside], rows.day[inside])
    _, index, at = np.intersect1d(stored.row_keys, keys, return_indices=True)
    order = np.argsort(index)
    kept = inside[at[order]]
    return _FoundWindow(stored, index[order], rows.take(kept), sold[kept])


def _check_same_chain(found: Sequence[_FoundWindow]) -> None:
    """Raises ``DataError`` where most stored rows have other sales now, or none."""
    count = sum(len(window.stored.sold) for window in found)
    same = sum(window.same_sales for window in found)
    if not count or same < _MIN_SHARE_OF_SAME_SALES * count:
        raise DataError(
            f"of {count:,} rows of the version's backtest, {same:,} have the same sales in the"
            " tables at hand, so these are another chain's: reweight it where its own tables are"
        )


def _restore(
    panel: Panel, ensemble: Ensemble, found: _FoundWindow, names: Sequence[str]
) -> WindowForecasts:
    """The window as ``forecast_window`` made it, with the sales that the panel has now."""
    stored, rows = found.stored, found.rows
    origin = stored.origin_day
    window = BacktestWindow(origin, stored.days, rows, found.sold, panel.matrix(rows, origin))
    members = {}
    for name, matrix in blended_matrices(panel, window).items():
        factors = stored.log_factors[name][:, found.index].astype(np.float64)
        members[name] = MemberOutputs(matrix, dict(zip(names, factors, strict=True)))
    return blend_members(panel, window, members, ensemble.card, stored.age_days or 0)
