"""Accuracy checks of the gate: against the baseline, against Production, coverage and bias.

Against Production: where both backtests forecast the same days from the same origins, their
forecasts are paired; neither's members were fitted on those days. Windows that a fit forecast weeks
after its own count as well, and so do windows after Production's data that a fit of the same last
day forecast, as those of a reweighted version are. On newer data the origins differ; then the
Production version forecasts the candidate's window on days after its own data.

The limits are made for a large chain. With few stores, the random errors of each move coverage and
bias, so the limits are wider there, and the check's note says so.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from rossmann.models.evaluation.metrics import SMALL_CHAIN_STORES
from rossmann.models.evaluation.paired_test import (
    PairedRows,
    PairedTest,
    no_worse_p_value,
    paired_test,
)
from rossmann.models.gate.backtest_predictions import BacktestPredictions, WindowPredictions
from rossmann.models.gate.verdict import CheckResult, at_most, not_measured
from rossmann.schema import FloatArray
from rossmann.settings import Settings

ProductionForecast = Callable[[WindowPredictions], FloatArray]
"""Forecasts (n,) of the Production version for a window's rows, as of the window's origin."""
MatchedWindow = tuple[WindowPredictions, WindowPredictions, FloatArray]
"""The candidate's window, its rows that both versions forecast, and the other's forecasts (n,)."""

_STORE_BIAS_SD: Final = 0.08
"""Standard deviation of one store's bias over a window, on small demo chains."""
_STORE_COVERAGE_SD: Final = 0.20
"""Standard deviation of one store's coverage by another window's intervals, on the same chains."""
_N_DEVIATIONS: Final = 2.0
"""How many standard deviations a limit is wider for a small chain."""


@dataclass(frozen=True)
class ProductionVersion:
    """The version that a candidate is compared with.

    ``predictions``: of its backtest, None where they cannot be read; ``last_day``: of its data,
    since 1970-01-01, None if unknown; ``replaceable``: a version of another chain with the same
    dataset name may replace it without a comparison, as one demo chain replaces another.
    """

    name: str
    predictions: BacktestPredictions | None
    last_day: int | None
    forecast: ProductionForecast
    replaceable: bool = False


def checks_against_baseline(
    windows: Sequence[WindowPredictions], settings: Settings
) -> list[CheckResult]:
    """Better than seasonal naive on every window.

    Six weeks of a few stores seldom show a significant difference. For a small chain no window may
    be significantly worse, and all windows pooled must be better.
    """
    stores = np.unique(np.concatenate([window.store for window in windows]))
    if len(stores) >= SMALL_CHAIN_STORES or not all(len(window.sold) for window in windows):
        return [_better_than_naive(window, settings) for window in windows]
    pooled = pair_rows([(window, window.naive) for window in windows])
    # By weeks only: two windows could not tell, and no luck of a window makes up for naive's error.
    test = paired_test(pooled._replace(window=np.zeros_like(pooled.window)))
    return [
        *(_not_worse_than_naive(window, settings) for window in windows),
        _significantly_better("all windows: better than seasonal naive", test, settings),
    ]


def pair_rows(windows: Sequence[tuple[WindowPredictions, FloatArray]]) -> PairedRows:
    """The rows of windows, each with another forecast (n,) of them."""
    columns = [
        (np.full(len(other), number), w.store, w.day, w.sold, w.forecast, other)
        for number, (w, other) in enumerate(windows)
    ]
    return PairedRows(*(np.concatenate(parts) for parts in zip(*columns, strict=True)))


def _better_than_naive(window: WindowPredictions, settings: Settings) -> CheckResult:
    check = f"{window.origin}: better than seasonal naive"
    if not len(window.sold):
        return not_measured(check, "no row")
    test = paired_test(pair_rows([(window, window.naive)]))
    return _significantly_better(check, test, settings)


