"""XGBoost on the log of the factor, with the gradient of the squared percentage error.

It is fitted with a missing value as the largest one. XGBoost keeps a matrix without missing values
in one byte for each value, any other in three to four (dmlc/xgboost #10981). A fit on the smaller
matrix takes two thirds of the time.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np

from rossmann.errors import ModelError
from rossmann.models.members.base import (
    FEATURE_NAMES,
    BaseLearner,
    TrainingRun,
    rows_to_verify,
    squared_percentage_error,
)
from rossmann.models.trees.forest import Forest, parse_xgboost
from rossmann.schema import FeatureMatrix, FloatArray

_LARGEST: Final = np.float32(np.finfo(np.float32).max / 4)
"""Stands for a missing value while the trees are fitted; XGBoost refuses infinity."""


class XGBoost(BaseLearner):
    """See ``BaseLearner``."""

    file = "xgboost.ubj"

    @staticmethod
    def train(features: FeatureMatrix, target: FloatArray, run: TrainingRun) -> Any:
        """See ``BaseLearner``."""
        import xgboost

        data = xgboost.QuantileDMatrix(
            _without_missing(features),
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

        booster = xgboost.train(
            settings, data, run.rounds, obj=squared_percentage_error, callbacks=[ReportProgress()]
        )
        verify_missing(booster, features)
        return booster

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


def _without_missing(matrix: FeatureMatrix) -> FeatureMatrix:
    """A copy of a matrix (n, 46) in which a missing value is the largest one."""
    return np.where(np.isnan(matrix), _LARGEST, matrix)


def verify_missing(booster: Any, matrix: FeatureMatrix) -> None:
    """Raise ``ModelError`` if the booster does not treat a missing value as the largest one.

    Where it saw no missing value, its trees send one to the right, as every large value.
    """
    rows = rows_to_verify(matrix)
    missing, filled = (XGBoost.raw_output(booster, m, 1) for m in (rows, _without_missing(rows)))
    if not np.array_equal(missing, filled):
        raise ModelError(
            "XGBoost's trees treat a missing value otherwise than they were fitted: install the"
            " pinned release (requirements.lock)"
        )
