"""What the members' trees cost when we walk them, beside the libraries' own calls: one thread.

    python benchmarks/members.py [FOLDER]

FOLDER holds a version's files; without it, the newest that was trained in the data folder in use.
Prints microseconds for one row alone and for each of many, and by how much the answers differ.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from rossmann.data.make_dataset import current_dataset
from rossmann.data.panel.panel import open_panel
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.members.base import BaseLearner
from rossmann.models.members.fit import sample_training_rows
from rossmann.models.reports.figures import markdown
from rossmann.schema import FeatureMatrix, FloatArray
from rossmann.settings import load_settings

_MANY: Final = 20_000
_ONES: Final = 500


def of_the_library(member: BaseLearner) -> Callable[[FeatureMatrix], FloatArray]:
    """The library's own raw answer, on one thread."""
    booster = member.booster
    if member.file == "lightgbm.txt":
        return lambda rows: np.asarray(booster.predict(rows, raw_score=True, num_threads=1))
    if member.file == "catboost.cbm":
        return lambda rows: np.asarray(booster.predict(rows, thread_count=1))
    booster.set_param({"nthread": 1})
    return lambda rows: np.asarray(
        booster.inplace_predict(rows, predict_type="margin", validate_features=False), np.float64
    )


def microseconds(
    answer: Callable[[FeatureMatrix], FloatArray], rows: FeatureMatrix
) -> tuple[float, float]:
    """Of one row alone, the median over different rows; and of each of many, the best of three."""
    answer(rows[:1]), answer(rows[:200])
    alone = []
    for i in range(_ONES):
        begun = time.perf_counter()
        answer(rows[i : i + 1])
        alone.append(time.perf_counter() - begun)
    many = []
    for _ in range(3):
        begun = time.perf_counter()
        answer(rows)
        many.append(time.perf_counter() - begun)
    return 1e6 * float(np.median(alone)), 1e6 * min(many) / len(rows)


def main() -> None:
    """Time each member both ways and the whole ensemble ours."""
    settings = load_settings()
    named = sys.argv[1:] or [max(str(p.parent) for p in settings.data_dir.glob("trained/*/*.cbm"))]
    ensemble = Ensemble.load(Path(named[0]))
    panel = open_panel(current_dataset(settings))
    examples = sample_training_rows(panel, settings.history_days, settings.seed)
    picked = np.random.default_rng(0).permutation(len(examples.sold))[:_MANY]
    rows = examples.take(np.sort(picked)).matrix
    header = ["µs on one thread", "one row", "library", "each of many", "library", "differ by"]
    table = [header]
    for name, member in ensemble.members.items():
        library = of_the_library(member)
        ours, theirs = microseconds(member.forest, rows), microseconds(library, rows)
        away = float(np.abs(member.forest(rows) - library(rows)).max())
        pairs = [f"{x:.1f}" for pair in zip(ours, theirs, strict=True) for x in pair]
        table.append([name, *pairs, f"{away:.1e}"])
    alone, many = microseconds(ensemble.predict, rows)
    table.append(["ensemble", f"{alone:.1f}", "", f"{many:.1f}", "", ""])
    print(markdown(table))


if __name__ == "__main__":
    main()
