"""Compile all kernels: train a small version on a small demo chain, and forecast with it.

Usage: ``python compile_kernels.py TARGET``. Copies the compiled kernels of the installed package to
``TARGET``, at their places below the package, and writes the names of all modules that a service
imports to ``TARGET.modules``: numba imports many when it loads a kernel.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import rossmann
from rossmann.data.demo.write_tables import write_demo
from rossmann.data.make_dataset import make_dataset
from rossmann.data.panel.panel import build_panel
from rossmann.models.inference.forecaster import ForecastRequest
from rossmann.models.training.train import train
from rossmann.serving.runtime.service import load_forecaster, open_current_panel, supported_levels
from rossmann.settings import Settings, load_settings

MEMBERS = {
    "lightgbm": {"rounds": 5, "learning_rate": 0.1, "num_leaves": 7},
    "xgboost": {"rounds": 5, "max_depth": 3, "eta": 0.1},
    "catboost": {"rounds": 5, "depth": 3, "learning_rate": 0.1},
}
WEIGHTS = {"lightgbm": 0.3, "xgboost": 0.3, "catboost": 0.4}
SERVE = """
import sys
from pathlib import Path
import rossmann.serving.app, rossmann.serving.server, rossmann.cli.services
from rossmann.serving.runtime.service import load_forecaster, open_current_panel
from rossmann.settings import load_settings
settings = load_settings(demo=True)
load_forecaster(settings, Path(sys.argv[1]), open_current_panel(settings))
Path(sys.argv[2]).write_text("\\n".join(sorted(sys.modules)))
"""
"""What a service does at its start."""


def small_chain(folder: Path) -> Settings:
    """Settings of a demo chain of few stores, whose profiles train small versions."""
    profile = {"rows": 20_000, "members": MEMBERS, "weights": WEIGHTS}
    names = load_settings().profiles
    settings = load_settings(data_dir=folder, demo=True, profiles=dict.fromkeys(names, profile))
    write_demo(settings.demo_raw_dir, seed=1, stores=20, days=800)
    return settings


def train_and_forecast(settings: Settings) -> Path:
    """Forecast one row and many, with intervals, warnings and drivers; returns the version."""
    build_panel(make_dataset(settings), settings.thread_count)
    panel = open_current_panel(settings)
    version = train(settings, "quick").folder
    forecaster = load_forecaster(settings, version, panel)
    days = np.arange(panel.last_day + 1, panel.last_day + 43, dtype=np.int32)
    rows = panel.store_schedule(int(panel.store_numbers[0]), days)
    levels = supported_levels(forecaster.ensemble.card)
    forecaster.explain(ForecastRequest(rows, levels=levels))
    return version


def copy_kernels(target: Path) -> int:
    """Copy the package's compiled kernels; returns how many there are."""
    package = Path(rossmann.__file__).parent
    for folder in package.rglob("__pycache__/kernels-*"):
        shutil.copytree(folder, target / folder.relative_to(package))
    return sum(1 for _ in target.rglob("*.nbc"))


def main(target: Path) -> int:
    """Compile into the package's folder, then copy."""
    with tempfile.TemporaryDirectory() as folder:
        version = train_and_forecast(small_chain(Path(folder)))
        subprocess.run(
            [sys.executable, "-c", SERVE, version, target.with_suffix(".modules")],
            env={**os.environ, "ROSSMANN_DATA_DIR": folder},
            check=True,
        )
    sys.stdout.write(f"{copy_kernels(target)} kernels compiled\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
