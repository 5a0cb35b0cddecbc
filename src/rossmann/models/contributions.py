"""A booster's sum, split on the log scale."""

import numpy as np

from rossmann.schema import FloatArray


def log_split(parts: FloatArray, floor: float) -> FloatArray:
    """Parts (n, k) that sum to ratios, as parts of the logs of those ratios, (n, k).

    The last column is what a row starts from. What the others add to it is scaled, row by row, by
    the logarithmic mean of start and end (LMDI: Ang, *Energy Policy* 33, 2005): the only split
    that leaves nothing over, gives like parts alike, and keeps each part's sign. Ratios and
    starts below ``floor`` count as ``floor``.
    """
    start = np.maximum(parts[:, -1], floor)
    moved = parts[:, :-1].sum(axis=1)
    end = np.maximum(parts[:, -1] + moved, floor)
    still = np.abs(moved) < 1e-12 * start
    scale = np.where(still, 1.0 / start, np.log(end / start) / np.where(still, 1.0, moved))
    return np.column_stack([parts[:, :-1] * scale[:, None], np.log(start)])


def log_mean(a: FloatArray, b: FloatArray) -> FloatArray:
    """The logarithmic mean of positive ``a`` and ``b``: (a - b) / log(a / b), and a where equal."""
    change = (a - b) / b
    near = np.abs(change) < 1e-9
    return np.asarray(np.where(near, a, b * change / np.log1p(np.where(near, 1.0, change))))
