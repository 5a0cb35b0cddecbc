"""The candidate beside the version that serves, on days that neither saw.

Where both backtests forecast the same days from the same origins, their forecasts are paired:
neither's members saw those days. On newer data the origins differ; then the serving version itself
forecasts the days of the candidate's windows that came after it was trained.

MERGED: What a version's windows show of its bands and its totals, held against limits.

The limits are made for a chain. Where there are only a few stores, the luck of each moves the
whole: a store that does well for six weeks lies above its bands, and so does the total. There the
limit is wider by what chance does, and the line says so.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from rossmann.models.evaluation import metrics as paired
from rossmann.models.evaluation.metrics import FEW_STORES
from rossmann.models.gate.backtest_predictions import BacktestPredictions, WindowPredictions
from rossmann.models.gate.verdict import CheckResult, at_most, not_measured
from rossmann.schema import FloatArray
from rossmann.settings import Settings

ProductionForecast = Callable[[WindowPredictions], FloatArray]
"""Forecasts (n,) of the serving version for a window's rows, as of the window's origin."""


def checks_against_baseline(
    windows: Sequence[WindowPredictions], settings: Settings
) -> list[CheckResult]:
    """Better than seasonal naive on every window.

    Six weeks of a few stores seldom tell a better forecast from a luckier one. There no window may
    be worse beyond chance, and all of them together must be better.
    """
    stores = np.unique(np.concatenate([window.store for window in windows]))
    if len(stores) >= paired.FEW_STORES or not all(len(window.sold) for window in windows):
        return [_against_naive(window, settings) for window in windows]
    rows = [(w.store, w.day, w.sold, w.forecast, w.naive) for w in windows]
    found = paired.permutation_test(*(np.concatenate(parts) for parts in zip(*rows, strict=True)))
    return [
        *(_not_worse(window, settings) for window in windows),
        _better("all windows: better than seasonal naive", found, settings),
    ]


def _against_naive(window: WindowPredictions, settings: Settings) -> CheckResult:
    check = f"{window.origin}: better than seasonal naive"
    if not len(window.sold):
        return not_measured(check, "no row")
    found = paired.permutation_test(
        window.store, window.day, window.sold, window.forecast, window.naive
    )
    return _better(check, found, settings)


def _not_worse(window: WindowPredictions, settings: Settings) -> CheckResult:
    """A higher error than seasonal naive's passes where it may be bad luck."""
    check = f"{window.origin}: not clearly worse than seasonal naive"
    found = paired.permutation_test(
        window.store, window.day, window.sold, window.naive, window.forecast
    )
    if not np.isfinite([found.first_rmspe, found.second_rmspe, found.p]).all():
        return not_measured(check, "a forecast is no number")
    passed = found.second_rmspe <= found.first_rmspe or found.p > settings.gate_chance
    note = f"{_whom(found)}, worse by chance p = {found.p:.4f}"
    return CheckResult(check, found.second_rmspe, found.first_rmspe, passed, note)


def checks_against_production(
    candidate: BacktestPredictions, serving: BacktestPredictions | None, name: str, last_day: int | None,
    score: ProductionForecast, settings: Settings, replaceable: bool = False,
) -> list[CheckResult]:  # fmt: skip
    """The lines; ``last_day``: the last day of the serving version's data, None if unknown.

    ``replaceable``: another chain of the same name may take over without a comparison, as one
    demo chain after another does.
    """
    pairs = matched_windows(candidate, serving)
    if sum(len(other) for *_, other in pairs) < sum(len(w.sold) for w, *_ in pairs) / 2:
        note = "another chain: what was sold on the same days differs"
        if replaceable:
            return [CheckResult(f"against {name}", None, None, True, note)]
        return [not_measured(f"against {name}", f"{note}; promote with --force if that is meant")]
    if pairs:
        return _on_shared(pairs, name, settings)
    if last_day is None:
        return [not_measured(f"against {name}", "its last day of data is not known")]
    return [_on_newer(candidate, name, last_day, score, settings)]


MatchedWindow = tuple[WindowPredictions, WindowPredictions, FloatArray]
"""The candidate's window, its rows that both versions forecast, and the other's forecasts."""


def matched_windows(
    candidate: BacktestPredictions, serving: BacktestPredictions | None
) -> list[MatchedWindow]:
    """The windows that both have, each with the rows where both know the same sales."""
    others = {} if serving is None else {(w.origin, w.days): w for w in serving.windows}
    found = []
    for window in candidate.windows:
        other = others.get((window.origin, window.days))
        if other is None:
            continue
        at, there = np.intersect1d(_key(window), _key(other), return_indices=True)[1:]
        # What was corrected in the tables since is no measure of either.
        same = window.sold[at] == other.sold[there]
        found.append((window, window.take(at[same]), other.forecast[there[same]]))
    return found


