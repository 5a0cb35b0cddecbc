"""Learn from backtest windows how misses go together, and test the bands of totals on others.

MERGED: From backtest windows to what totals are learned from and judged on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rossmann.data.panel.panel import Panel
from rossmann.models.calibration.interval_coverage import REPORTED_LEVELS, calibrate_windows
from rossmann.models.calibration.totals_covariance import (
    DECAY_DAYS,
    ForecastRows,
    Group,
    exponential_decay,
    group_by,
    totals_intervals,
    totals_variance,
)
from rossmann.models.ensemble.prediction_intervals import (
    LEVELS,
    conformal_quantiles,
    residual_scale,
)
from rossmann.models.evaluation.windows import WindowForecasts
from rossmann.schema import FeatureMatrix, FloatArray, StoreDays

TOTAL_KINDS: Final = (
    "store_week",
    "store",
    "type_week",
    "type",
    "chain_day",
    "chain_week",
    "chain",
)
"""Totals whose coverage is measured: by week from the origin, by day, or over the whole window."""
_WILD: Final = 4.0
"""Scaled residuals count as this at most: a store that shut at noon says nothing of the others."""
_PRIOR_WINDOWS: Final = 3.0
"""Windows without a shift that the shift of the windows is averaged with."""
_STEPS: Final = 1_000
_WEEK: Final = 7


@dataclass(frozen=True)
class WindowActuals:
    """A window's rows as totals see them, and what was sold (n,); ``origin``: its day."""

    lines: ForecastRows
    sold: FloatArray
    origin: int


def fit_totals(windows: Sequence[WindowActuals]) -> dict[str, Any]:
    """The table of ``totals.bands``, as JSON; raises ``ValueError`` without windows."""
    if not windows:
        raise ValueError("totals are learned from one window at least")
    lags = max(int((w.lines.day - w.origin).max()) for w in windows)
    tiers = _tiers(windows, lags)
    table: dict[str, Any] = {
        "levels": list(LEVELS),
        "windows": len(windows),
        "chain": _fit_kernel(*tiers["chain"]),
        "type": _fit_kernel(*tiers["type"]),
    }
    # a lag of 0 within a store is the row itself: what lasts is seen from lag 1 on
    products, pairs = tiers["within_store"]
    table["within_store"] = _fit_kernel(products[1:], pairs[1:], first=1)
    shift = float(np.mean([_misses(w, np.zeros(len(w.sold), np.int64))[0] for w in windows]))
    table["shift"] = shift * len(windows) / (len(windows) + _PRIOR_WINDOWS)
    store = [_scores(table, w, kind) for w in windows for kind in ("store_week", "store")]
    table["store"] = conformal_quantiles(np.abs(np.concatenate(store)), LEVELS).tolist()
    table["many"] = _of_many(table, windows)
    return table


