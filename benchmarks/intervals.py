"""Coverage and width of the 80 and 95 % intervals by method; each window by the other windows.

    python benchmarks/intervals.py --profile full 2014-06-13 2014-08-01 2015-03-09 2015-04-26

Takes a fit for each window (about 80 s each for ``full`` on two cores). Methods: ``one for all``
(quantiles of |log residual| over all rows), ``terciles`` (by tercile of the store's volatility),
``scaled`` (the product's), ``scaled, two-sided`` (its lower and upper quantile apart).
"""

import argparse
from collections.abc import Callable, Sequence
from datetime import date

import numpy as np
import numpy.typing as npt

from rossmann.data.make_dataset import current_dataset
from rossmann.data.panel.panel import open_panel
from rossmann.models.calibration.interval_coverage import calibrate_windows
from rossmann.models.ensemble.prediction_intervals import (
    conformal_quantile,
    conformal_quantiles,
    residual_scale,
    terciles,
    volatility_cuts,
)
from rossmann.models.evaluation.backtest import (
    BacktestPlan,
    WindowForecasts,
    backtest,
    origins_to_offsets,
)
from rossmann.models.members.fit import sample_training_rows
from rossmann.models.reports.figures import markdown_table
from rossmann.schema import FEATURES, FeatureMatrix, FloatArray
from rossmann.settings import load_settings

_SD = FEATURES.index("sd_same_364")
BoolArray = npt.NDArray[np.bool_]
IndexArray = npt.NDArray[np.int64]
Bounds = tuple[FloatArray, FloatArray]
Method = Callable[[Sequence[WindowForecasts], FeatureMatrix, float], Bounds]


def residuals(outcomes: Sequence[WindowForecasts]) -> FloatArray:
    """Log of sold over forecast, all windows concatenated."""
    return np.concatenate([np.log(o.window.sold / o.forecasts["ensemble"]) for o in outcomes])


def matrices(outcomes: Sequence[WindowForecasts]) -> FeatureMatrix:
    """Features of all windows, concatenated."""
    return np.concatenate([o.window.matrix for o in outcomes])


def one_for_all(
    calibration: Sequence[WindowForecasts], matrix: FeatureMatrix, level: float
) -> Bounds:
    """The same width everywhere."""
    width = np.full(len(matrix), conformal_quantiles(np.abs(residuals(calibration)), [level])[0])
    return -width, width


def by_tercile(
    calibration: Sequence[WindowForecasts], matrix: FeatureMatrix, level: float
) -> Bounds:
    """A width for each third of volatility."""
    matrix_known, errors = matrices(calibration), np.abs(residuals(calibration))
    cuts = volatility_cuts(matrix_known)
    group = terciles(matrix_known, cuts)
    widths = np.array([conformal_quantiles(errors[group == g], [level])[0] for g in range(3)])
    width = widths[terciles(matrix, cuts)]
    return -width, width


def scaled(calibration: Sequence[WindowForecasts], matrix: FeatureMatrix, level: float) -> Bounds:
    """The method of the product."""
    table = calibrate_windows(calibration)
    width = conformal_quantile(table, level) * residual_scale(table, matrix)
    return -width, width


def two_sided(
    calibration: Sequence[WindowForecasts], matrix: FeatureMatrix, level: float
) -> Bounds:
    """The same scale, with separate lower and upper quantiles."""
    table = calibrate_windows(calibration)
    errors = residuals(calibration) / residual_scale(table, matrices(calibration))
    low, high = np.quantile(errors, [(1 - level) / 2, (1 + level) / 2])
    scale = residual_scale(table, matrix)
    return low * scale, high * scale


METHODS: dict[str, Method] = {
    "one for all": one_for_all,
    "terciles": by_tercile,
    "scaled": scaled,
    "scaled, two-sided": two_sided,
}


def compare(outcomes: Sequence[WindowForecasts], level: float) -> list[list[str]]:
    """A header, then a row for each method: coverage by window, by tercile, by decile; width."""
    rows = [["method", *(str(o.window.origin_date) for o in outcomes), "mean", "by tercile",
             "lowest, highest decile", "width"]]  # fmt: skip
    for name, method in METHODS.items():
        inside, widths, order = [], [], []
        for tested in outcomes:
            calibration = [o for o in outcomes if o is not tested]
            low, high = method(calibration, tested.window.matrix, level)
            errors = residuals([tested])
            inside.append((low <= errors) & (errors <= high))
            widths.append(float(np.mean(np.exp(high) - np.exp(low))))
            order.append(np.argsort(tested.window.matrix[:, _SD], kind="stable"))
        parts = [_coverage_by_part(inside, order, count) for count in (3, 10)]
        shares = [float(i.mean()) for i in inside]
        rows.append(
            [name, *(_percent(x) for x in (*shares, float(np.mean(shares)))),
             " / ".join(_percent(x) for x in parts[0]),
             f"{_percent(min(parts[1]))}, {_percent(max(parts[1]))}", f"{np.mean(widths):.3f}"]
        )  # fmt: skip
    return rows


def _coverage_by_part(inside: list[BoolArray], order: list[IndexArray], count: int) -> list[float]:
    """Coverage of each of ``count`` parts of the ordered rows, averaged over the windows."""
    parts = [
        [float(i[part].mean()) for part in np.array_split(o, count)]
        for i, o in zip(inside, order, strict=True)
    ]
    return [float(x) for x in np.mean(parts, axis=0)]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def main() -> None:
    """Fit, forecast, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("origins", nargs="+", type=date.fromisoformat)
    parser.add_argument("--profile", default="full")
    args = parser.parse_args()
    settings = load_settings()
    panel = open_panel(current_dataset(settings))
    examples = sample_training_rows(panel, settings.history_days, settings.seed)
    outcomes = backtest(
        settings, panel, examples, settings.profile(args.profile), print,
        BacktestPlan(origins_to_offsets(panel, args.origins)),
    )  # fmt: skip
    for level in (0.8, 0.95):
        print(f"\n{level:.0%} interval, each window by the others\n")
        print(markdown_table(compare(outcomes, level)))


if __name__ == "__main__":
    main()
