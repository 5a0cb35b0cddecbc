"""Base learner: trees for forecasts, and a library's booster for Shapley values.

All learn the factor between a day's sales and the base filter's forecast ``exp(kfb)``. That
offset is the last feature, and trees do not split on it: a store's level identifies the store,
and trees that know it overfit single stores (measured: .001 of RMSPE). The loss is the squared
percentage error: LightGBM and XGBoost by its gradient on the log of the factor; CatBoost, which a
custom loss would slow down, by squared error on z = sales / exp(kfb) with weight 1 / z^2, which is
the same loss.
"""

import threading
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt

from rossmann.errors import CorruptModelError, ModelError
from rossmann.models.members.library_compatibility import load_errors
from rossmann.models.trees.forest import Forest
from rossmann.numba_kernel import cached_njit
from rossmann.schema import FEATURES, OFFSET_COLUMN, FeatureMatrix, FloatArray

Derivatives = npt.NDArray[np.float32]
Params = Mapping[str, float | int]
Progress = Callable[[float], None]
"""Called with the share of rounds that are done, from 0 to 1."""

MIN_RATIO: Final = 0.2
"""Floor of the target: below it lie a few days on which a store closed early."""
MIN_LOG_RATIO: Final = float(np.log(0.5))
"""The same for members that learn the log. Without it, 927 of 793,258 rows of the real tables hold
a quarter of the first gradient; chosen over six windows and three seeds (experiment-results.md)."""
MIN_HESSIAN: Final = 0.3
MIN_FACTOR: Final = 0.02
FEATURE_NAMES: Final = list(FEATURES)
_VERIFIED_ROWS: Final = 512
_TOLERANCE: Final = 1e-4
"""Largest difference of the trees' output from the library's, which adds in float32."""


@dataclass(frozen=True)
class TrainingInputs:
    """What members learn from: features (n, 46), and offset and sales (n,).

    The features' own offset column is constant. All members share one copy of the matrix.
    """

    features: FeatureMatrix
    offset: FloatArray
    sales: FloatArray

    @classmethod
    def of(cls, matrix: FeatureMatrix, sales: FloatArray) -> "TrainingInputs":
        """The inputs from a copy of a matrix (n, 46)."""
        return cls.taking(matrix.copy(), sales)

    @classmethod
    def taking(cls, matrix: FeatureMatrix, sales: FloatArray) -> "TrainingInputs":
        """The inputs from a matrix (n, 46) that nobody else uses; its offset column is cleared.

        No tree can split on a constant column.
        """
        offset = matrix[:, OFFSET_COLUMN].astype(np.float64)
        matrix[:, OFFSET_COLUMN] = 0.0
        return cls(matrix, offset, sales)


@dataclass(frozen=True)
class TrainingRun:
    """How a library is to fit: its own ``settings``, and what all libraries take."""

    settings: dict[str, Any]
    rounds: int
    seed: int
    threads: int
    progress: Progress


