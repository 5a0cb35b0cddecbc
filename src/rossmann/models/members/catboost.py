"""CatBoost on the factor itself."""

import json
import tempfile
from pathlib import Path
from typing import Any, Self

import numpy as np

from rossmann.models.members.base import (
    FEATURE_NAMES,
    MIN_FACTOR,
    BaseLearner,
    Params,
    Progress,
    mask_offset,
    target_ratio,
    verify_against_library,
)
from rossmann.models.trees.forest import Forest, parse_catboost
from rossmann.schema import FeatureMatrix, FloatArray


def to_log_contributions(parts: FloatArray, floor: float) -> FloatArray:
    """Parts (n, k) that sum to ratios, as parts of the logs of those ratios, (n, k).

    The last column is what a row starts from. What the others add to it is scaled, row by row, by
    the logarithmic mean of start and end (LMDI: Ang, *Energy Policy* 33, 2005): the only split
    that leaves nothing over, gives like parts alike, and keeps each part's sign. Ratios and
    starts below ``floor`` count as ``floor``.
    """
    start = np.maximum(parts[:, -1], floor)
    moved = parts[:, :-1].sum(axis=1)
    end = np.maximum(parts[:, -1] + moved, floor)
    still = np.abs(moved) < 1e-12 * start
    scale = np.where(still, 1.0 / start, np.log(end / start) / np.where(still, 1.0, moved))
    return np.column_stack([parts[:, :-1] * scale[:, None], np.log(start)])


class CatBoost(BaseLearner):
    """See ``Member``."""

    file = "catboost.cbm"

    @classmethod
    def fit(
        cls, matrix: FeatureMatrix, sales: FloatArray, params: Params, seed: int, threads: int,
        progress: Progress,
    ) -> Self:  # fmt: skip
        """See ``Member``."""
        import catboost

        ratio = target_ratio(matrix, sales)
        settings: dict[str, Any] = dict(params)
        rounds = int(settings.pop("rounds"))
        pool = catboost.Pool(
            mask_offset(matrix),
            ratio,
            weight=ratio**-2.0,
            feature_names=FEATURE_NAMES,
            thread_count=threads,
        )

        class Tell:
            def after_iteration(self, info: Any) -> bool:
                progress(info.iteration / rounds)
                return True

        booster = catboost.CatBoost(
            {
                **settings,
                "iterations": rounds,
                "loss_function": "RMSE",
                "random_seed": seed,
                "thread_count": threads,
                "allow_writing_files": False,
                "logging_level": "Silent",
            }
        )
        booster.fit(pool, callbacks=[Tell()])

        def raw(some: FeatureMatrix) -> FloatArray:
            return np.asarray(booster.predict(some, thread_count=threads))

        return cls(verify_against_library(_forest_of(booster), matrix, raw), lambda: booster)

    def log_factor(self, matrix: FeatureMatrix, threads: int) -> FloatArray:
        """See ``Member``."""
        return np.asarray(np.log(np.maximum(self.forest(matrix, threads), MIN_FACTOR)))

    def contributions(self, matrix: FeatureMatrix, threads: int) -> FloatArray:
        """See ``Member``."""
        import catboost

        pool = catboost.Pool(matrix, feature_names=FEATURE_NAMES, thread_count=threads)
        parts = self.booster.get_feature_importance(pool, type="ShapValues", thread_count=threads)
        return to_log_contributions(np.asarray(parts, np.float64), MIN_FACTOR)

    def write(self, path: Path) -> None:
        """See ``Member``."""
        self.booster.save_model(str(path))

    @staticmethod
    def read(path: Path) -> Any:
        """See ``Member``."""
        import catboost

        return catboost.CatBoost().load_model(str(path))


def _forest_of(booster: Any) -> Forest:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trees.json"
        booster.save_model(str(path), format="json")
        return parse_catboost(json.loads(path.read_text("utf-8")))
