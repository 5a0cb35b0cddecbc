"""Errors by window of variants of one base learner: parameters, seeds, features, loss, days.

    ROSSMANN_DATA_DIR=... python benchmarks/experiments.py [--origins DAYS] [NAME ...]

Prints tables of docs/modelops/experiment-results.md: RMSPE, or --metric WAPE or capped. Takes a fit
for each window and variant (20 to 40 s each with the real tables on two cores); names select
variants, without names all run.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Final

import numpy as np

from rossmann.data.make_dataset import current_dataset
from rossmann.data.panel.panel import Panel, open_panel
from rossmann.epoch_days import to_date
from rossmann.models.evaluation.backtest import BacktestWindow, build_windows, origins_to_offsets
from rossmann.models.evaluation.metrics import capped_rmspe, rmspe, wape
from rossmann.models.members import LEARNERS, base
from rossmann.models.members.fit import sample_training_rows
from rossmann.models.reports.figures import markdown_table
from rossmann.schema import FEATURES, OFFSET_COLUMN, FeatureMatrix, FloatArray
from rossmann.settings import Settings, load_settings

METRICS: Final = {"RMSPE": rmspe, "WAPE": wape, "capped": capped_rmspe}
ORIGINS: Final = "2014-06-13,2015-03-08,2015-04-26"


@dataclass(frozen=True)
class Variant:
    """A base learner with changed parameters, seed, features, share of days, or floor of its loss.

    ``floor``: of sales, as a share of the filter's forecast; 0 is none, None that in use.
    """

    name: str
    member: str = "lightgbm"
    params: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    without: tuple[str, ...] = ()
    days: float = 1.0
    floor: float | None = None


def _seeds(member: str, count: int) -> list[Variant]:
    return [Variant(f"{member}, seed {i}", member, seed=i) for i in range(count)]


def _floors(seeds: int) -> list[Variant]:
    return [
        Variant(f"{member}, floor {floor:g}, seed {seed}", member, seed=seed, floor=floor)
        for member in ("lightgbm", "xgboost")
        for seed in range(seeds)
        for floor in (0.0, 0.2, 0.5)
    ]


VARIANTS: Final = (
    *_floors(3),
    *_seeds("lightgbm", 3),
    *_seeds("xgboost", 3),
    *_seeds("catboost", 3),
    Variant("lightgbm, rate .03, 1,000 rounds", params={"learning_rate": 0.03, "rounds": 1000}),
    Variant(
        "catboost, depth 7, rate .1, 500 rounds",
        "catboost",
        {"depth": 7, "learning_rate": 0.1, "rounds": 500},
    ),
    Variant("xgboost, rate .08, 300 rounds", "xgboost", {"eta": 0.08, "rounds": 300}),
    Variant("xgboost without promo_lift", "xgboost", without=("promo_lift",)),
    Variant("xgboost without days_from_easter", "xgboost", without=("days_from_easter",)),
    Variant(
        "xgboost without working_days_left_in_month",
        "xgboost",
        without=("working_days_left_in_month",),
    ),
    Variant("xgboost without last_year_error", "xgboost", without=("last_year_error",)),
)


def zero_columns(matrix: FeatureMatrix, names: Sequence[str]) -> FeatureMatrix:
    """A copy whose columns ``names`` are 0."""
    copy = matrix.copy()
    copy[:, [FEATURES.index(name) for name in names]] = 0.0
    return copy


def training_data(
    panel: Panel, settings: Settings, variant: Variant
) -> tuple[FeatureMatrix, FloatArray, FloatArray]:
    """Matrix (n, 46), sales and day (n,) of the training rows."""
    examples = sample_training_rows(
        panel, settings.history_days, settings.seed + 100 * variant.seed
    )
    matrix = examples.matrix
    return zero_columns(matrix, variant.without), examples.sold, examples.day.astype(np.float64)


def measure(
    panel: Panel,
    settings: Settings,
    variant: Variant,
    windows: list[BacktestWindow],
    metric: str,
    profile: str,
) -> list[str]:
    """The row of a variant in the table."""
    matrix, sold, day = training_data(panel, settings, variant)
    params = {**settings.profile(profile).members[variant.member], **variant.params}
    seed = settings.seed + variant.seed
    days = np.unique(day)
    in_sample = np.random.default_rng(seed).random(len(days)) < variant.days
    selected = np.isin(day, days[in_sample])
    in_use = base.MIN_LOG_RATIO
    if variant.floor is not None:
        # mypy: a constant of the product, which has no setting for it
        base.MIN_LOG_RATIO = float(np.log(max(variant.floor, 1e-9)))  # type: ignore[misc]
    errors = []
    for window in windows:
        known = np.nonzero((day <= window.origin) & selected)[0]
        inputs = base.TrainingInputs.of(matrix[known], sold[known])
        member = LEARNERS[variant.member].fit(
            inputs, params, seed, settings.thread_count, lambda share: None
        )
        features = zero_columns(window.matrix, variant.without)
        factor = member.factor(features, settings.thread_count)
        forecast = factor * np.exp(window.matrix[:, OFFSET_COLUMN].astype(np.float64))
        errors.append(METRICS[metric](window.sold, forecast))
    base.MIN_LOG_RATIO = in_use  # type: ignore[misc]
    return [variant.name, *(f"{error:.4f}" for error in [*errors, float(np.mean(errors))])]


def main() -> None:
    """Measure the selected variants."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--origins", default=ORIGINS)
    parser.add_argument("--metric", default="RMSPE", choices=METRICS)
    parser.add_argument("--profile", default="full")
    parser.add_argument("names", nargs="*", help="parts of the variants' names")
    args = parser.parse_args()
    settings = load_settings()
    panel = open_panel(current_dataset(settings))
    origins = [date.fromisoformat(text) for text in args.origins.split(",")]
    ends = origins_to_offsets(panel, origins)
    windows = build_windows(panel, ends, settings.window_days, settings.history_days)
    header = ["member", *(f"from {to_date(w.origin)}" for w in windows), "mean"]
    rows = []
    for variant in VARIANTS:
        if not args.names or any(name in variant.name for name in args.names):
            rows.append(measure(panel, settings, variant, windows, args.metric, args.profile))
            print(*rows[-1], sep="\t", flush=True)
    print(markdown_table([header, *rows]))


if __name__ == "__main__":
    main()