class BaseLearner(ABC):
    """A fitted booster."""

    file: ClassVar[str]
    """Name of the booster's file, in the library's own format; the trees have a second file."""

    def __init__(self, forest: Forest, open_booster: Callable[[], Any]) -> None:
        self.forest = forest
        self._open = open_booster
        self._booster: Any = None
        self._lock = threading.Lock()

    @classmethod
    def fit(
        cls, inputs: TrainingInputs, params: Params, seed: int, threads: int, progress: Progress
    ) -> Self:
        """Fit; ``params``: the library's own, and ``rounds``."""
        settings: dict[str, Any] = dict(params)
        rounds = int(settings.pop("rounds"))
        run = TrainingRun(settings, rounds, seed, threads, progress)
        booster = cls.train(inputs.features, cls.target(inputs), run)
        forest = verify_against_library(
            cls.parse(booster), inputs.features, lambda rows: cls.raw_output(booster, rows, threads)
        )
        return cls(forest, lambda: booster)

    @staticmethod
    def target(inputs: TrainingInputs) -> FloatArray:
        """What the trees learn, (n,)."""
        return log_target_ratio(inputs)

    @staticmethod
    @abstractmethod
    def train(features: FeatureMatrix, target: FloatArray, run: TrainingRun) -> Any:
        """The library's booster, fitted on ``TrainingInputs.features`` and the target (n,)."""

    @staticmethod
    @abstractmethod
    def parse(booster: Any) -> Forest:
        """The booster's trees."""

    @staticmethod
    @abstractmethod
    def raw_output(booster: Any, matrix: FeatureMatrix, threads: int) -> FloatArray:
        """The sum of leaves, (n,), by the library's own call."""

    def log_factor(self, matrix: FeatureMatrix, threads: int) -> FloatArray:
        """Log of sales over ``exp(kfb)`` for each row of (n, 46): (n,)."""
        return self.forest(matrix, threads)

    def factor(self, matrix: FeatureMatrix, threads: int) -> FloatArray:
        """Sales over ``exp(kfb)``, (n,), positive."""
        return np.asarray(np.exp(self.log_factor(matrix, threads)))

    @abstractmethod
    def contributions(self, matrix: FeatureMatrix, threads: int) -> FloatArray:
        """What each feature adds to the factor's log: (n, 47), last column the common base value.

        Shapley values of the trees; a row's sum is the log of its ``factor`` but for rounding.
        """

    @staticmethod
    @abstractmethod
    def read(path: Path) -> Any:
        """The booster of a file in the library's own format."""

    @property
    def booster(self) -> Any:
        """The library's booster, read at its first use: forecasts do not need it."""
        with self._lock:
            if self._booster is None:
                self._booster = self._open()
            return self._booster

    @classmethod
    def files(cls) -> tuple[str, str]:
        """The names of the files that ``save`` writes."""
        return cls.file, f"{Path(cls.file).stem}.npz"

    def save(self, folder: Path) -> None:
        """Write the booster and the trees; ``load`` reads them."""
        booster, trees = self.files()
        self.booster.save_model(str(folder / booster))
        np.savez_compressed(folder / trees, **self.forest.to_arrays(), allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what ``save`` wrote; raises ``ValueError`` where the file of trees holds none."""
        booster, trees = cls.files()
        try:
            with np.load(folder / trees, allow_pickle=False) as arrays:
                forest = Forest.from_arrays(arrays)
        except (KeyError, zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"{folder / trees} holds no trees: {error!r}") from error
        return cls(forest, lambda: cls._read_booster(folder / booster))

    @classmethod
    def _read_booster(cls, path: Path) -> Any:
        unreadable = load_errors()
        try:
            return cls.read(path)
        except unreadable as error:
            raise CorruptModelError(f"{path} does not load: {error}") from error


def rows_to_verify(matrix: FeatureMatrix) -> FeatureMatrix:
    """Some 512 rows of a matrix (n, 46), evenly spaced, on which a fitted booster is verified."""
    return matrix[:: max(len(matrix) // _VERIFIED_ROWS, 1)]


def verify_against_library(
    forest: Forest, matrix: FeatureMatrix, raw: Callable[[FeatureMatrix], FloatArray]
) -> Forest:
    """The forest; raises ``ModelError`` if its output on ``matrix`` is not the library's."""
    rows = rows_to_verify(matrix)
    difference = float(np.abs(forest(rows) - raw(rows)).max(initial=0.0))
    if not difference <= _TOLERANCE:
        raise ModelError(
            "the trees that were read from the booster answer otherwise than it does"
            f" (by {difference}): this release of the library writes them in another way;"
            " install the pinned one (requirements.lock)"
        )
    return forest


def target_ratio(inputs: TrainingInputs) -> FloatArray:
    """The target: sales over the base filter's forecast, (n,), floored."""
    return np.asarray(np.maximum(inputs.sales / np.exp(inputs.offset), MIN_RATIO))


def log_target_ratio(inputs: TrainingInputs) -> FloatArray:
    """The target on the log scale: log sales less the base filter's forecast, (n,), floored."""
    return np.asarray(np.maximum(np.log(inputs.sales) - inputs.offset, MIN_LOG_RATIO))


def squared_percentage_error(output: FloatArray, data: Any) -> tuple[Derivatives, Derivatives]:
    """Gradient and hessian of (exp(f - z) - 1)^2 / 2; the hessian is floored to stay convex."""
    gradient, hessian = np.empty(len(output), np.float32), np.empty(len(output), np.float32)
    fill_derivatives(np.asarray(output), data.get_label(), MIN_HESSIAN, gradient, hessian)
    return gradient, hessian


@cached_njit
def fill_derivatives(
    output: FloatArray,
    target: FloatArray,
    min_hessian: float,
    gradient: Derivatives,
    hessian: Derivatives,
) -> None:
    """Fill the derivatives of ``squared_percentage_error``, (n,) each, in one pass."""
    for i in range(len(output)):
        ratio = np.exp(np.float64(output[i]) - np.float64(target[i]))
        gradient[i] = (ratio - 1.0) * ratio
        hessian[i] = max(ratio * (2.0 * ratio - 1.0), min_hessian)
