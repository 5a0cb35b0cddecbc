"""Times our tree kernels against the libraries' own predictions, on one thread.

    python benchmarks/tree_inference.py [FOLDER]

FOLDER holds a version's files; without it, the newest that was trained in the data folder in use.
Prints microseconds of a single row and per row of a batch, and the largest difference.
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
from rossmann.models.reports.figures import markdown_table
from rossmann.schema import FeatureMatrix, FloatArray
from rossmann.settings import load_settings

_BATCH_ROWS: Final = 20_000
_SINGLE_ROWS: Final = 500


def library_predictor(member: BaseLearner) -> Callable[[FeatureMatrix], FloatArray]:
    """The library's raw prediction, on one thread."""
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
    predict: Callable[[FeatureMatrix], FloatArray], rows: FeatureMatrix
) -> tuple[float, float]:
    """Of a single row, the median over different rows; per row of a batch, the best of three."""
    predict(rows[:1]), predict(rows[:200])
    single = []
    for i in range(_SINGLE_ROWS):
        start = time.perf_counter()
        predict(rows[i : i + 1])
        single.append(time.perf_counter() - start)
    batch = []
    for _ in range(3):
        start = time.perf_counter()
        predict(rows)
        batch.append(time.perf_counter() - start)
    return 1e6 * float(np.median(single)), 1e6 * min(batch) / len(rows)


def main() -> None:
    """Time each base learner with both, and the ensemble with our kernels."""
    settings = load_settings()
    folders = sys.argv[1:] or [
        max(str(p.parent) for p in settings.data_dir.glob("trained/*/*.cbm"))
    ]
    ensemble = Ensemble.load(Path(folders[0]))
    panel = open_panel(current_dataset(settings))
    examples = sample_training_rows(panel, settings.history_days, settings.seed)
    sample = np.random.default_rng(0).permutation(len(examples.sold))[:_BATCH_ROWS]
    rows = examples.take(np.sort(sample)).matrix
    header = ["µs on one thread", "one row", "library", "row of a batch", "library", "difference"]
    table = [header]
    for name, member in ensemble.members.items():
        library = library_predictor(member)
        times = zip(microseconds(member.forest, rows), microseconds(library, rows), strict=True)
        difference = float(np.abs(member.forest(rows) - library(rows)).max())
        cells = [f"{x:.1f}" for pair in times for x in pair]
        table.append([name, *cells, f"{difference:.1e}"])
    single, batch = microseconds(ensemble.predict, rows)
    table.append(["ensemble", f"{single:.1f}", "", f"{batch:.1f}", "", ""])
    print(markdown_table(table))


if __name__ == "__main__":
    main()
