"""How often the paired test of two forecasts errs, and how often it finds a better one.

    python benchmarks/paired_test.py [--windows 8] [--seeds 3] [--draws 200]

For each seed one fit of the quick profile forecasts the latest windows of 48 days of the current
dataset (ROSSMANN_DATA_DIR), each from its own origin. Each draw takes four of the windows.

null: both forecasts are the same one times common shocks of a standard deviation, of each date, of
dates that follow each other (autocorrelation .8), or of each window. seeds: the same recipe with
two seeds. better: the errors of the first are smaller by 3 per cent, with shocks of dates in both.
Columns: how often p <= .05, and how often p <= .05 at an improvement of at least .5 per cent, which
is what the gate asks for.

--looks: instead, the sequential test of experiments. Two windows that follow each other (96 days)
are shown day by day; somebody looks every day from day 14 to day 90. Columns: how often p <= .05
of the paired test on at least one day, in either direction, and how often the verdict was "better",
or "worse", on at least one day.

--newer: instead, the equivalence test of days that are newer than Production's data: how often the
same recipe with another seed passes, and how often a forecast that is worse by the margin.
"""

import argparse
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from rossmann.data.make_dataset import current_dataset
from rossmann.data.panel.panel import open_panel
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.evaluation.backtest import build_windows, rolling_offsets
from rossmann.models.evaluation.clustered_errors import Estimate
from rossmann.models.evaluation.paired_test import PairedRows, no_worse_p_value, paired_test
from rossmann.models.evaluation.sequential_test import MAX_P_VALUE, sequential_test
from rossmann.models.members.fit import fit_members, sample_training_rows
from rossmann.schema import FloatArray
from rossmann.settings import Settings, load_settings

WINDOWS_OF_A_DRAW = 4
FIRST_LOOK, LAST_LOOK, LOOKED_AT_STORES = 14, 90, 150
SHOCKS = (0.002, 0.005, 0.01)

Days = npt.NDArray[np.integer]
Window = tuple[Days, Days, FloatArray, list[FloatArray]]
"""Store, day, sales, and the forecast of each seed; (n,) each."""
Pair = Callable[[np.random.Generator, PairedRows], PairedRows]


def make_windows(settings: Settings, count: int, seeds: int) -> list[Window]:
    """Forecasts of the latest windows by one fit for each seed, older than all of them."""
    panel = open_panel(current_dataset(settings))
    profile, threads = settings.profile("quick"), settings.thread_count
    rows = sample_training_rows(panel, settings.history_days, settings.seed)
    offsets = rolling_offsets(count, settings.window_days)
    windows = build_windows(panel, offsets, settings.window_days, settings.history_days)
    known = rows.known_at(windows[0].origin)
    forecasts: list[list[FloatArray]] = [[] for _ in windows]
    for seed in range(seeds):
        members = fit_members(known, profile, settings.seed + seed, threads, lambda _: None)
        ensemble = Ensemble(members, {"weights": profile.weights})
        for window, found in zip(windows, forecasts, strict=True):
            found.append(ensemble.predict(window.matrix, threads))
        print(f"fit with seed {settings.seed + seed}: {count} windows", flush=True)
    return [
        (w.rows.store, w.rows.day, w.sold, found)
        for w, found in zip(windows, forecasts, strict=True)
    ]


def draw(rng: np.random.Generator, windows: list[Window], seeds: tuple[int, int]) -> PairedRows:
    """Some of the windows, each forecast with two seeds."""
    chosen = sorted(rng.choice(len(windows), min(WINDOWS_OF_A_DRAW, len(windows)), replace=False))
    parts = [
        PairedRows(np.full(len(sold), number), store, day, sold, found[seeds[0]], found[seeds[1]])
        for number, (store, day, sold, found) in enumerate(windows[i] for i in chosen)
    ]
    return PairedRows._make(np.concatenate(columns) for columns in zip(*parts, strict=True))


def draw_span(
    rng: np.random.Generator, windows: list[Window], seeds: tuple[int, int]
) -> PairedRows:
    """Two windows that follow each other as one span, of some stores."""
    start = int(rng.integers(0, len(windows) - 1))
    rows = draw(rng, windows[start : start + 2], seeds)
    keep = np.isin(rows.store, rng.choice(np.unique(rows.store), LOOKED_AT_STORES, replace=False))
    rows = PairedRows._make(column[keep] for column in rows)
    return rows._replace(window=np.zeros_like(rows.window))


def shocks(rng: np.random.Generator, rows: PairedRows, kind: str, sd: float) -> FloatArray:
    """A factor of each row (n,) that rows of a date, or of a window, have in common."""
    key = rows.window if kind == "window" else rows.window * 1_000_000 + rows.day
    values, index = np.unique(key, return_inverse=True)
    noise = rng.normal(0, sd, len(values))
    if kind == "following dates":
        for i in range(1, len(noise)):
            noise[i] = 0.8 * noise[i - 1] + 0.6 * noise[i]
    return np.asarray(np.exp(noise[index]))


