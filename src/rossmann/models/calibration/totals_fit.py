"""Fit the covariance of totals to backtest windows, and measure the coverage of their intervals.

The means of products of residuals of two rows, by lag, give the kernels; totals of the windows, in
standard deviations, give how many of these an interval is wide. Coverage is cross-validated: each
window's intervals come from the other windows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rossmann.data.panel.panel import Panel
from rossmann.models.calibration.interval_coverage import (
    REPORTED_LEVELS,
    TOTAL_LABELS,
    leave_one_out_tables,
    level_key,
)
from rossmann.models.calibration.totals_covariance import (
    KERNEL_DECAY_DAYS,
    ForecastRows,
    Group,
    TotalsTables,
    exponential_decay,
    group_by,
    totals_intervals,
    totals_variance,
)
from rossmann.models.ensemble.prediction_intervals import (
    CENTRAL,
    CENTRAL_LEVELS,
    LEVELS,
    central_quantiles,
    conformal_quantiles,
)
from rossmann.models.ensemble.residual_scale import residual_scale
from rossmann.models.evaluation.backtest import WindowForecasts
from rossmann.schema import FloatArray

TOTAL_KINDS: Final = tuple(TOTAL_LABELS)
_MAX_SCALED_RESIDUAL: Final = 4.0
"""Scaled residuals are clipped to this: a store that closed at noon says nothing of the others."""
_SWEEPS: Final = 1_000
_WEEK: Final = 7


@dataclass(frozen=True)
class WindowActuals:
    """A backtest window's forecast rows (n,) and their sales (n,); ``origin``: its day."""

    rows: ForecastRows
    sold: FloatArray
    origin: int


def calibrate_totals(
    panel: Panel,
    outcomes: Sequence[WindowForecasts],
    interval_table: dict[str, Any],
    chain_floor: float = 0.0,
) -> dict[str, Any]:
    """The totals table from all windows, with what it would have said of each (``past``)."""
    actuals = [_window_actuals(panel, w, interval_table) for w in outcomes]
    table = fit_totals(actuals, chain_floor)
    return table | {"past": _past_errors(outcomes, actuals, interval_table, table)}


def cross_validated_totals(
    panel: Panel,
    outcomes: Sequence[WindowForecasts],
    chain_floor: float = 0.0,
    interval_tables: Sequence[dict[str, Any]] | None = None,
) -> dict[str, Any] | None:
    """Coverage of intervals of totals in each window by tables of the others, as JSON.

    ``past``: the chain's log residual in each window, and the half-widths by the others. None for
    a single window. ``interval_tables``: of ``leave_one_out_tables``, where they are computed.
    """
    if len(outcomes) < 2:
        return None
    if interval_tables is None:
        interval_tables = leave_one_out_tables(outcomes)
    actuals, tables, past = [], [], []
    for window, interval_table in zip(outcomes, interval_tables, strict=True):
        rest = [w for w in outcomes if w is not window]
        others = [_window_actuals(panel, w, interval_table) for w in rest]
        actuals.append(_window_actuals(panel, window, interval_table))
        tables.append((interval_table, fit_totals(others, chain_floor)))
        past += _past_errors([window], actuals[-1:], *tables[-1])
    return {**measure_totals(actuals, tables, REPORTED_LEVELS), "past": past}


def _past_errors(
    outcomes: Sequence[WindowForecasts],
    actuals: Sequence[WindowActuals],
    interval_table: dict[str, Any],
    totals_table: dict[str, Any],
) -> list[dict[str, Any]]:
    """For each window the log of the chain's sales over its forecast, and the half-widths."""
    errors = []
    for outcome, window in zip(outcomes, actuals, strict=True):
        groups = np.zeros(len(window.sold), np.int64)
        total, bounds = totals_intervals(
            interval_table, totals_table, window.rows, groups, REPORTED_LEVELS
        )
        widths = {
            level_key(level): float(np.log(high[0] / low[0]) / 2)
            for level, (low, high) in zip(REPORTED_LEVELS, bounds, strict=True)
        }
        errors.append(
            {
                "origin": outcome.window.origin_date.isoformat(),
                "age_days": outcome.age_days,
                "log_error": float(np.log(window.sold.sum() / total[0])),
                "half_width": widths,
            }
        )
    return errors


def store_types(panel: Panel) -> npt.NDArray[np.int64]:
    """Each store's type, (stores,): index in ``schema.STORE_TYPES``."""
    table = pl.read_parquet(panel.info.folder / "stores.parquet", columns=["StoreType"])
    return table["StoreType"].to_numpy().astype(np.int64)


def _window_actuals(
    panel: Panel, outcome: WindowForecasts, interval_table: dict[str, Any]
) -> WindowActuals:
    window = outcome.window
    store_type = store_types(panel)[panel.store_indices(window.rows.store)]
    inputs = outcome.interval_inputs
    scale = residual_scale(interval_table, inputs)
    rows = ForecastRows(window.rows.store, window.rows.day, store_type, inputs.forecast, scale)
    return WindowActuals(rows, window.sold, window.origin)


