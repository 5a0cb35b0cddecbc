"""The three boosters, each behind the same four calls: fit, factor, save, load.

All learn how far a day's sales lie from the base filter's forecast ``exp(kfb)``, as a factor.
That offset is the last feature, and trees do not split on it: a store's level tells stores apart,
and trees that know it learn stores by heart (measured: .001 of RMSPE). The loss is the square
percentage error: LightGBM and XGBoost by its gradient on the log of the factor; CatBoost, to
which a loss of ours would cost its speed, by squared error on z = sales / exp(kfb) with weight
1 / z^2, which is the same loss.
"""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from rossmann.models.contributions import log_split
from rossmann.schema import FEATURES, OFFSET, FloatArray, Matrix

Params = Mapping[str, float | int]
Progress = Callable[[float], None]
"""Told the share of rounds that are done, from 0 to 1."""

MIN_RATIO: Final = 0.2
"""Floor of the target: below it lie a few days on which a store shut early."""
MIN_HESSIAN: Final = 0.3
MIN_FACTOR: Final = 0.02
_NAMES: Final = list(FEATURES)


class Member(Protocol):
    """A fitted booster."""

    def factor(self, matrix: Matrix, threads: int) -> FloatArray:
        """Sales over ``exp(kfb)`` for each row of (n, 46): (n,), positive."""

    def contributions(self, matrix: Matrix, threads: int) -> FloatArray:
        """What each feature adds to the factor's log: (n, 47), last what all rows start from.

        Shapley values of the trees; a row's sum is the log of its ``factor`` but for rounding.
        """

    def save(self, path: Path) -> None:
        """Write it in the library's own format."""


def ratio_of(matrix: Matrix, sales: FloatArray) -> FloatArray:
    """The target: sales over the base filter's forecast, (n,), floored."""
    offset = np.exp(matrix[:, OFFSET].astype(np.float64))
    return np.asarray(np.maximum(sales / offset, MIN_RATIO))


def log_factor(matrix: Matrix, sales: FloatArray) -> FloatArray:
    """The target on the log scale: log sales less the base filter's forecast, (n,)."""
    return np.asarray(np.log(sales) - matrix[:, OFFSET].astype(np.float64))


def percentage_loss(output: FloatArray, data: Any) -> tuple[FloatArray, FloatArray]:
    """Gradient and hessian of (exp(f - z) - 1)^2 / 2; the hessian is floored to stay convex."""
    r = np.exp(output - data.get_label())
    return (r - 1.0) * r, np.maximum(r * (2.0 * r - 1.0), MIN_HESSIAN)


def without_offset(matrix: Matrix) -> Matrix:
    """A copy whose offset column says nothing, so that no tree splits on it."""
    blind = matrix.copy()
    blind[:, OFFSET] = 0.0
    return blind


class LightGbm:
    """LightGBM on the log of the factor, with the gradient of the square percentage error."""

    file = "lightgbm.txt"

    def __init__(self, booster: Any) -> None:
        self._booster = booster

    @classmethod
    def fit(
        cls, matrix: Matrix, sales: FloatArray, params: Params, seed: int, threads: int,
        progress: Progress,
    ) -> "LightGbm":  # fmt: skip
        """Fit on (n, 46) and sales (n,)."""
        import lightgbm

        target = log_factor(matrix, sales)
        settings: dict[str, Any] = dict(params)
        rounds = int(settings.pop("rounds"))
        data = lightgbm.Dataset(
            without_offset(matrix),
            target,
            feature_name=_NAMES,
            params={"max_bin": settings.get("max_bin", 255), "verbosity": -1,
                    "num_threads": threads, "seed": seed},
            free_raw_data=True,
        )  # fmt: skip
        settings |= {
            "objective": percentage_loss,
            "bagging_freq": 1,
            "num_threads": threads,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }

        def tell(env: Any) -> None:
            progress((env.iteration + 1) / rounds)

        return cls(lightgbm.train(settings, data, rounds, callbacks=[tell]))

    def factor(self, matrix: Matrix, threads: int) -> FloatArray:
        """See ``Member``."""
        raw = self._booster.predict(matrix, raw_score=True, num_threads=threads)
        return np.asarray(np.exp(raw), np.float64)

    def contributions(self, matrix: Matrix, threads: int) -> FloatArray:
        """See ``Member``."""
        parts = self._booster.predict(matrix, pred_contrib=True, num_threads=threads)
        return np.asarray(parts, np.float64)

    def save(self, path: Path) -> None:
        """See ``Member``."""
        self._booster.save_model(path)

    @classmethod
    def load(cls, path: Path) -> "LightGbm":
        """Read what ``save`` wrote."""
        import lightgbm

        return cls(lightgbm.Booster(model_file=path))


