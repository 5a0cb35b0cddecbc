"""The promotion's driver beside what the forecast becomes with the promotion switched.

    ROSSMANN_DATA_DIR=... python benchmarks/drivers.py [--rows 500] [FOLDER]

FOLDER holds a version's files; without it, the newest that was trained in the data folder in use.
Explains rows of the last 48 days, as of the day before them, and prints the mean log factor of the
driver, and of switching, on days with a promotion and on others. 25 ms a row and core.
"""

import argparse
from pathlib import Path

import numpy as np

from rossmann.data.make_dataset import current_dataset
from rossmann.data.panel.panel import open_panel
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.inference.forecaster import Forecaster, ForecastRequest
from rossmann.models.reports.figures import markdown_table
from rossmann.settings import load_settings

WINDOW_DAYS = 48


def main() -> None:
    """Explain and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--rows", type=int, default=500)
    options = parser.parse_args()
    settings = load_settings()
    panel = open_panel(current_dataset(settings))
    folder = options.folder or max((settings.data_dir / "trained").iterdir())
    forecaster = Forecaster(panel, Ensemble.load(folder), settings.thread_count)
    origin = panel.last_day - WINDOW_DAYS
    rows, _ = panel.sales_rows()
    later = np.flatnonzero(rows.day > origin)
    chosen = np.sort(np.random.default_rng(1).choice(later, options.rows, replace=False))
    explanation = forecaster.explain(ForecastRequest(rows.take(chosen), origin))
    on = explanation.promo > 0
    driver = np.log(explanation.factors["promotion"])
    switched = np.log(explanation.forecast.sales / explanation.other_promo)
    table = [["days", "rows", "driver, mean log", "forecast over the other, mean log"]]
    for name, days in (("with promotion", on), ("without promotion", ~on)):
        means = (float(values[days].mean()) for values in (driver, switched))
        table.append([name, str(int(days.sum())), *(f"{mean:+.3f}" for mean in means)])
    difference = float(driver[on].mean() - driver[~on].mean())
    table.append(["difference of the drivers", "", f"{difference:+.3f}", ""])
    print(markdown_table(table))


if __name__ == "__main__":
    main()
