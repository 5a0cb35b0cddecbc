"""LightGBM on the log of the factor, with the gradient of the square percentage error."""

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
from rossmann.models.trees.forest import parse_lightgbm
from rossmann.schema import FeatureMatrix, FloatArray


class LightGbm(BaseLearner):
    """See ``Member``."""

    file = "lightgbm.txt"

    @classmethod
    def fit(
        cls, matrix: FeatureMatrix, sales: FloatArray, params: Params, seed: int, threads: int,
        progress: Progress,
    ) -> Self:  # fmt: skip
        """See ``Member``."""
        import lightgbm

        settings: dict[str, Any] = dict(params)
        rounds = int(settings.pop("rounds"))
        data = lightgbm.Dataset(
            mask_offset(matrix),
            log_target_ratio(matrix, sales),
            feature_name=FEATURE_NAMES,
            params={"max_bin": settings.get("max_bin", 255), "verbosity": -1,
                    "num_threads": threads, "seed": seed},
            free_raw_data=True,
        )  # fmt: skip
        settings |= {
            "objective": squared_percentage_error,
            "bagging_freq": 1,
            "num_threads": threads,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }

        def tell(env: Any) -> None:
            progress((env.iteration + 1) / rounds)

        booster = lightgbm.train(settings, data, rounds, callbacks=[tell])
        forest = parse_lightgbm(booster.model_to_string())

        def raw(some: FeatureMatrix) -> FloatArray:
            return np.asarray(booster.predict(some, raw_score=True, num_threads=threads))

        return cls(verify_against_library(forest, matrix, raw), lambda: booster)

    def contributions(self, matrix: FeatureMatrix, threads: int) -> FloatArray:
        """See ``Member``."""
        parts = self.booster.predict(matrix, pred_contrib=True, num_threads=threads)
        return np.asarray(parts, np.float64)

    def write(self, path: Path) -> None:
        """See ``Member``."""
        self.booster.save_model(path)

    @staticmethod
    def read(path: Path) -> Any:
        """See ``Member``."""
        import lightgbm

        return lightgbm.Booster(model_file=path)