class XGBoost:
    """XGBoost on the log of the factor, with the same gradient."""

    file = "xgboost.ubj"

    def __init__(self, booster: Any) -> None:
        self._booster = booster
        self._copies: dict[int, Any] = {}
        self._lock = threading.Lock()

    def _with_threads(self, threads: int) -> Any:
        """A booster with its threads set: to set them beside a running prediction is not safe."""
        found = self._copies.get(threads)
        if found is None:
            with self._lock:
                found = self._booster.copy()
                found.set_param({"nthread": threads})
                self._copies[threads] = found
        return found

    @classmethod
    def fit(
        cls, matrix: Matrix, sales: FloatArray, params: Params, seed: int, threads: int,
        progress: Progress,
    ) -> "XGBoost":  # fmt: skip
        """Fit on (n, 46) and sales (n,)."""
        import xgboost

        settings: dict[str, Any] = dict(params)
        rounds = int(settings.pop("rounds"))
        data = xgboost.QuantileDMatrix(
            without_offset(matrix),
            log_factor(matrix, sales),
            feature_names=_NAMES,
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

        return cls(xgboost.train(settings, data, rounds, obj=percentage_loss, callbacks=[Tell()]))

    def factor(self, matrix: Matrix, threads: int) -> FloatArray:
        """See ``Member``."""
        booster = self._with_threads(threads)
        raw = booster.inplace_predict(matrix, predict_type="margin", validate_features=False)
        return np.exp(np.asarray(raw, np.float64))

    def contributions(self, matrix: Matrix, threads: int) -> FloatArray:
        """See ``Member``."""
        import xgboost

        data = xgboost.DMatrix(matrix, feature_names=_NAMES, nthread=threads)
        return np.asarray(self._with_threads(threads).predict(data, pred_contribs=True), np.float64)

    def save(self, path: Path) -> None:
        """See ``Member``."""
        self._booster.save_model(path)

    @classmethod
    def load(cls, path: Path) -> "XGBoost":
        """Read what ``save`` wrote."""
        import xgboost

        return cls(xgboost.Booster(model_file=str(path)))


class CatBoost:
    """CatBoost on the factor itself."""

    file = "catboost.cbm"

    def __init__(self, booster: Any) -> None:
        self._booster = booster

    @classmethod
    def fit(
        cls, matrix: Matrix, sales: FloatArray, params: Params, seed: int, threads: int,
        progress: Progress,
    ) -> "CatBoost":  # fmt: skip
        """Fit on (n, 46) and sales (n,)."""
        import catboost

        ratio = ratio_of(matrix, sales)
        settings: dict[str, Any] = dict(params)
        rounds = int(settings.pop("rounds"))
        pool = catboost.Pool(
            without_offset(matrix),
            ratio,
            weight=ratio**-2.0,
            feature_names=_NAMES,
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
        return cls(booster)

    def factor(self, matrix: Matrix, threads: int) -> FloatArray:
        """See ``Member``."""
        out = self._booster.predict(matrix, thread_count=threads)
        return np.maximum(np.asarray(out, np.float64), MIN_FACTOR)

    def contributions(self, matrix: Matrix, threads: int) -> FloatArray:
        """See ``Member``."""
        import catboost

        pool = catboost.Pool(matrix, feature_names=_NAMES, thread_count=threads)
        parts = self._booster.get_feature_importance(pool, type="ShapValues", thread_count=threads)
        return log_split(np.asarray(parts, np.float64), MIN_FACTOR)

    def save(self, path: Path) -> None:
        """See ``Member``."""
        self._booster.save_model(str(path))

    @classmethod
    def load(cls, path: Path) -> "CatBoost":
        """Read what ``save`` wrote."""
        import catboost

        return cls(catboost.CatBoost().load_model(str(path)))


MEMBERS: Final[dict[str, type[LightGbm] | type[XGBoost] | type[CatBoost]]] = {
    "lightgbm": LightGbm,
    "xgboost": XGBoost,
    "catboost": CatBoost,
}


def seeds(seed: int) -> dict[str, int]:
    """A seed for each member, so that they do not sample the same rows."""
    return {name: seed + i for i, name in enumerate(MEMBERS)}
