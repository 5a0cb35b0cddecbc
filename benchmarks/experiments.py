"""What a change to one member costs or gains: RMSPE by window, beside the member as it is.

    ROSSMANN_DATA_DIR=... python benchmarks/experiments.py [--origins DAYS] [NAME ...]

Prints the table of docs/modelops/experiments.md. Takes a fit for each window and line (20 to 40 s
each with the real tables on two cores); names pick lines, none takes them all.
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
from rossmann.models.evaluation.metrics import rmspe
from rossmann.models.evaluation.windows import BacktestWindow, build_windows, origins_to_offsets
from rossmann.models.members import LEARNERS
from rossmann.models.members.fit import sample_training_rows
from rossmann.models.reports.figures import markdown
from rossmann.schema import FEATURES, OFFSET_COLUMN, FeatureMatrix, FloatArray
from rossmann.settings import Settings, load_settings

ORIGINS: Final = "2014-06-13,2015-03-08,2015-04-26"


@dataclass(frozen=True)
class Variant:
    """A member with something changed: parameters, seed, what it sees, what it learns from."""

    name: str
    member: str = "lightgbm"
    params: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    without: tuple[str, ...] = ()
    days: float = 1.0


def _seeds(member: str, count: int) -> list[Variant]:
    return [Variant(f"{member}, seed {i}", member, seed=i) for i in range(count)]


VARIANTS: Final = (
    *_seeds("lightgbm", 2),
    *_seeds("xgboost", 2),
    *_seeds("catboost", 2),
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


def blind(matrix: FeatureMatrix, names: Sequence[str]) -> FeatureMatrix:
    """A copy whose columns ``names`` say nothing."""
    out = matrix.copy()
    out[:, [FEATURES.index(name) for name in names]] = 0.0
    return out


def learn_from(
    panel: Panel, settings: Settings, variant: Variant
) -> tuple[FeatureMatrix, FloatArray, FloatArray]:
    """Matrix (n, 46), sales and day (n,) of the training rows."""
    examples = sample_training_rows(
        panel, settings.history_days, settings.seed + 100 * variant.seed
    )
    matrix = examples.matrix
    return blind(matrix, variant.without), examples.sold, examples.day.astype(np.float64)


def measure(
    panel: Panel, settings: Settings, variant: Variant, windows: list[BacktestWindow]
) -> list[str]:
    """The table's row of a variant."""
    matrix, sold, day = learn_from(panel, settings, variant)
    params = {**settings.profile("full").members[variant.member], **variant.params}
    seed = settings.seed + variant.seed
    days = np.unique(day)
    chosen = np.random.default_rng(seed).random(len(days)) < variant.days
    kept = np.isin(day, days[chosen])
    errors = []
    for window in windows:
        mine = np.nonzero((day <= window.origin) & kept)[0]
        member = LEARNERS[variant.member].fit(
            matrix[mine], sold[mine], params, seed, settings.thread_count, lambda share: None
        )
        seen = blind(window.matrix, variant.without)
        factor = member.factor(seen, settings.thread_count)
        forecast = factor * np.exp(window.matrix[:, OFFSET_COLUMN].astype(np.float64))
        errors.append(rmspe(window.sold, forecast))
    return [variant.name, *(f"{error:.4f}" for error in [*errors, float(np.mean(errors))])]


def main() -> None:
    """Measure the variants that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--origins", default=ORIGINS)
    parser.add_argument("names", nargs="*", help="words that the lines' names hold")
    given = parser.parse_args()
    settings = load_settings()
    panel = open_panel(current_dataset(settings))
    origins = [date.fromisoformat(text) for text in given.origins.split(",")]
    ends = origins_to_offsets(panel, origins)
    windows = build_windows(panel, ends, settings.window_days, settings.history_days)
    header = ["member", *(f"from {to_date(w.origin)}" for w in windows), "mean"]
    rows = []
    for variant in VARIANTS:
        if not given.names or any(name in variant.name for name in given.names):
            rows.append(measure(panel, settings, variant, windows))
            print(*rows[-1], sep="\t", flush=True)
    print(markdown([header, *rows]))


if __name__ == "__main__":
    main()