def _not_worse_than_naive(window: WindowPredictions, settings: Settings) -> CheckResult:
    """A higher error than seasonal naive's passes where it is not significant."""
    check = f"{window.origin}: not clearly worse than seasonal naive"
    naive = replace(window, forecast=window.naive)
    test = paired_test(pair_rows([(naive, window.forecast)]))
    if not _is_finite(test):
        return not_measured(check, "a forecast is no number")
    passed = test.improvement <= 0 or test.p_value > settings.gate_chance
    note = f"{_tested_on(test)}, worse by chance p = {test.p_value:.4f}"
    return CheckResult(check, test.second_wape, test.first_wape, passed, note)


def checks_against_production(
    candidate: BacktestPredictions, production: ProductionVersion, settings: Settings
) -> list[CheckResult]:
    """Compare on windows that both versions have, else on days after Production's data."""
    check = f"against {production.name}"
    pairs = matched_windows(candidate, production.predictions)
    if sum(len(other) for *_, other in pairs) < sum(len(w.sold) for w, *_ in pairs) / 2:
        note = "another chain: what was sold on the same days differs"
        if production.replaceable:
            return [CheckResult(check, None, None, True, note)]
        return [not_measured(check, f"{note}; promote with --force if that is meant")]
    if pairs:
        pairs += _windows_of_equal_age(candidate, production)
        return _checks_on_shared_windows(pairs, production.name, settings)
    if production.last_day is None:
        return [not_measured(check, "its last day of data is not known")]
    return [_check_on_newer_days(candidate, production, production.last_day, settings)]


def matched_windows(
    candidate: BacktestPredictions, other: BacktestPredictions | None
) -> list[MatchedWindow]:
    """The windows that both have, each with the rows where both have the same sales."""
    others = {} if other is None else {(w.origin, w.days): w for w in other.all_windows}
    pairs = []
    for window in candidate.all_windows:
        match = others.get((window.origin, window.days))
        if match is None:
            continue
        index, other_index = np.intersect1d(window.row_keys, match.row_keys, return_indices=True)[
            1:
        ]
        # sales that were corrected in the tables since are no measure of either version
        same = window.sold[index] == match.sold[other_index]
        pairs.append((window, window.take(index[same]), match.forecast[other_index[same]]))
    return pairs


def _windows_of_equal_age(
    candidate: BacktestPredictions, production: ProductionVersion
) -> list[MatchedWindow]:
    """The candidate's windows after Production's data, forecast by a fit that knew the same days.

    Neither version has the advantage of later data there. Production's backtest lacks them.
    """
    stored = () if production.predictions is None else production.predictions.all_windows
    known = {(window.origin, window.days) for window in stored}
    return [
        (window, window, production.forecast(window))
        for window in candidate.all_windows
        if (window.origin, window.days) not in known
        and window.fit_day is not None
        and window.fit_day == production.last_day
    ]


def _checks_on_shared_windows(
    pairs: list[MatchedWindow], name: str, settings: Settings
) -> list[CheckResult]:
    """No window clearly worse, and all windows pooled better by more than luck."""
    pairs = [pair for pair in pairs if len(pair[2])]
    checks = []
    for _, window, other in pairs:
        test = paired_test(pair_rows([(window, other)]))
        limit = test.second_wape + settings.gate_tolerance
        checks.append(at_most(f"{window.origin}: no worse than {name}", test.first_wape, limit))
    pooled = paired_test(pair_rows([(window, other) for _, window, other in pairs]))
    check = f"all windows: better than {name}"
    return [*checks, _significantly_better(check, pooled, settings, settings.gate_improvement)]


