"""What the base filter's forecast is made of: its state times its design, part by part."""

from typing import Final

import numpy as np
import numpy.typing as npt

from rossmann.features.build_features import FeatureArrays, is_schedule_complete
from rossmann.features.calendars import RAMP
from rossmann.features.state_space import DECEMBER, FIRST_WEEKDAY, KFB, N_BASE, N_MASK, design_mask
from rossmann.numba_kernel import cached_njit

USUAL_WEEKDAY: Final = N_BASE
"""Place of the mean of the store's weekday effects, Monday to Saturday: what days are told from."""
N_COMPONENTS: Final = N_BASE + 1
_MONDAY_TO_SATURDAY: Final = 6


@cached_njit
def offset_components(
    a: FeatureArrays,
    store: npt.NDArray[np.int64],
    day: npt.NDArray[np.int64],
    origin: npt.NDArray[np.int64],
    planned_to: npt.NDArray[np.int64],
    promo: npt.NDArray[np.uint8],
    state_holiday: npt.NDArray[np.uint8],
    school_holiday: npt.NDArray[np.uint8],
    out: npt.NDArray[np.float64],
) -> None:
    """Fill ``out`` (n, N_PARTS): the first N_BASE columns sum to ``kfb`` before its rounding.

    The arguments are those of ``build_matrix``.
    """
    for i in range(len(day)):
        s, d, o, row = store[i], day[i], origin[i], out[i]
        between = is_schedule_complete(a, s, d, o, planned_to[i])
        mask = design_mask(
            a.table, a.cube, d, s, promo[i], state_holiday[i], school_holiday[i], between
        )
        state = a.states[o, s, KFB : KFB + N_BASE]
        for k in range(N_MASK):
            row[k] = state[k] if (mask >> k) & 1 else 0.0
        row[DECEMBER] = state[DECEMBER] * a.terms[d, RAMP]
        total = 0.0
        for k in range(FIRST_WEEKDAY, FIRST_WEEKDAY + _MONDAY_TO_SATURDAY):
            total += state[k]
        row[USUAL_WEEKDAY] = total / _MONDAY_TO_SATURDAY
