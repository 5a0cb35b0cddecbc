"""Running statistics of past sales, for every store and day.

All on the scale of log sales; NaN where nothing is known. Two families use only the day itself and
those before it, so their value at an origin is known as of it. The third is centred: it may be
read only for a day whose whole window lies before the origin, which ``build_features`` checks.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from rossmann.numba_kernel import cached_njit
from rossmann.schema import FlagArray, FloatArray

# By weekday of the day: columns of (days, stores, N_WEEKLY). Those from MEAN_26 on exist twice,
# without and with promotion: column + promo * N_KIND.
MEAN_13: Final = 0
MEAN_26, MEAN_52, MEDIAN_52, SD_52, COUNT_52, CUSTOMERS_52 = range(1, 7)
N_KIND: Final = 6
N_WEEKLY: Final = 1 + 2 * N_KIND

# All days: columns of (days, stores, N_TRAILING); MEAN_28 exists twice, by promotion.
MEAN_28: Final = 0
OPEN_365, PER_CUSTOMER_365, MEAN_56 = range(2, 5)
N_TRAILING: Final = 5

# Centred: columns of (days, stores, N_CENTRED); SAME_21 exists twice, by promotion.
MEAN_7: Final = 0
SAME_21: Final = 1
N_CENTRED: Final = 3
CENTRED_REACH: Final = 21
"""Days after its own that a centred window covers."""

StatisticsArray = npt.NDArray[np.float32]


class SalesStatistics(NamedTuple):
    """The three families."""

    weekly: StatisticsArray  # (days, stores, N_WEEKLY)
    trailing: StatisticsArray  # (days, stores, N_TRAILING)
    centred: StatisticsArray  # (days, stores, N_CENTRED)


@cached_njit
def _median(values: FloatArray, n: int) -> float:
    """Median of the first ``n``; sorts them in place (insertion: n is at most 52)."""
    for i in range(1, n):
        v = values[i]
        j = i - 1
        while j >= 0 and values[j] > v:
            values[j + 1] = values[j]
            j -= 1
        values[j + 1] = v
    if n % 2:
        return float(values[n // 2])
    return float(0.5 * (values[n // 2 - 1] + values[n // 2]))


@cached_njit
def _same_kind(
    y: FloatArray,
    customers: FloatArray,
    promo: FlagArray,
    t: int,
    kind: int,
    buffer: FloatArray,
    out: StatisticsArray,
) -> None:
    """Statistics of the same weekday and promotion over the 52 weeks that end on day ``t``."""
    n26, sum26, n, total, squares, logs, n_logs = 0, 0.0, 0, 0.0, 0.0, 0.0, 0
    for week in range(52):
        u = t - 7 * week
        if u < 0:
            break
        if promo[u] != kind or np.isnan(y[u]):
            continue
        buffer[n] = y[u]
        n += 1
        total += y[u]
        if week < 26:
            n26 += 1
            sum26 += y[u]
        if not np.isnan(customers[u]):
            logs += customers[u]
            n_logs += 1
    at = kind * N_KIND
    out[at + MEAN_26] = sum26 / n26 if n26 else np.nan
    out[at + COUNT_52] = n
    out[at + CUSTOMERS_52] = logs / n_logs if n_logs else np.nan
    if n == 0:
        out[at + MEAN_52] = out[at + MEDIAN_52] = out[at + SD_52] = np.nan
        return
    mean = total / n
    for i in range(n):
        squares += (buffer[i] - mean) ** 2
    out[at + MEAN_52] = mean
    out[at + SD_52] = np.sqrt(squares / (n - 1)) if n > 1 else np.nan
    out[at + MEDIAN_52] = _median(buffer, n)


@cached_njit
def _mean(y: FloatArray, low: int, high: int) -> float:
    """Mean of the known values from ``low`` to ``high``, both included; NaN where there is none."""
    n, total = 0, 0.0
    for u in range(max(low, 0), min(high + 1, len(y))):
        if not np.isnan(y[u]):
            n += 1
            total += y[u]
    return total / n if n else np.nan


@cached_njit
def _trailing(
    y: FloatArray, customers: FloatArray, promo: FlagArray, t: int, out: StatisticsArray
) -> None:
    """Statistics of all days that end on day ``t``."""
    for kind in range(2):
        n, total = 0, 0.0
        for u in range(max(t - 27, 0), t + 1):
            if promo[u] == kind and not np.isnan(y[u]):
                n += 1
                total += y[u]
        out[MEAN_28 + kind] = total / n if n else np.nan
    n, n_logs, logs = 0, 0, 0.0
    for u in range(max(t - 364, 0), t + 1):
        if not np.isnan(y[u]):
            n += 1
            if not np.isnan(customers[u]):
                n_logs += 1
                logs += y[u] - customers[u]
    out[OPEN_365] = n
    out[PER_CUSTOMER_365] = logs / n_logs if n_logs else np.nan
    out[MEAN_56] = _mean(y, t - 55, t)


@cached_njit
def _centred(y: FloatArray, promo: FlagArray, t: int, out: StatisticsArray) -> None:
    """Statistics of the days around ``t``."""
    out[MEAN_7] = _mean(y, t - 7, t + 7)
    for kind in range(2):
        n, total = 0, 0.0
        for u in range(t - CENTRED_REACH, t + CENTRED_REACH + 1, 7):
            if 0 <= u < len(y) and promo[u] == kind and not np.isnan(y[u]):
                n += 1
                total += y[u]
        out[SAME_21 + kind] = total / n if n else np.nan


@cached_njit
def fill_sales_statistics(
    log_sales: StatisticsArray,
    log_customers: StatisticsArray,
    promo: FlagArray,
    out: SalesStatistics,
) -> None:
    """Fill the three families, in place.

    ``log_sales`` and ``log_customers`` are (stores, days), NaN where nothing was sold or nothing
    is known; ``promo`` is (days, stores).
    """
    stores, days = log_sales.shape
    y = np.empty(days)
    customers = np.empty(days)
    flags = np.empty(days, np.uint8)
    buffer = np.empty(52)
    for s in range(stores):
        y[:] = log_sales[s]
        customers[:] = log_customers[s]
        flags[:] = promo[:days, s]
        for t in range(days):
            weekly = out.weekly[t, s]
            n, total = 0, 0.0
            for week in range(13):
                u = t - 7 * week
                if u >= 0 and not np.isnan(y[u]):
                    n += 1
                    total += y[u]
            weekly[MEAN_13] = total / n if n else np.nan
            _same_kind(y, customers, flags, t, 0, buffer, weekly)
            _same_kind(y, customers, flags, t, 1, buffer, weekly)
            _trailing(y, customers, flags, t, out.trailing[t, s])
            _centred(y, flags, t, out.centred[t, s])
