"""Coverage and width of intervals of days and of totals; each window by tables of the others.

    python benchmarks/intervals.py --profile quick

Takes a fit for each window (some 15 s for ``quick``, 150 s for ``full`` on two cores). Methods
for days: ``one for all`` (quantiles of |log residual| over all rows), ``terciles`` (by tercile of
the store's volatility), ``scaled, five terms`` (of before: no event, no first week after a
closure, no correction), ``scaled`` (the product's), ``scaled, two-sided`` (its lower and upper
quantile apart). ``--aged ORIGIN``: forecast all windows after ORIGIN by its fit, too, and compare.
"""

import argparse
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rossmann.data.make_dataset import current_dataset
from rossmann.data.panel.panel import Panel, open_panel
from rossmann.models.calibration import interval_coverage, totals_fit
from rossmann.models.calibration.bias_correction import bias_rows, measure_bias
from rossmann.models.calibration.interval_coverage import (
    EVENT_GROUPS,
    calibrate_windows,
    event_groups,
    joined_inputs,
)
from rossmann.models.ensemble.prediction_intervals import (
    calibrate,
    conformal_quantile,
    conformal_quantiles,
    terciles,
    volatility_cuts,
)
from rossmann.models.ensemble.residual_scale import fit_scale, residual_scale
from rossmann.models.evaluation.backtest import (
    BacktestPlan,
    WindowForecasts,
    backtest,
    origins_to_offsets,
    rolling_offsets,
)
from rossmann.models.evaluation.metrics import bias, wape
from rossmann.models.members.fit import TrainingRows, sample_training_rows
from rossmann.models.reports.figures import markdown_table
from rossmann.schema import FEATURES, FloatArray
from rossmann.settings import Settings, load_settings

_SD: Final = FEATURES.index("sd_same_364")
_WINDOWS: Final = 9
Bounds = tuple[FloatArray, FloatArray]
Method = Callable[[Sequence[WindowForecasts], WindowForecasts, float], Bounds]


def residuals(outcomes: Sequence[WindowForecasts]) -> FloatArray:
    """Log of sold over forecast, all windows concatenated."""
    return np.concatenate([np.log(o.window.sold / o.forecasts["ensemble"]) for o in outcomes])


def one_for_all(
    calibration: Sequence[WindowForecasts], tested: WindowForecasts, level: float
) -> Bounds:
    """The same width everywhere."""
    width = conformal_quantiles(np.abs(residuals(calibration)), [level])[0]
    widths = np.full(len(tested.window.sold), width)
    return -widths, widths


def by_tercile(
    calibration: Sequence[WindowForecasts], tested: WindowForecasts, level: float
) -> Bounds:
    """A width for each third of volatility."""
    matrix, errors = joined_inputs(calibration).matrix, np.abs(residuals(calibration))
    cuts = volatility_cuts(matrix)
    group = terciles(matrix, cuts)
    widths = np.array([conformal_quantiles(errors[group == g], [level])[0] for g in range(3)])
    width = widths[terciles(tested.window.matrix, cuts)]
    return -width, width


def five_terms(
    calibration: Sequence[WindowForecasts], tested: WindowForecasts, level: float
) -> Bounds:
    """The scale of the release before."""
    rows, errors = joined_inputs(calibration), np.abs(residuals(calibration))
    table: dict[str, Any] = calibrate(rows, np.exp(errors) * rows.forecast)
    table["terms"] = table["terms"][:5]
    table["coefficients"] = fit_scale(table, rows, errors).tolist()
    width = conformal_quantiles(errors / residual_scale(table, rows), [level])[0]
    widths = width * residual_scale(table, tested.interval_inputs)
    return -widths, widths


def scaled(calibration: Sequence[WindowForecasts], tested: WindowForecasts, level: float) -> Bounds:
    """The method of the product."""
    table = calibrate_windows(calibration)
    width = conformal_quantile(table, level) * residual_scale(table, tested.interval_inputs)
    return -width, width


def two_sided(
    calibration: Sequence[WindowForecasts], tested: WindowForecasts, level: float
) -> Bounds:
    """The same scale, with separate lower and upper quantiles."""
    table = calibrate_windows(calibration)
    errors = residuals(calibration) / residual_scale(table, joined_inputs(calibration))
    low, high = np.quantile(errors, [(1 - level) / 2, (1 + level) / 2])
    scale = residual_scale(table, tested.interval_inputs)
    return low * scale, high * scale


METHODS: dict[str, Method] = {
    "one for all": one_for_all,
    "terciles": by_tercile,
    "scaled, five terms": five_terms,
    "scaled": scaled,
    "scaled, two-sided": two_sided,
}