def _check_on_newer_days(
    candidate: BacktestPredictions, production: ProductionVersion, last_day: int, settings: Settings
) -> CheckResult:
    """On newer data no worse is enough: knowing the latest days is an advantage in itself.

    An equivalence test: a version that is worse by the margin passes seldom, however few the days.
    """
    check = f"days that {production.name} did not see: no worse (equivalence test)"
    newest = candidate.windows[-1]
    rows = newest.take(np.nonzero(newest.day > last_day)[0])
    days = len(np.unique(rows.day))
    if days < settings.gate_days:
        reason = f"{days} days are newer than its data, {settings.gate_days} are needed"
        return not_measured(check, reason)
    forecast = production.forecast(rows)
    pairs = pair_rows([(rows, forecast)])
    test, p_value = paired_test(pairs), no_worse_p_value(pairs, settings.gate_margin)
    if not np.isfinite(p_value):
        return not_measured(check, "a forecast is no number")
    worse = f"worse by {settings.gate_margin:.0%} or more: p = {p_value:.4f}"
    note = f"{days} days; {worse}; {_significance(test)}"
    limit = test.second_wape * (1.0 + settings.gate_margin)
    return CheckResult(check, test.first_wape, limit, p_value <= settings.gate_chance, note)


def _significantly_better(
    check: str, test: PairedTest, settings: Settings, least: float = 0.0
) -> CheckResult:
    """A WAPE that is lower by the share ``least``, with a p-value within the limit."""
    if not _is_finite(test):
        return not_measured(check, "a forecast is no number")
    passed = test.improvement > max(least, 0.0) and test.p_value <= settings.gate_chance
    note = _significance(test)
    if test.weeks < 2:
        note += ": too few weeks to compare"
    return CheckResult(check, test.first_wape, test.second_wape * (1.0 - least), passed, note)


def _is_finite(test: PairedTest) -> bool:
    return bool(np.isfinite([test.first_wape, test.second_wape, test.p_value]).all())


def _significance(test: PairedTest) -> str:
    error = f" ± {test.standard_error:.1%}" if np.isfinite(test.standard_error) else ""
    capped = f"capped RMSPE {test.first_capped_rmspe:.4f} for {test.second_capped_rmspe:.4f}"
    found = f"{test.improvement:+.1%}{error} on {_tested_on(test)}"
    return f"{found}, by chance p = {test.p_value:.4f}; {capped}"


def _tested_on(test: PairedTest) -> str:
    """What was compared, and in how many of its stores the version is better."""
    times = _plural(test.weeks, "week")
    if test.windows > 1:
        times += f" of {_plural(test.windows, 'window')}"
    stores = _plural(test.stores, "store")
    return f"{times}, better in {test.share_of_stores_better:.0%} of {stores}"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' if count > 1 else ''}"


def coverage_and_bias_checks(
    predictions: BacktestPredictions, settings: Settings
) -> list[CheckResult]:
    """Whether each window's coverage and bias are within limits."""
    checks = []
    for window in predictions.windows:
        coverage_by_level = predictions.coverage.get(window.origin, {})
        stores = len(np.unique(window.store))
        small = 0 < stores < SMALL_CHAIN_STORES
        wider = f"; wider limit for {_plural(stores, 'store')}" if small else ""
        for level in (0.80, 0.95):
            coverage = coverage_by_level.get(f"{level:.2f}")
            error = None if coverage is None else abs(coverage - level)
            note = (
                "needs two windows or more" if coverage is None else f"covers {coverage:.1%}{wider}"
            )
            limit = _limit(settings.gate_coverage, _STORE_COVERAGE_SD, stores)
            check = f"{window.origin}: the {level:.0%} band is off by"
            checks.append(at_most(check, error, limit, note))
        bias = window.bias
        note = f"forecasts {'above' if bias > 0 else 'below'} sales{wider}"
        limit = _limit(settings.gate_bias, _STORE_BIAS_SD, stores)
        checks.append(at_most(f"{window.origin}: bias of the total", abs(bias), limit, note))
    return checks


def _limit(limit: float, store_sd: float, stores: int) -> float:
    """The limit of a large chain; for a small one wider, by the random error of its stores."""
    if not 0 < stores < SMALL_CHAIN_STORES:
        return limit
    return math.hypot(limit, _N_DEVIATIONS * store_sd / math.sqrt(stores))
