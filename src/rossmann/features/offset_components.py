"""The base filter's forecast split into its components: state times design, one by one."""

from typing import Final

import numpy as np
import numpy.typing as npt

from rossmann.features.build_features import FeatureArrays, is_schedule_complete
from rossmann.features.calendars import RAMP
from rossmann.features.row_lookup import Row, RowFlags, RowQuery, get_row, locate_rows
from rossmann.features.state_space import DECEMBER, FIRST_WEEKDAY, KFB, N_BASE, N_MASK, design_mask
from rossmann.numba_kernel import cached_njit

MEAN_WEEKDAY: Final = N_BASE
"""Column of the mean of the store's weekday effects, Monday to Saturday: the reference of a day."""
N_COMPONENTS: Final = N_BASE + 1
_MONDAY_TO_SATURDAY: Final = 6


@cached_njit
def _split_row(a: FeatureArrays, row: Row, out: npt.NDArray[np.float64]) -> None:
    """Fill ``out`` (N_COMPONENTS,)."""
    complete = is_schedule_complete(a, row)
    mask = design_mask(a.table, a.cube, row.day, row.store, row.flags, complete)
    state = a.states[row.origin, row.store, KFB : KFB + N_BASE]
    for k in range(N_MASK):
        out[k] = state[k] if (mask >> k) & 1 else 0.0
    out[DECEMBER] = state[DECEMBER] * a.terms[row.day, RAMP]
    total = 0.0
    for k in range(FIRST_WEEKDAY, FIRST_WEEKDAY + _MONDAY_TO_SATURDAY):
        total += state[k]
    out[MEAN_WEEKDAY] = total / _MONDAY_TO_SATURDAY


@cached_njit
def offset_components(
    a: FeatureArrays, query: RowQuery, flags: RowFlags, out: npt.NDArray[np.float64]
) -> bool:
    """Fill ``out`` (n, N_COMPONENTS): the first N_BASE columns sum to ``kfb`` before its rounding.

    Arguments and result as ``build_matrix_for_rows``.
    """
    index = np.empty((4, len(out)), np.int64)
    if not locate_rows(query, index):
        return False
    for i in range(len(out)):
        _split_row(a, get_row(index, flags, i), out[i])
    return True