def _key(window: WindowPredictions) -> npt.NDArray[np.int64]:
    return window.store.astype(np.int64) * 1_000_000 + window.day


def _on_shared(pairs: list[MatchedWindow], name: str, settings: Settings) -> list[CheckResult]:
    """No window clearly worse, and all of them together better than chance would make it."""
    lines = []
    pairs = [pair for pair in pairs if len(pair[2])]
    for _, rows, other in pairs:
        found = paired.permutation_test(rows.store, rows.day, rows.sold, rows.forecast, other)
        limit = found.second_rmspe + settings.gate_tolerance
        lines.append(at_most(f"{rows.origin}: no worse than {name}", found.first_rmspe, limit))
    all_found = paired.permutation_test(
        np.concatenate([rows.store for _, rows, _ in pairs]),
        np.concatenate([rows.day for _, rows, _ in pairs]),
        np.concatenate([rows.sold for _, rows, _ in pairs]),
        np.concatenate([rows.forecast for _, rows, _ in pairs]),
        np.concatenate([other for *_, other in pairs]),
    )
    return [*lines, _better(f"all windows: better than {name}", all_found, settings)]


def _on_newer(
    candidate: BacktestPredictions,
    name: str,
    last_day: int,
    score: ProductionForecast,
    settings: Settings,
) -> CheckResult:
    """On newer data no worse is enough: that a version knows the latest days is worth something."""
    check = f"days that {name} did not see: no worse"
    newest = candidate.windows[-1]
    rows = newest.take(np.nonzero(newest.day > last_day)[0])
    days = len(np.unique(rows.day))
    if days < settings.gate_days:
        why = f"{days} days are newer than its data, {settings.gate_days} are needed"
        return not_measured(check, why)
    found = paired.permutation_test(rows.store, rows.day, rows.sold, rows.forecast, score(rows))
    note = f"{days} days; {_chance(found)}"
    return at_most(check, found.first_rmspe, found.second_rmspe + settings.gate_tolerance, note)


def _better(check: str, found: paired.PermutationTest, settings: Settings) -> CheckResult:
    """A lower error, and by store so steadily lower that it is not luck."""
    if not np.isfinite([found.first_rmspe, found.second_rmspe, found.p]).all():
        return not_measured(check, "a forecast is no number")
    passed = found.first_rmspe < found.second_rmspe and found.p <= settings.gate_chance
    note = _chance(found)
    if 0.5**found.units > settings.gate_chance:
        note += ": too few to tell luck from skill"
    return CheckResult(check, found.first_rmspe, found.second_rmspe, passed, note)


def _chance(found: paired.PermutationTest) -> str:
    return f"{_whom(found)}, by chance p = {found.p:.4f}"


def _whom(found: paired.PermutationTest) -> str:
    """Whom the test asked: many stores, or the weeks of a few."""
    if found.stores >= paired.FEW_STORES:
        return f"better in {found.share_of_stores_better:.0%} of {found.stores:,} stores"
    stores, weeks = (
        f"{count} {what}{'s' if count > 1 else ''}"
        for count, what in ((found.stores, "store"), (found.units, "week"))
    )
    return f"tested on {weeks} of {stores}"


_STORES_BIAS: Final = 0.08
"""Standard deviation of one store's bias over a window, on small demo chains."""
_STORES_COVERAGE: Final = 0.20
"""Of the share of its days that a band holds which another window made, on the same chains."""
_SPREADS: Final = 2.0
"""How many standard deviations are taken for chance."""


def coverage_and_bias_checks(
    evidence: BacktestPredictions, settings: Settings
) -> list[CheckResult]:
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


def _limit(limit: float, spread: float, window: WindowPredictions) -> float:
    """The limit of a chain; for a few stores wider, by what chance adds."""
    stores = _stores(window)
    if not 0 < stores < FEW_STORES:
        return limit
    return math.hypot(limit, _SPREADS * spread / math.sqrt(stores))


def _few(window: WindowPredictions) -> str:
    stores = _stores(window)
    if not 0 < stores < FEW_STORES:
        return ""
    return f"; wider limit for {stores} store{'s' if stores > 1 else ''}"


def _stores(window: WindowPredictions) -> int:
    return len(np.unique(window.store))
