"""XGBoost on the log of the factor, with the gradient of the squared percentage error."""

from pathlib import Path
from typing import Any

import numpy as np

from rossmann.models.members.base import (
    FEATURE_NAMES,
    BaseLearner,
    TrainingRun,
    squared_percentage_error,
)
from rossmann.models.trees.forest import Forest, parse_xgboost
from rossmann.schema import FeatureMatrix, FloatArray


class XGBoost(BaseLearner):
    """See ``BaseLearner``."""

    file = "xgboost.ubj"

    @staticmethod
    def train(features: FeatureMatrix, target: FloatArray, run: TrainingRun) -> Any:
        """See ``BaseLearner``."""
        import xgboost

        data = xgboost.QuantileDMatrix(
            features,
            target,
            feature_names=FEATURE_NAMES,
            nthread=run.threads,
            max_bin=int(run.settings.get("max_bin", 256)),
        )
        settings = run.settings | {
            "tree_method": "hist",
            "base_score": 0.0,
            "nthread": run.threads,
            "seed": run.seed,
        }

        class ReportProgress(xgboost.callback.TrainingCallback):
            def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
                run.progress((epoch + 1) / run.rounds)
                return False

        return xgboost.train(
            settings, data, run.rounds, obj=squared_percentage_error, callbacks=[ReportProgress()]
        )

    @staticmethod
    def parse(booster: Any) -> Forest:
        """See ``BaseLearner``."""
        return parse_xgboost(bytes(booster.save_raw("json")))

    @staticmethod
    def raw_output(booster: Any, matrix: FeatureMatrix, threads: int) -> FloatArray:
        """See ``BaseLearner``: ``threads`` are the booster's own."""
        output = booster.inplace_predict(matrix, predict_type="margin", validate_features=False)
        return np.asarray(output, np.float64)

    def contributions(self, matrix: FeatureMatrix, threads: int) -> FloatArray:
        """See ``BaseLearner``."""
        shared = self.booster  # first: it says which package is missing
        import xgboost

        data = xgboost.DMatrix(matrix, feature_names=FEATURE_NAMES, nthread=threads)
        booster = shared.copy()  # setting threads on a shared booster is not thread-safe
        booster.set_param({"nthread": threads})
        return np.asarray(booster.predict(data, pred_contribs=True), np.float64)

    @staticmethod
    def read(path: Path) -> Any:
        """See ``BaseLearner``."""
        import xgboost

        return xgboost.Booster(model_file=str(path))
