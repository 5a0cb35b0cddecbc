"""Errors of members and ensembles over windows and seeds: changed parameters, averages of seeds.

    ROSSMANN_DATA_DIR=... python benchmarks/member_seeds.py [--origins DAYS] [--seeds 3]

Prints the table of docs/modelops/experiment-results-blend.md: the WAPE of each member and ensemble
in the mean of the seeds, its difference from the one in use, and the standard errors of that
difference over the seeds and over the windows. A seed changes the sampled origins and the fit; all
variants of a seed have the same rows. Filter weights are 0, as in a version that knows two years.

A fit takes some 30 to 90 s of processor time with the real tables; as many run side by side as
there are threads, with one each. Fits are kept in <data>/benchmarks/member_seeds, by the name of
the variant: empty the folder after a change of the members.
"""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

from rossmann.data.make_dataset import current_dataset
from rossmann.data.panel.panel import Panel, open_panel
from rossmann.epoch_days import to_date
from rossmann.models.evaluation.backtest import (
    BacktestWindow,
    MemberOutputs,
    build_windows,
    origins_to_offsets,
)
from rossmann.models.evaluation.metrics import rmspe, wape
from rossmann.models.members import LEARNERS
from rossmann.models.members.fit import learner_seeds, sample_training_rows
from rossmann.models.reports.figures import markdown_table
from rossmann.schema import FloatArray
from rossmann.settings import Settings, load_settings

ORIGINS: Final = "2014-05-25,2014-07-12,2014-10-16,2015-01-20,2015-03-09,2015-04-26"
METRICS: Final = {"WAPE": wape, "RMSPE": rmspe}
PROFILE: Final = "full"


@dataclass(frozen=True)
class Variant:
    """A member with changed parameters."""

    member: str
    params: dict[str, float] = field(default_factory=dict)


VARIANTS: Final = {
    **{name: Variant(name) for name in LEARNERS},
    "xgboost 500 at .05": Variant("xgboost", {"rounds": 500, "eta": 0.05}),
    "catboost 500 at .1": Variant("catboost", {"rounds": 500, "learning_rate": 0.1}),
    "catboost 700 at .07": Variant("catboost", {"rounds": 700, "learning_rate": 0.07}),
    "lightgbm 1,000 at .03": Variant("lightgbm", {"rounds": 1000, "learning_rate": 0.03}),
    "lightgbm 450 at .065": Variant("lightgbm", {"rounds": 450, "learning_rate": 0.065}),
    "xgboost 320 at .075": Variant("xgboost", {"rounds": 320, "eta": 0.075}),
}
ENSEMBLES: Final = {
    "ensemble": (),
    "ensemble, xgboost 500 at .05": ("xgboost 500 at .05",),
    "ensemble, catboost 500 at .1": ("catboost 500 at .1",),
    "ensemble, catboost 700 at .07": ("catboost 700 at .07",),
    "ensemble, both of before": ("xgboost 500 at .05", "catboost 700 at .07"),
    "ensemble, lightgbm 1,000 at .03": ("lightgbm 1,000 at .03",),
    "ensemble, lightgbm 450 at .065": ("lightgbm 450 at .065",),
    "ensemble, xgboost 320 at .075": ("xgboost 320 at .075",),
    "ensemble, fewest rounds": ("lightgbm 450 at .065", "xgboost 320 at .075"),
}


@dataclass(frozen=True)
class Fits:
    """Windows, and the log factors (n,) of each variant, seed and window."""

    windows: list[BacktestWindow]
    seeds: int
    weights: dict[str, float]
    factors: Callable[[str, int, BacktestWindow], FloatArray]

    def forecast(self, variants: tuple[str, ...], seed: int, window: BacktestWindow) -> FloatArray:
        """The forecast (n,) of one variant alone, or of the ensemble with those of ``variants``."""
        factors = {VARIANTS[name].member: self.factors(name, seed, window) for name in variants}
        weights = self.weights if len(factors) > 1 else dict.fromkeys(factors, 1.0)
        return MemberOutputs(window.matrix, factors).blend({"weights": weights})

    def averaged(self, variants: tuple[str, ...], window: BacktestWindow) -> FloatArray:
        """The geometric mean (n,) of the forecasts of all seeds."""
        logs = [np.log(self.forecast(variants, seed, window)) for seed in range(self.seeds)]
        return np.asarray(np.exp(np.mean(logs, axis=0)))


def ensemble_of(changed: tuple[str, ...]) -> tuple[str, ...]:
    """The members in use, with the ``changed`` variants in their members' places."""
    replaced = {VARIANTS[name].member for name in changed}
    return (*(name for name in LEARNERS if name not in replaced), *changed)


@cache
def opened() -> tuple[Settings, Panel]:
    """Settings and panel, once for each process."""
    settings = load_settings()
    return settings, open_panel(current_dataset(settings))