def total_groups(kind: str, lines: ForecastRows, origin: int) -> Group:
    """The group of each row (n,) for one of ``KINDS``."""
    what, _, span = kind.partition("_")
    whose = {"store": lines.store, "type": lines.kind, "chain": np.zeros_like(lines.store)}[what]
    ahead = lines.day.astype(np.int64) - origin - 1
    when = {"day": ahead, "week": ahead // _WEEK, "": np.zeros_like(ahead)}[span]
    return group_by(whose, when)[0]


def measure_totals(
    windows: Sequence[WindowActuals],
    others: Sequence[tuple[dict[str, Any], dict[str, Any]]],
    levels: Sequence[float],
) -> dict[str, Any]:
    """What bands of totals held: by kind, ``totals`` (how many) and, by level, coverage and width.

    ``others``: for each window, the interval table and the totals' table made without it. Width is
    a share of the forecast; beside it stand those of bounds added up (``added``) and of rows taken
    as independent (``independent``), which are what not to do.
    """  # fmt: skip
    out = {}
    for kind in TOTAL_KINDS:
        judged = [
            _judge(w, *tables, kind, levels) for w, tables in zip(windows, others, strict=True)
        ]
        joined = {key: np.concatenate([j[key] for j in judged], axis=-1) for key in judged[0]}
        count = joined["inside"].shape[-1]
        out[kind] = {
            "totals": count,
            "levels": {
                f"{level:.2f}": {
                    "coverage": float(joined["inside"][i].mean()),
                    "width": float(joined["width"][i].mean()),
                    "added": float(joined["added"][i].mean()),
                    "independent": float(joined["independent"][i].mean()),
                }
                for i, level in enumerate(levels)
            },
        }
    return {"windows": len(windows), "kinds": out}


def _judge(
    window: WindowActuals, intervals: dict[str, Any], table: dict[str, Any], kind: str,
    levels: Sequence[float],
) -> dict[str, FloatArray]:  # fmt: skip
    """By level and total (levels, g): whether it lay inside, and the widths."""
    lines = window.lines
    groups = total_groups(kind, lines, window.origin)
    forecast, found = totals_intervals(intervals, table, lines, groups, levels)
    sold = np.bincount(groups, window.sold)
    reach = np.interp(levels, intervals["levels"], intervals["quantiles"])
    normal = np.array([NormalDist().inv_cdf(0.5 + level / 2) for level in levels])
    alone = np.sqrt(np.bincount(groups, (lines.sales * lines.scale) ** 2)) / forecast
    return {
        "inside": np.array([(low <= sold) & (sold <= high) for low, high in found], np.float64),
        "width": np.array([(high - low) / forecast for low, high in found]),
        "added": np.array(
            [
                2 * np.bincount(groups, lines.sales * np.sinh(r * lines.scale)) / forecast
                for r in reach
            ]
        ),
        "independent": 2 * normal[:, None] * alone[None, :],
    }


def _tiers(windows: Sequence[WindowActuals], lags: int) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Mean products of residuals of pairs by lag, and the numbers of pairs, (lags,) each.

    ``chain``: pairs of stores of different types; ``type``: of one type, less the chain's;
    ``within_store``: of one store, less both, in squares of the scale.
    """
    sums = {name: np.zeros((2, lags)) for name in ("across", "type", "store", "squares")}
    for window in windows:
        _add_pairs(sums, window, lags)
    across, of_type = (_mean(sums[name]) for name in ("across", "type"))
    # with one type only, all that its stores share counts as the chain's
    single = sums["across"][1].sum() == 0
    chain, pairs = (of_type, sums["type"][1]) if single else (across, sums["across"][1])
    store = (
        sums["store"][0]
        - (of_type if single else np.where(sums["type"][1] > 0, of_type, chain)) * sums["store"][1]
    )
    squares = np.maximum(sums["squares"][0], 1e-12)
    return {
        "chain": (chain, pairs),
        "type": (np.zeros(lags) if single else of_type - chain, sums["type"][1]),
        "within_store": (store / squares, sums["store"][1]),
    }


def _mean(sums: FloatArray) -> FloatArray:
    return np.asarray(sums[0] / np.maximum(sums[1], 1.0), np.float64)


def _add_pairs(sums: dict[str, FloatArray], window: WindowActuals, lags: int) -> None:
    """Add a window's sums of products (row 0) and numbers of pairs (row 1) to each tier's."""
    lines = window.lines
    residual = _residuals(window)
    stores, place = np.unique(lines.store, return_inverse=True)
    day = lines.day.astype(np.int64) - window.origin - 1
    shape = (len(stores), lags)
    value, seen, scale = (np.zeros(shape) for _ in range(3))
    value[place, day], seen[place, day], scale[place, day] = residual, 1.0, lines.scale
    kind = np.zeros(len(stores), np.int64)
    kind[place] = lines.kind
    member = (kind == np.unique(kind)[:, None]).astype(np.float64)
    for lag in range(lags):
        for row, one in ((0, value), (1, seen)):
            early, late = one[:, : lags - lag], one[:, lag:]
            own = float((early * late).sum())
            same = float(((member @ early) * (member @ late)).sum())
            every = float((early.sum(axis=0) * late.sum(axis=0)).sum())
            sums["across"][row, lag] += every - same
            sums["type"][row, lag] += same - own
            sums["store"][row, lag] += own
        sums["squares"][0, lag] += float((scale[:, : lags - lag] * scale[:, lag:]).sum())


def _residuals(window: WindowActuals) -> FloatArray:
    """Log residuals (n,), wild ones drawn in."""
    scaled = np.log(window.sold / window.lines.sales) / window.lines.scale
    return np.asarray(np.clip(scaled, -_WILD, _WILD) * window.lines.scale, np.float64)


def _fit_kernel(products: FloatArray, pairs: FloatArray, first: int = 0) -> dict[str, float]:
    """Heights of the kernel's parts, none below zero, by least squares over the lags."""
    lag = np.arange(first, first + len(products))
    names = [name for name in DECAY_DAYS if first == 0 or name != "date"]
    basis = np.column_stack([exponential_decay(DECAY_DAYS[name], lag) for name in names])
    weight = pairs / max(pairs.sum(), 1.0)
    gram = basis.T @ (weight[:, None] * basis)
    target = basis.T @ (weight * products)
    height = np.zeros(len(names))
    for _ in range(_STEPS):
        for i in range(len(names)):
            if gram[i, i] > 0:
                rest = target[i] - gram[i] @ height + gram[i, i] * height[i]
                height[i] = max(rest / gram[i, i], 0.0)
    return dict(zip(names, height.tolist(), strict=True))


def _misses(window: WindowActuals, groups: Group) -> FloatArray:
    """Log of sold over forecast of each group's total, (g,)."""
    sold, forecast = (np.bincount(groups, x) for x in (window.sold, window.lines.sales))
    return np.asarray(np.log(sold / forecast), np.float64)


def _scores(table: dict[str, Any], window: WindowActuals, kind: str) -> FloatArray:
    """Misses of a kind's totals in standard deviations, (g,)."""
    groups = total_groups(kind, window.lines, window.origin)
    found = totals_variance(table, window.lines, groups)
    shift = (1.0 - found.one_store) * table["shift"]
    return np.asarray((_misses(window, groups) - shift) / found.deviation, np.float64)


def _of_many(table: dict[str, Any], windows: Sequence[WindowActuals]) -> list[float]:
    """Reach in standard deviations of each level for totals of many stores, (levels,).

    Windows are few, so the deviation itself is uncertain: Student's t with two degrees for each
    window, wider where past totals were further off than the covariance says.
    """
    kinds = ("type_week", "type", "chain_week", "chain")
    scores = [np.mean(_scores(table, w, kind) ** 2) for w in windows for kind in kinds]
    wider = max(float(np.sqrt(np.mean(scores))), 1.0)
    return [wider * student(0.5 + level / 2, 2 * len(windows)) for level in LEVELS]


def student(share: float, degrees: float) -> float:
    """Student's t quantile, by its expansion around the normal one (good from 2 degrees on)."""
    z = NormalDist().inv_cdf(share)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


def store_types(panel: "Panel") -> npt.NDArray[np.int64]:
    """Each store's type, (stores,): place in ``schema.STORE_TYPES``."""
    table = pl.read_parquet(panel.info.folder / "stores.parquet", columns=["StoreType"])
    return table["StoreType"].to_numpy().astype(np.int64)


def forecast_rows(
    panel: Panel,
    intervals: dict[str, Any],
    rows: StoreDays,
    matrix: FeatureMatrix,
    sales: FloatArray,
) -> ForecastRows:
    """Forecast rows (n,), all open, as totals see them."""
    kind = store_types(panel)[panel.store_indices(rows.store)]
    return ForecastRows(rows.store, rows.day, kind, sales, residual_scale(intervals, matrix))


def calibrate_totals(
    panel: Panel, outcomes: Sequence[WindowForecasts], intervals: dict[str, Any]
) -> dict[str, Any]:
    """The table for bands of totals, from all windows, later ones too."""
    return fit_totals([_past(panel, o, intervals) for o in flatten_windows(outcomes)])


def cross_validated_totals(
    panel: Panel, outcomes: Sequence[WindowForecasts]
) -> dict[str, Any] | None:
    """What bands of totals held in each window by tables of the others, as JSON.

    None where one window alone was forecast.
    """
    if len(outcomes) < 2:
        return None
    windows, tables = [], []
    every = flatten_windows(outcomes)
    for judged in every:
        intervals = calibrate_windows([o for o in outcomes if o is not judged])
        rest = [_past(panel, o, intervals) for o in every if o is not judged]
        windows.append(_past(panel, judged, intervals))
        tables.append((intervals, fit_totals(rest)))
    return measure_totals(windows, tables, REPORTED_LEVELS)


def flatten_windows(outcomes: Sequence[WindowForecasts]) -> list[WindowForecasts]:
    """All windows, each fit's later ones behind its own."""
    return [one for outcome in outcomes for one in (outcome, *outcome.follow_ups)]


def _past(panel: Panel, outcome: WindowForecasts, intervals: dict[str, Any]) -> WindowActuals:
    window = outcome.window
    lines = forecast_rows(
        panel, intervals, window.rows, window.matrix, outcome.forecasts["ensemble"]
    )
    return WindowActuals(lines, window.sold, window.origin)
