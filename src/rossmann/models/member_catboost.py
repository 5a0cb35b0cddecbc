"""CatBoost on the factor itself."""

import json
import tempfile
from pathlib import Path
from typing import Any, Self

import numpy as np

from rossmann.models.contributions import log_split
from rossmann.models.forest import Forest
from rossmann.models.member import (
    MIN_FACTOR,
    NAMES,
    Member,
    Params,
    Progress,
    agreed,
    ratio_of,
    without_offset,
)
from rossmann.models.tree_readers import read_catboost
from rossmann.schema import FloatArray, Matrix


class CatBoost(Member):
    """See ``Member``."""

    file = "catboost.cbm"

    @classmethod
    def fit(
        cls, matrix: Matrix, sales: FloatArray, params: Params, seed: int, threads: int,
        progress: Progress,
    ) -> Self:  # fmt: skip
        """See ``Member``."""
        import catboost

        ratio = ratio_of(matrix, sales)
        settings: dict[str, Any] = dict(params)
        rounds = int(settings.pop("rounds"))
        pool = catboost.Pool(
            without_offset(matrix),
            ratio,
            weight=ratio**-2.0,
            feature_names=NAMES,
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

        def raw(some: Matrix) -> FloatArray:
            return np.asarray(booster.predict(some, thread_count=threads))

        return cls(agreed(_forest_of(booster), matrix, raw), lambda: booster)

    def log_factor(self, matrix: Matrix, threads: int) -> FloatArray:
        """See ``Member``."""
        return np.asarray(np.log(np.maximum(self.forest(matrix, threads), MIN_FACTOR)))

    def contributions(self, matrix: Matrix, threads: int) -> FloatArray:
        """See ``Member``."""
        import catboost

        pool = catboost.Pool(matrix, feature_names=NAMES, thread_count=threads)
        parts = self.booster.get_feature_importance(pool, type="ShapValues", thread_count=threads)
        return log_split(np.asarray(parts, np.float64), MIN_FACTOR)

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
        return read_catboost(json.loads(path.read_text("utf-8")))