def fit(name: str, seed: int, origin: int, folder: Path) -> str:
    """Fit a variant as of an origin, and keep its log factors on the window after it."""
    settings, panel = opened()
    started = time.process_time()
    (window,) = build_windows(
        panel, [panel.last_day - origin], settings.window_days, settings.history_days
    )
    rows = sample_training_rows(panel, settings.history_days, settings.seed + 100 * seed)
    variant = VARIANTS[name]
    params = {**settings.profile(PROFILE).members[variant.member], **variant.params}
    fit_seed = learner_seeds(settings.seed + 100 * seed)[variant.member]
    inputs = rows.known_at(origin).inputs()
    member = LEARNERS[variant.member].fit(inputs, params, fit_seed, 1, lambda share: None)
    np.save(path_of(folder, name, seed, origin), member.log_factor(window.matrix, 1))
    return f"{name}, seed {seed}, from {to_date(origin)}: {time.process_time() - started:.0f} s CPU"


def path_of(folder: Path, name: str, seed: int, origin: int) -> Path:
    """Where the log factors of a fit are kept."""
    return folder / f"{name} seed {seed} from {to_date(origin)}.npy"


def fit_missing(windows: list[BacktestWindow], seeds: int, folder: Path, processes: int) -> None:
    """Fit what is not in ``folder`` yet."""
    wanted = [
        (name, seed, window.origin, folder)
        for seed in range(seeds)
        for name in VARIANTS
        for window in windows
        if not path_of(folder, name, seed, window.origin).exists()
    ]
    with ProcessPoolExecutor(processes) as pool:
        futures = [pool.submit(fit, *one) for one in wanted]
        for done, future in enumerate(as_completed(futures), 1):
            print(f"{done} of {len(wanted)}: {future.result()}", flush=True)


def errors(fits: Fits, variants: tuple[str, ...], metric: str) -> FloatArray:
    """The errors (seeds, windows) of a variant or an ensemble."""
    measure = METRICS[metric]
    return np.array(
        [
            [measure(w.sold, fits.forecast(variants, seed, w)) for w in fits.windows]
            for seed in range(fits.seeds)
        ]
    )


def row(name: str, found: FloatArray, in_use: FloatArray | None) -> list[str]:
    """A line of the table from errors (seeds, windows) of a variant and of the one in use."""
    text = [name, *(f"{error:.4f}" for error in found.mean(axis=0)), f"{found.mean():.4f}"]
    if in_use is None:
        return [*text, "", "", ""]
    change = found - in_use
    over_seeds, over_windows = (standard_error(change.mean(axis=axis)) for axis in (1, 0))
    return [*text, f"{change.mean():+.4f}", f"{over_seeds:.4f}", f"{over_windows:.4f}"]


def standard_error(values: FloatArray) -> float:
    """Of the mean of independent values (n,)."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def table(fits: Fits, metric: str) -> list[list[str]]:
    """The rows of all members and ensembles, and of the averages over seeds."""
    rows = []
    for name, variant in VARIANTS.items():
        base = errors(fits, (variant.member,), metric) if variant.params else None
        rows.append(row(name, errors(fits, (name,), metric), base))
    in_use = errors(fits, ensemble_of(()), metric)
    for name, changed in ENSEMBLES.items():
        found = errors(fits, ensemble_of(changed), metric)
        rows.append(row(name, found, in_use if changed else None))
    measure = METRICS[metric]
    mean = [measure(w.sold, fits.averaged(ensemble_of(()), w)) for w in fits.windows]
    averaged = np.tile(mean, (fits.seeds, 1))
    rows.append(row(f"ensemble, mean of {fits.seeds} seeds", averaged, in_use))
    return rows


def main() -> None:
    """Fit what is missing, and print a table for each metric."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--origins", default=ORIGINS)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    settings, panel = opened()
    folder = settings.data_dir / "benchmarks" / "member_seeds"
    folder.mkdir(parents=True, exist_ok=True)
    origins = [date.fromisoformat(text) for text in args.origins.split(",")]
    ends = origins_to_offsets(panel, origins)
    windows = build_windows(panel, ends, settings.window_days, settings.history_days)
    fit_missing(windows, args.seeds, folder, settings.thread_count)

    @cache
    def load(name: str, seed: int, origin: int) -> FloatArray:
        return np.asarray(np.load(path_of(folder, name, seed, origin)))

    weights = settings.profile(PROFILE).weights
    fits = Fits(
        windows, args.seeds, weights, lambda name, seed, window: load(name, seed, window.origin)
    )
    days = [f"from {to_date(window.origin)}" for window in windows]
    further = ("mean", "difference", "error over seeds", "error over windows")
    for metric in METRICS:
        print(f"\n{metric}\n")
        print(markdown_table([["member or ensemble", *days, *further], *table(fits, metric)]))


if __name__ == "__main__":
    main()
