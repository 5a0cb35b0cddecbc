"""What every member is: trees that answer, and a library's booster that explains.

All learn how far a day's sales lie from the base filter's forecast ``exp(kfb)``, as a factor.
That offset is the last feature, and trees do not split on it: a store's level tells stores apart,
and trees that know it learn stores by heart (measured: .001 of RMSPE). The loss is the square
percentage error: LightGBM and XGBoost by its gradient on the log of the factor; CatBoost, to
which a loss of ours would cost its speed, by squared error on z = sales / exp(kfb) with weight
1 / z^2, which is the same loss.
"""

import threading
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np

from rossmann.errors import CorruptModelError, ModelError
from rossmann.models.members.library_compatibility import load_errors
from rossmann.models.trees.forest import Forest
from rossmann.schema import FEATURES, OFFSET_COLUMN, FeatureMatrix, FloatArray

Params = Mapping[str, float | int]
Progress = Callable[[float], None]
"""Told the share of rounds that are done, from 0 to 1."""

MIN_RATIO: Final = 0.2
"""Floor of the target: below it lie a few days on which a store shut early."""
MIN_HESSIAN: Final = 0.3
MIN_FACTOR: Final = 0.02
FEATURE_NAMES: Final = list(FEATURES)
_TRIED: Final = 512
_AGREE: Final = 1e-4
"""By how much the trees' answer may differ from the library's, which adds in float32."""


class BaseLearner(ABC):
    """A fitted booster."""

    file: ClassVar[str]
    """The name of its file, in the library's own format; its trees lie beside it."""

    def __init__(self, forest: Forest, open_booster: Callable[[], Any]) -> None:
        self.forest = forest
        self._open = open_booster
        self._booster: Any = None
        self._lock = threading.Lock()

    @classmethod
    @abstractmethod
    def fit(
        cls, matrix: FeatureMatrix, sales: FloatArray, params: Params, seed: int, threads: int,
        progress: Progress,
    ) -> Self:  # fmt: skip
        """Fit on (n, 46) and sales (n,)."""

    def log_factor(self, matrix: FeatureMatrix, threads: int) -> FloatArray:
        """Log of sales over ``exp(kfb)`` for each row of (n, 46): (n,)."""
        return self.forest(matrix, threads)

    def factor(self, matrix: FeatureMatrix, threads: int) -> FloatArray:
        """Sales over ``exp(kfb)``, (n,), positive."""
        return np.asarray(np.exp(self.log_factor(matrix, threads)))

    @abstractmethod
    def contributions(self, matrix: FeatureMatrix, threads: int) -> FloatArray:
        """What each feature adds to the factor's log: (n, 47), last what all rows start from.

        Shapley values of the trees; a row's sum is the log of its ``factor`` but for rounding.
        """

    @abstractmethod
    def write(self, path: Path) -> None:
        """Write the booster in the library's own format."""

    @staticmethod
    @abstractmethod
    def read(path: Path) -> Any:
        """The booster that ``write`` wrote."""

    @property
    def booster(self) -> Any:
        """The library's booster, opened when it is first asked for: answers do not need it."""
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
        self.write(folder / booster)
        np.savez_compressed(folder / trees, **self.forest.to_arrays(), allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what ``save`` wrote; raises ``ValueError`` where the trees are none."""
        booster, trees = cls.files()
        try:
            with np.load(folder / trees, allow_pickle=False) as arrays:
                forest = Forest.from_arrays(arrays)
        except (KeyError, zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"{folder / trees} holds no trees: {error!r}") from error
        return cls(forest, lambda: cls._read_or_refuse(folder / booster))

    @classmethod
    def _read_or_refuse(cls, path: Path) -> Any:
        try:
            return cls.read(path)
        except load_errors() as error:
            raise CorruptModelError(f"{path} does not load: {error}") from error


def verify_against_library(
    forest: Forest, matrix: FeatureMatrix, raw: Callable[[FeatureMatrix], FloatArray]
) -> Forest:
    """The forest, if it answers rows of ``matrix`` as the library does; else ``ModelError``."""
    some = matrix[:: max(len(matrix) // _TRIED, 1)]
    away = float(np.abs(forest(some) - raw(some)).max(initial=0.0))
    if not away <= _AGREE:
        raise ModelError(
            f"the trees that were read from the booster answer otherwise than it does (by {away}):"
            " this release of the library writes them in another way; install the pinned one"
            " (requirements.lock)"
        )
    return forest


def target_ratio(matrix: FeatureMatrix, sales: FloatArray) -> FloatArray:
    """The target: sales over the base filter's forecast, (n,), floored."""
    offset = np.exp(matrix[:, OFFSET_COLUMN].astype(np.float64))
    return np.asarray(np.maximum(sales / offset, MIN_RATIO))


def log_target_ratio(matrix: FeatureMatrix, sales: FloatArray) -> FloatArray:
    """The target on the log scale: log sales less the base filter's forecast, (n,)."""
    return np.asarray(np.log(sales) - matrix[:, OFFSET_COLUMN].astype(np.float64))


def squared_percentage_error(output: FloatArray, data: Any) -> tuple[FloatArray, FloatArray]:
    """Gradient and hessian of (exp(f - z) - 1)^2 / 2; the hessian is floored to stay convex."""
    r = np.exp(output - data.get_label())
    return (r - 1.0) * r, np.maximum(r * (2.0 * r - 1.0), MIN_HESSIAN)


def mask_offset(matrix: FeatureMatrix) -> FeatureMatrix:
    """A copy whose offset column says nothing, so that no tree splits on it."""
    blind = matrix.copy()
    blind[:, OFFSET_COLUMN] = 0.0
    return blind