def total_groups(kind: str, rows: ForecastRows, origin: int) -> Group:
    """The group of each row (n,) for one of ``TOTAL_KINDS``."""
    entity, _, period = kind.partition("_")
    key = {"store": rows.store, "type": rows.store_type, "chain": np.zeros_like(rows.store)}[entity]
    ahead = rows.day.astype(np.int64) - origin - 1
    time = {"day": ahead, "week": ahead // _WEEK, "": np.zeros_like(ahead)}[period]
    return group_by(key, time)[0]


def measure_totals(
    windows: Sequence[WindowActuals], tables: Sequence[TotalsTables], levels: Sequence[float]
) -> dict[str, Any]:
    """Number of totals by kind and, by level, coverage and mean width of their intervals, as JSON.

    ``tables``: for each window, those made without it. Widths are shares of the forecast; for
    comparison there are those of bounds added up (``added``) and of independent rows
    (``independent``).
    """
    kinds = {}
    for kind in TOTAL_KINDS:
        parts = [
            _measure_window(window, *pair, kind, levels)
            for window, pair in zip(windows, tables, strict=True)
        ]
        measures = {name: np.concatenate([p[name] for p in parts], axis=-1) for name in parts[0]}
        kinds[kind] = {
            "totals": measures["coverage"].shape[-1],
            "levels": {
                level_key(level): {
                    name: float(values[i].mean()) for name, values in measures.items()
                }
                for i, level in enumerate(levels)
            },
        }
    return {"windows": len(windows), "kinds": kinds}


def _measure_window(
    window: WindowActuals, interval_table: dict[str, Any], totals_table: dict[str, Any], kind: str,
    levels: Sequence[float],
) -> dict[str, FloatArray]:  # fmt: skip
    """By level and total (levels, g): whether the interval contains it, and the widths."""
    rows = window.rows
    groups = total_groups(kind, rows, window.origin)
    forecast, bounds = totals_intervals(interval_table, totals_table, rows, groups, levels)
    sold = np.bincount(groups, window.sold)
    row_quantiles = np.interp(levels, interval_table["levels"], interval_table["quantiles"])
    normal_quantiles = np.array([NormalDist().inv_cdf(0.5 + level / 2) for level in levels])
    independent = np.sqrt(np.bincount(groups, (rows.sales * rows.scale) ** 2)) / forecast
    return {
        "coverage": np.array([(low <= sold) & (sold <= high) for low, high in bounds], np.float64),
        "width": np.array([(high - low) / forecast for low, high in bounds]),
        "added": np.array(
            [
                2 * np.bincount(groups, rows.sales * np.sinh(quantile * rows.scale)) / forecast
                for quantile in row_quantiles
            ]
        ),
        "independent": 2 * normal_quantiles[:, None] * independent[None, :],
    }


def fit_totals(windows: Sequence[WindowActuals], chain_floor: float = 0.0) -> dict[str, Any]:
    """The totals table that ``totals_intervals`` takes, as JSON.

    ``chain_floor``: least standard deviation of what all stores share for a whole window, as a
    log: few windows may have had little of it by luck. Raises ``ValueError`` without windows.
    """
    if not windows:
        raise ValueError("totals are learned from one window at least")
    lags = max(int((w.rows.day - w.origin).max()) for w in windows)
    tiers = _tier_products(windows, lags)
    chain = _fit_kernel(*tiers["chain"])
    table: dict[str, Any] = {
        "levels": list(LEVELS),
        "windows": len(windows),
        "chain": chain | {"lasting": max(chain["lasting"], chain_floor**2)},
        "type": _fit_kernel(*tiers["type"]),
    }
    # a lag of 0 within a store is the row itself: the store's kernel is fitted from lag 1 on
    products, pairs = tiers["within_store"]
    table["within_store"] = _fit_kernel(products[1:], pairs[1:], first=1)
    scores = np.abs(
        np.concatenate(
            [_z_scores(table, w, kind) for w in windows for kind in ("store_week", "store")]
        )
    )
    table["store"] = conformal_quantiles(scores, LEVELS).tolist()
    factor = _many_stores_factor(table, windows)
    table["many"] = _many_store_widths(factor, len(windows), LEVELS)
    table[CENTRAL] = {
        "levels": list(CENTRAL_LEVELS),
        "store": central_quantiles(scores),
        "many": _many_store_widths(factor, len(windows), CENTRAL_LEVELS),
    }
    return table


def _tier_products(
    windows: Sequence[WindowActuals], lags: int
) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Mean products of residuals of pairs by lag, and the numbers of pairs, (lags,) each.

    ``chain``: pairs of stores of different types; ``type``: of one type, less the chain's;
    ``within_store``: of one store, less both, in squares of the scale.
    """
    sums = {name: np.zeros((2, lags)) for name in ("across", "type", "store", "squares")}
    for window in windows:
        _add_pairs(sums, window, lags)
    across, of_type = (_mean(sums[name]) for name in ("across", "type"))
    # with one type only, all that its stores share counts as the chain's
    single_type = sums["across"][1].sum() == 0
    chain, pairs = (of_type, sums["type"][1]) if single_type else (across, sums["across"][1])
    store = (
        sums["store"][0]
        - (of_type if single_type else np.where(sums["type"][1] > 0, of_type, chain))
        * sums["store"][1]
    )
    squares = np.maximum(sums["squares"][0], 1e-12)
    return {
        "chain": (chain, pairs),
        "type": (np.zeros(lags) if single_type else of_type - chain, sums["type"][1]),
        "within_store": (store / squares, sums["store"][1]),
    }


def _mean(sums: FloatArray) -> FloatArray:
    return np.asarray(sums[0] / np.maximum(sums[1], 1.0), np.float64)


def _add_pairs(sums: dict[str, FloatArray], window: WindowActuals, lags: int) -> None:
    """Add a window's sums of products (row 0) and numbers of pairs (row 1) to each tier's."""
    rows = window.rows
    stores, store = np.unique(rows.store, return_inverse=True)
    day = rows.day.astype(np.int64) - window.origin - 1
    residual, known, scale = (np.zeros((len(stores), lags)) for _ in range(3))
    residual[store, day], known[store, day] = _residuals(window), 1.0
    scale[store, day] = rows.scale
    store_type = np.zeros(len(stores), np.int64)
    store_type[store] = rows.store_type
    of_type = (store_type == np.unique(store_type)[:, None]).astype(np.float64)
    for lag in range(lags):
        for row, values in ((0, residual), (1, known)):
            early, late = values[:, : lags - lag], values[:, lag:]
            same_store = float((early * late).sum())
            same_type = float(((of_type @ early) * (of_type @ late)).sum())
            all_pairs = float((early.sum(axis=0) * late.sum(axis=0)).sum())
            sums["across"][row, lag] += all_pairs - same_type
            sums["type"][row, lag] += same_type - same_store
            sums["store"][row, lag] += same_store
        sums["squares"][0, lag] += float((scale[:, : lags - lag] * scale[:, lag:]).sum())


def _residuals(window: WindowActuals) -> FloatArray:
    """Log residuals (n,), clipped."""
    scaled = np.log(window.sold / window.rows.sales) / window.rows.scale
    clipped = np.clip(scaled, -_MAX_SCALED_RESIDUAL, _MAX_SCALED_RESIDUAL)
    return np.asarray(clipped * window.rows.scale, np.float64)


def _fit_kernel(products: FloatArray, pairs: FloatArray, first: int = 0) -> dict[str, float]:
    """Non-negative least squares of the exponentials' heights over the lags.

    Coordinate descent of a fixed number of sweeps: where a window has less than three weeks the
    problem is ill-conditioned, and an exact solver (``scipy.optimize.nnls``) gives other heights.
    """
    lag = np.arange(first, first + len(products))
    names = [name for name in KERNEL_DECAY_DAYS if first == 0 or name != "date"]
    basis = np.column_stack([exponential_decay(KERNEL_DECAY_DAYS[name], lag) for name in names])
    weight = pairs / max(pairs.sum(), 1.0)
    gram = basis.T @ (weight[:, None] * basis)
    target = basis.T @ (weight * products)
    height = np.zeros(len(names))
    for _ in range(_SWEEPS):
        for i in range(len(names)):
            if gram[i, i] > 0:
                rest = target[i] - gram[i] @ height + gram[i, i] * height[i]
                height[i] = max(rest / gram[i, i], 0.0)
    return dict(zip(names, height.tolist(), strict=True))


def _log_ratios(window: WindowActuals, groups: Group) -> FloatArray:
    """Log of sold over forecast of each group's total, (g,)."""
    sold, forecast = (np.bincount(groups, x) for x in (window.sold, window.rows.sales))
    return np.asarray(np.log(sold / forecast), np.float64)


def _z_scores(table: dict[str, Any], window: WindowActuals, kind: str) -> FloatArray:
    """Log residuals of a kind's totals in standard deviations, (g,)."""
    groups = total_groups(kind, window.rows, window.origin)
    variance = totals_variance(table, window.rows, groups)
    return np.asarray(_log_ratios(window, groups) / variance.deviation, np.float64)


def _many_stores_factor(table: dict[str, Any], windows: Sequence[WindowActuals]) -> float:
    """How much further off than the covariance says past totals of many stores were; at least 1."""
    kinds = ("type_week", "type", "chain_week", "chain")
    squared = [np.mean(_z_scores(table, w, kind) ** 2) for w in windows for kind in kinds]
    return max(float(np.sqrt(np.mean(squared))), 1.0)


def _many_store_widths(factor: float, windows: int, levels: Sequence[float]) -> list[float]:
    """Half-width in standard deviations of each level for totals of many stores, (levels,).

    There are few windows, so the deviation itself is uncertain: Student's t with a degree for each
    window, wider by ``factor``.
    """
    return [factor * student_t_quantile(0.5 + level / 2, windows) for level in levels]


def student_t_quantile(share: float, degrees: float) -> float:
    """Student's t quantile."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, share))
