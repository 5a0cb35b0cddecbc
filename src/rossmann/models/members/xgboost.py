"""XGBoost on the log of the factor, with the gradient of the square percentage error."""

from pathlib import Path
from typing import Any, Self

import numpy as np

from rossmann.models.members.base import (
    FEATURE_NAMES,
    BaseLearner,
    Params,
    Progress,
    log_target_ratio,
    mask_offset,
    squared_percentage_error,
    verify_against_library,
)
from rossmann.models.trees.forest import parse_xgboost
from rossmann.schema import FeatureMatrix, FloatArray


class XGBoost(BaseLearner):
    """See ``Member``."""

    file = "xgboost.ubj"

    @classmethod
    def fit(
        cls, matrix: FeatureMatrix, sales: FloatArray, params: Params, seed: int, threads: int,
        progress: Progress,
    ) -> Self:  # fmt: skip
        """See ``Member``."""
        import xgboost

        settings: dict[str, Any] = dict(params)
        rounds = int(settings.pop("rounds"))
        data = xgboost.QuantileDMatrix(
            mask_offset(matrix),
            log_target_ratio(matrix, sales),
            feature_names=FEATURE_NAMES,
            nthread=threads,
            max_bin=int(settings.get("max_bin", 256)),
        )
        settings |= {
            "tree_method": "hist",
            "base_score": 0.0,
            "nthread": threads,
            "seed": seed,
        }

        class Tell(xgboost.callback.TrainingCallback):
            def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
                progress((epoch + 1) / rounds)
                return False

        booster = xgboost.train(
            settings, data, rounds, obj=squared_percentage_error, callbacks=[Tell()]
        )
        forest = parse_xgboost(bytes(booster.save_raw("json")))

        def raw(some: FeatureMatrix) -> FloatArray:
            told = booster.inplace_predict(some, predict_type="margin", validate_features=False)
            return np.asarray(told, np.float64)

        return cls(verify_against_library(forest, matrix, raw), lambda: booster)

    def contributions(self, matrix: FeatureMatrix, threads: int) -> FloatArray:
        """See ``Member``."""
        import xgboost

        data = xgboost.DMatrix(matrix, feature_names=FEATURE_NAMES, nthread=threads)
        booster = self.booster.copy()  # to set threads beside another caller is not safe
        booster.set_param({"nthread": threads})
        return np.asarray(booster.predict(data, pred_contribs=True), np.float64)

    def write(self, path: Path) -> None:
        """See ``Member``."""
        self.booster.save_model(path)

    @staticmethod
    def read(path: Path) -> Any:
        """See ``Member``."""
        import xgboost

        return xgboost.Booster(model_file=str(path))