def null(kind: str, sd: float) -> Pair:
    """Two forecasts of the same quality."""

    def pair(rng: np.random.Generator, rows: PairedRows) -> PairedRows:
        first, second = (rows.second * shocks(rng, rows, kind, sd) for _ in range(2))
        return rows._replace(first=first, second=second)

    return pair


def better(sd: float) -> Pair:
    """The first one's errors are 3 per cent smaller."""

    def pair(rng: np.random.Generator, rows: PairedRows) -> PairedRows:
        improved = rows.sold + 0.97 * (rows.second - rows.sold)
        first, second = (one * shocks(rng, rows, "date", sd) for one in (improved, rows.second))
        return rows._replace(first=first, second=second)

    return pair


def cases(seeds: int) -> Iterator[tuple[str, Pair, bool]]:
    """Name, forecasts, and whether the two come from different seeds."""
    for kind in ("date", "following dates", "window"):
        for sd in SHOCKS:
            yield f"null, shocks of {kind}, {sd:.1%}", null(kind, sd), False
    if seeds > 1:
        yield "seeds", lambda _, rows: rows, True
    for sd in (0.0, *SHOCKS):
        yield f"better by 3 %, shocks of date, {sd:.1%}", better(sd), False


def run_newer_days(windows: list[Window], seeds: int, margin: float) -> None:
    """Print how often the equivalence test passes, for days that are newer than Production's."""
    print(f"{'':12} same quality   worse by {margin:.0%}")
    for days in (7, 14, 28, 48):
        passed, wrong = [], []
        for store, day, sold, found in windows:
            for one in range(seeds):
                known = day < day.min() + days
                first, second = found[one][known], found[(one + 1) % seeds][known]
                worse = sold[known] + (1.0 + margin) * (second - sold[known])
                zero = np.zeros(int(known.sum()), np.int64)
                rows = PairedRows(zero, store[known], day[known], sold[known], first, second)
                passed.append(no_worse_p_value(rows, margin) <= MAX_P_VALUE)
                wrong.append(no_worse_p_value(rows._replace(first=worse, second=first), margin))
        shares = np.mean(passed), np.mean(np.array(wrong) <= MAX_P_VALUE)
        print(f"{days:4} days    {shares[0]:12.3f} {shares[1]:14.3f}", flush=True)


def look_daily(rows: PairedRows) -> tuple[bool, bool, bool]:
    """Whether on some day the paired test is significant, and the verdict better, or worse."""
    is_significant, verdicts = False, set()
    start = rows.day.min()
    for days in range(FIRST_LOOK, LAST_LOOK + 1):
        known = rows.day < start + days
        part = PairedRows(*(column[known] for column in rows))
        test = paired_test(part)
        reverse = paired_test(part._replace(first=part.second, second=part.first))
        is_significant |= min(test.p_value, reverse.p_value) <= MAX_P_VALUE
        estimate = Estimate(test.improvement, test.standard_error)
        verdicts.add(sequential_test(estimate, test.weeks).verdict)
    return is_significant, "better" in verdicts, "worse" in verdicts


def run_looks(rng: np.random.Generator, windows: list[Window], seeds: int, draws: int) -> None:
    """Print the table of the sequential test."""
    print(f"{'':42} paired test   better   worse")
    for name, pair, two_seeds in cases(seeds):
        if "window" in name:
            continue  # a shock of all days that are shown is a difference
        found = []
        for _ in range(draws):
            first, second = rng.permutation(seeds)[:2] if two_seeds else (0, 0)
            found.append(look_daily(pair(rng, draw_span(rng, windows, (first, second)))))
        shares = np.mean(found, axis=0)
        print(f"{name:42} {shares[0]:11.3f} {shares[1]:8.3f} {shares[2]:7.3f}", flush=True)


def main() -> None:
    """Fit, draw, print the table."""
    parser = argparse.ArgumentParser(description="Errors of the paired test of two forecasts.")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--looks", action="store_true")
    parser.add_argument("--newer", action="store_true")
    options = parser.parse_args()
    settings = load_settings()
    windows = make_windows(settings, options.windows, options.seeds)
    rng = np.random.default_rng(settings.seed)
    if options.newer:
        run_newer_days(windows, options.seeds, settings.gate_margin)
        return
    if options.looks:
        run_looks(rng, windows, options.seeds, options.draws)
        return
    print(f"{'':42} p <= .05   and .5 % better")
    for name, pair, two_seeds in cases(options.seeds):
        tests = []
        for _ in range(options.draws):
            first, second = rng.permutation(options.seeds)[:2] if two_seeds else (0, 0)
            tests.append(paired_test(pair(rng, draw(rng, windows, (first, second)))))
        low = np.array([test.p_value <= settings.gate_chance for test in tests])
        large = np.array([test.improvement >= settings.gate_improvement for test in tests])
        print(f"{name:42} {low.mean():8.3f}   {(low & large).mean():8.3f}", flush=True)


if __name__ == "__main__":
    main()
