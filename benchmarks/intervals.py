"""Coverage and width of the 80 and 95 % bands by method, each window by the other windows.

    python benchmarks/intervals.py --profile full 2014-06-13 2014-08-01 2015-03-09 2015-04-26

Takes a fit for each window (about 80 s each for ``full`` on two cores). Methods: ``one for all``
(quantiles of |log residual| over all rows), ``terciles`` (by tercile of the store's volatility),
``scaled`` (``models/intervals.py``), ``scaled, two-sided`` (its lower and upper quantile apart).
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
from rossmann.models.evaluation.backtest import backtest
from rossmann.models.evaluation.windows import WindowForecasts, origins_to_offsets
from rossmann.models.members.fit import sample_training_rows
from rossmann.models.reports.figures import markdown
from rossmann.schema import FEATURES, FeatureMatrix, FloatArray
from rossmann.settings import load_settings

_SD = FEATURES.index("sd_same_364")
Held = npt.NDArray[np.bool_]
Order = npt.NDArray[np.int64]
Bounds = tuple[FloatArray, FloatArray]
Method = Callable[[Sequence[WindowForecasts], FeatureMatrix, float], Bounds]


def residuals(outcomes: Sequence[WindowForecasts]) -> FloatArray:
    """Log of sold over forecast, all windows in a row."""
    return np.concatenate([np.log(o.window.sold / o.forecasts["ensemble"]) for o in outcomes])


def matrices(outcomes: Sequence[WindowForecasts]) -> FeatureMatrix:
    """All windows' features in a row."""
    return np.concatenate([o.window.matrix for o in outcomes])


def one_for_all(seen: Sequence[WindowForecasts], matrix: FeatureMatrix, level: float) -> Bounds:
    """The same width everywhere."""
    width = np.full(len(matrix), conformal_quantiles(np.abs(residuals(seen)), [level])[0])
    return -width, width


def by_tercile(seen: Sequence[WindowForecasts], matrix: FeatureMatrix, level: float) -> Bounds:
    """A width for each third of volatility."""
    known, missed = matrices(seen), np.abs(residuals(seen))
    cuts = volatility_cuts(known)
    group = terciles(known, cuts)
    widths = np.array([conformal_quantiles(missed[group == g], [level])[0] for g in range(3)])
    width = widths[terciles(matrix, cuts)]
    return -width, width


def scaled(seen: Sequence[WindowForecasts], matrix: FeatureMatrix, level: float) -> Bounds:
    """The product's own."""
    table = calibrate_windows(seen)
    width = conformal_quantile(table, level) * residual_scale(table, matrix)
    return -width, width


def two_sided(seen: Sequence[WindowForecasts], matrix: FeatureMatrix, level: float) -> Bounds:
    """The same scale with a lower and an upper quantile of their own."""
    table = calibrate_windows(seen)
    missed = residuals(seen) / residual_scale(table, matrices(seen))
    low, high = np.quantile(missed, [(1 - level) / 2, (1 + level) / 2])
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
        for judged in outcomes:
            seen = [o for o in outcomes if o is not judged]
            low, high = method(seen, judged.window.matrix, level)
            missed = residuals([judged])
            inside.append((low <= missed) & (missed <= high))
            widths.append(float(np.mean(np.exp(high) - np.exp(low))))
            order.append(np.argsort(judged.window.matrix[:, _SD], kind="stable"))
        parts = [_by_part(inside, order, count) for count in (3, 10)]
        shares = [float(i.mean()) for i in inside]
        rows.append(
            [name, *(_percent(x) for x in (*shares, float(np.mean(shares)))),
             " / ".join(_percent(x) for x in parts[0]),
             f"{_percent(min(parts[1]))}, {_percent(max(parts[1]))}", f"{np.mean(widths):.3f}"]
        )  # fmt: skip
    return rows


def _by_part(inside: list[Held], order: list[Order], count: int) -> list[float]:
    """Mean coverage of each part of the rows in their order, the windows' mean."""
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
    chosen = parser.parse_args()
    settings = load_settings()
    panel = open_panel(current_dataset(settings))
    examples = sample_training_rows(panel, settings.history_days, settings.seed)
    outcomes = backtest(
        settings, panel, examples, settings.profile(chosen.profile), print,
        origins_to_offsets(panel, chosen.origins),
    )  # fmt: skip
    for level in (0.8, 0.95):
        print(f"\n{level:.0%} band, each window by the others\n")
        print(markdown(compare(outcomes, level)))


if __name__ == "__main__":
    main()
