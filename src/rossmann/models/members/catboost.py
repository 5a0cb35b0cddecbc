"""CatBoost on the factor itself."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from rossmann.models.members.base import (
    FEATURE_NAMES,
    MIN_FACTOR,
    BaseLearner,
    TrainingInputs,
    TrainingRun,
    target_ratio,
)
from rossmann.models.trees.forest import Forest, parse_catboost
from rossmann.schema import FeatureMatrix, FloatArray


def to_log_contributions(parts: FloatArray, floor: float) -> FloatArray:
    """Parts (n, k) that sum to ratios, as parts of the logs of those ratios, (n, k).

    The last column is the base value of a row. What the others add to it is scaled, row by row, by
    the logarithmic mean of start and end (LMDI: Ang, *Energy Policy* 33, 2005): the only split
    without residual that gives equal parts equal shares and keeps each part's sign. Ratios and
    starts below ``floor`` count as ``floor``.
    """
    start = np.maximum(parts[:, -1], floor)
    change = parts[:, :-1].sum(axis=1)
    end = np.maximum(parts[:, -1] + change, floor)
    unchanged = np.abs(change) < 1e-12 * start
    scale = np.where(unchanged, 1.0 / start, np.log(end / start) / np.where(unchanged, 1.0, change))
    return np.column_stack([parts[:, :-1] * scale[:, None], np.log(start)])


class CatBoost(BaseLearner):
    """See ``BaseLearner``."""

    file = "catboost.cbm"

    @staticmethod
    def target(inputs: TrainingInputs) -> FloatArray:
        """See ``BaseLearner``."""
        return target_ratio(inputs)

    @staticmethod
    def train(features: FeatureMatrix, target: FloatArray, run: TrainingRun) -> Any:
        """See ``BaseLearner``."""
        import catboost

        pool = catboost.Pool(
            features,
            target,
            weight=target**-2.0,
            feature_names=FEATURE_NAMES,
            thread_count=run.threads,
        )

        class ReportProgress:
            def after_iteration(self, info: Any) -> bool:
                run.progress(info.iteration / run.rounds)
                return True

        booster = catboost.CatBoost(
            {
                **run.settings,
                "iterations": run.rounds,
                "loss_function": "RMSE",
                # a fifth less processor time than the default (MVS), and no worse
                "bootstrap_type": "Bernoulli",
                "random_seed": run.seed,
                "thread_count": run.threads,
                "allow_writing_files": False,
                "logging_level": "Silent",
            }
        )
        return booster.fit(pool, callbacks=[ReportProgress()])

    @staticmethod
    def parse(booster: Any) -> Forest:
        """See ``BaseLearner``."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trees.json"
            booster.save_model(str(path), format="json")
            return parse_catboost(json.loads(path.read_text("utf-8")))

    @staticmethod
    def raw_output(booster: Any, matrix: FeatureMatrix, threads: int) -> FloatArray:
        """See ``BaseLearner``."""
        return np.asarray(booster.predict(matrix, thread_count=threads))

    def log_factor(self, matrix: FeatureMatrix, threads: int) -> FloatArray:
        """See ``BaseLearner``."""
        return np.asarray(np.log(np.maximum(self.forest(matrix, threads), MIN_FACTOR)))

    def contributions(self, matrix: FeatureMatrix, threads: int) -> FloatArray:
        """See ``BaseLearner``."""
        booster = self.booster  # first: it says which package is missing
        import catboost

        pool = catboost.Pool(matrix, feature_names=FEATURE_NAMES, thread_count=threads)
        parts = booster.get_feature_importance(pool, type="ShapValues", thread_count=threads)
        return to_log_contributions(np.asarray(parts, np.float64), MIN_FACTOR)

    @staticmethod
    def read(path: Path) -> Any:
        """See ``BaseLearner``."""
        import catboost

        return catboost.CatBoost().load_model(str(path))