def compare(outcomes: Sequence[WindowForecasts], level: float) -> list[list[list[str]]]:
    """Two tables with a row for each method: by window, volatility and width; and by event."""
    by_window = [["method", *(str(o.window.origin_date) for o in outcomes), "mean", "by tercile",
                  "lowest, highest decile", "width", "Winkler score"]]  # fmt: skip
    by_event = [["method", *EVENT_GROUPS]]
    for name, method in METHODS.items():
        inside, widths, scores, order = [], [], [], []
        for tested in outcomes:
            calibration = [o for o in outcomes if o is not tested]
            low, high = method(calibration, tested, level)
            errors = residuals([tested])
            inside.append((low <= errors) & (errors <= high))
            widths.append(float(np.mean(np.exp(high) - np.exp(low))))
            scores.append(_winkler(errors, (low, high), level))
            order.append(np.argsort(tested.window.matrix[:, _SD], kind="stable"))
        parts = [_coverage_by_part(inside, order, count) for count in (3, 10)]
        shares = [float(i.mean()) for i in inside]
        by_window.append(
            [name, *(_percent(x) for x in (*shares, float(np.mean(shares)))),
             " / ".join(_percent(x) for x in parts[0]),
             f"{_percent(min(parts[1]))}, {_percent(max(parts[1]))}", f"{np.mean(widths):.4f}",
             f"{np.mean(scores):.4f}"]
        )  # fmt: skip
        rows, covered = joined_inputs(outcomes), np.concatenate(inside)
        events = event_groups(rows.day, rows.matrix).values()
        by_event.append([name, *(_percent(covered[e].mean()) if e.any() else "-" for e in events)])
    return [by_window, by_event]


def _winkler(errors: FloatArray, bounds: Bounds, level: float) -> float:
    """Mean width as a share of the forecast, and 2 / (1 - level) of what lies outside."""
    low, high = np.exp(bounds[0]), np.exp(bounds[1])
    ratio = np.exp(errors)
    outside = np.maximum(low - ratio, 0.0) + np.maximum(ratio - high, 0.0)
    return float(np.mean(high - low + 2.0 / (1.0 - level) * outside))


def _coverage_by_part(
    inside: list[npt.NDArray[np.bool_]], order: list[npt.NDArray[np.int64]], count: int
) -> list[float]:
    """Coverage of each of ``count`` parts of the ordered rows, averaged over the windows."""
    parts = [
        [float(i[part].mean()) for part in np.array_split(o, count)]
        for i, o in zip(inside, order, strict=True)
    ]
    return [float(x) for x in np.mean(parts, axis=0)]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def totals_tables(
    panel: Panel, outcomes: Sequence[WindowForecasts], chain_floor: float
) -> list[list[list[str]]]:
    """Coverage by kind of total; the chain's misses beside the half-widths by other windows."""
    measured = totals_fit.cross_validated_totals(panel, outcomes, chain_floor)
    if measured is None:
        return []
    return [interval_coverage.totals_rows(measured), interval_coverage.past_rows(measured["past"])]


def aged_table(fresh: Sequence[WindowForecasts], aged: WindowForecasts) -> list[list[str]]:
    """WAPE and bias of a window's own fit and of an older one."""
    table = [["window", "age of the older fit", "WAPE", "older", "bias", "older"]]
    own = {o.window.origin: o for o in fresh}
    squares = []
    for one in aged.follow_ups:
        sold, forecasts = one.window.sold, own[one.window.origin].forecasts["ensemble"]
        older = one.forecasts["ensemble"]
        squares.append((bias(sold, forecasts) ** 2, bias(sold, older) ** 2))
        table.append(
            [str(one.window.origin_date), f"{one.age_days} days",
             f"{wape(sold, forecasts):.4f}", f"{wape(sold, older):.4f}",
             f"{bias(sold, forecasts):+.2%}", f"{bias(sold, older):+.2%}"]
        )  # fmt: skip
    own_rms, older_rms = np.sqrt(np.mean(squares, axis=0))
    table.append(["root mean square", "", "", "", f"{own_rms:.2%}", f"{older_rms:.2%}"])
    return table


def _run(
    settings: Settings, panel: Panel, examples: TrainingRows, profile: str, plan: BacktestPlan
) -> list[WindowForecasts]:
    return backtest(settings, panel, examples, settings.profile(profile), print, plan)


def main() -> None:
    """Fit, forecast, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("origins", nargs="*", type=date.fromisoformat)
    parser.add_argument("--profile", default="full")
    parser.add_argument("--aged", type=date.fromisoformat)
    args = parser.parse_args()
    settings = load_settings()
    panel = open_panel(current_dataset(settings))
    examples = sample_training_rows(panel, settings.history_days, settings.seed)
    offsets = (
        origins_to_offsets(panel, args.origins) if args.origins
        else rolling_offsets(_WINDOWS, settings.window_days)
    )  # fmt: skip
    outcomes = _run(settings, panel, examples, args.profile, BacktestPlan(offsets))
    for level in (0.8, 0.95):
        print(f"\n{level:.0%} interval, each window by the others")
        for table in compare(outcomes, level):
            print(f"\n{markdown_table(table)}")
    print(f"\nBias of totals\n\n{markdown_table(bias_rows(measure_bias(outcomes)))}")
    print("\nTotals, each window by the others")
    for table in totals_tables(panel, outcomes, settings.chain_floor):
        print(f"\n{markdown_table(table)}")
    if args.aged:
        plan = BacktestPlan(origins_to_offsets(panel, [args.aged]), follow_ups=_WINDOWS)
        (aged,) = _run(settings, panel, examples, args.profile, plan)
        print(
            f"\nForecasts of the fit of {args.aged}\n\n{markdown_table(aged_table(outcomes, aged))}"
        )


if __name__ == "__main__":
    main()
