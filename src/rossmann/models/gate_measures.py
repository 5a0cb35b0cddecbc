"""What a version's windows show of its bands and its totals, held against limits.

The limits are made for a chain. Where there are only a few stores, the luck of each moves the
whole: a store that does well for six weeks lies above its bands, and so does the total. There the
limit is wider by what chance does, and the line says so.
"""

import math
from typing import Final

import numpy as np

from rossmann.models.evidence import Evidence, WindowRows
from rossmann.models.gate_table import Line, at_most
from rossmann.models.paired import FEW_STORES
from rossmann.settings import Settings

_STORES_BIAS: Final = 0.08
"""Standard deviation of one store's bias over a window, on small demo chains."""
_STORES_COVERAGE: Final = 0.20
"""Of the share of its days that a band holds which another window made, on the same chains."""
_SPREADS: Final = 2.0
"""How many standard deviations are taken for chance."""


def measured(evidence: Evidence, settings: Settings) -> list[Line]:
    """The lines on coverage and bias of each window."""
    lines = []
    for window in evidence.windows:
        covered = evidence.coverage.get(window.origin, {})
        few = _few(window)
        for level in (0.80, 0.95):
            found = covered.get(f"{level:.2f}")
            off = None if found is None else abs(found - level)
            note = "needs two windows or more" if found is None else f"covers {found:.1%}{few}"
            limit = _limit(settings.gate_coverage, _STORES_COVERAGE, window)
            lines.append(
                at_most(f"{window.origin}: the {level:.0%} band is off by", off, limit, note)
            )
        bias = window.bias
        note = f"forecasts {'above' if bias > 0 else 'below'} sales{few}"
        limit = _limit(settings.gate_bias, _STORES_BIAS, window)
        lines.append(at_most(f"{window.origin}: bias of the total", abs(bias), limit, note))
    return lines


def _limit(limit: float, spread: float, window: WindowRows) -> float:
    """The limit of a chain; for a few stores wider, by what chance adds."""
    stores = _stores(window)
    if not 0 < stores < FEW_STORES:
        return limit
    return math.hypot(limit, _SPREADS * spread / math.sqrt(stores))


def _few(window: WindowRows) -> str:
    stores = _stores(window)
    if not 0 < stores < FEW_STORES:
        return ""
    return f"; wider limit for {stores} store{'s' if stores > 1 else ''}"


def _stores(window: WindowRows) -> int:
    return len(np.unique(window.store))
