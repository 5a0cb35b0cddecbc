"""LightGBM on the log of the factor, with the gradient of the squared percentage error."""

from pathlib import Path
from typing import Any

import numpy as np

from rossmann.models.members.base import (
    FEATURE_NAMES,
    BaseLearner,
    TrainingRun,
    squared_percentage_error,
)
from rossmann.models.trees.forest import Forest, parse_lightgbm
from rossmann.schema import FeatureMatrix, FloatArray


class LightGBM(BaseLearner):
    """See ``BaseLearner``."""

    file = "lightgbm.txt"

    @staticmethod
    def train(features: FeatureMatrix, target: FloatArray, run: TrainingRun) -> Any:
        """See ``BaseLearner``."""
        import lightgbm

        data = lightgbm.Dataset(
            features,
            target,
            feature_name=FEATURE_NAMES,
            params={"max_bin": run.settings.get("max_bin", 255), "verbosity": -1,
                    "num_threads": run.threads, "seed": run.seed},
            free_raw_data=True,
        )  # fmt: skip
        settings = run.settings | {
            "objective": squared_percentage_error,
            "bagging_freq": 1,
            "num_threads": run.threads,
            "seed": run.seed,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }

        def report_progress(env: Any) -> None:
            run.progress((env.iteration + 1) / run.rounds)

        return lightgbm.train(settings, data, run.rounds, callbacks=[report_progress])

    @staticmethod
    def parse(booster: Any) -> Forest:
        """See ``BaseLearner``."""
        return parse_lightgbm(booster.model_to_string())

    @staticmethod
    def raw_output(booster: Any, matrix: FeatureMatrix, threads: int) -> FloatArray:
        """See ``BaseLearner``."""
        return np.asarray(booster.predict(matrix, raw_score=True, num_threads=threads))

    def contributions(self, matrix: FeatureMatrix, threads: int) -> FloatArray:
        """See ``BaseLearner``."""
        parts = self.booster.predict(matrix, pred_contrib=True, num_threads=threads)
        return np.asarray(parts, np.float64)

    @staticmethod
    def read(path: Path) -> Any:
        """See ``BaseLearner``."""
        import lightgbm

        return lightgbm.Booster(model_file=path)
