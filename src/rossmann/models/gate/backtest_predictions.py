"""Each row of a version's backtest with its forecasts, stored with the version as ``evidence.npz``.

The gate and comparisons of versions need the rows: paired tests by store cannot be made from means
over a window.
"""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from rossmann.errors import CorruptModelError
from rossmann.models.evaluation.metrics import bias, rmspe
from rossmann.schema import DayArray, FloatArray

if TYPE_CHECKING:
    from rossmann.models.evaluation.backtest import WindowForecasts


PREDICTIONS_FILE: Final = "evidence.npz"
_COLUMNS: Final = ("store", "day", "sold", "forecast", "naive")
_BASELINE: Final = "seasonal_naive"


@dataclass(frozen=True)
class WindowPredictions:
    """One window's rows: store, day since 1970-01-01, sales, and two forecasts of them; (n,) each.

    ``forecast``: of members fitted on nothing after the origin; ``naive``: of seasonal naive.
    """

    origin: str
    days: int
    store: DayArray
    day: DayArray
    sold: FloatArray
    forecast: FloatArray
    naive: FloatArray

    @property
    def rmspe(self) -> float:
        """RMSPE of the version."""
        return rmspe(self.sold, self.forecast)

    @property
    def bias(self) -> float:
        """Bias of the version: forecast total over sold total, less 1."""
        return bias(self.sold, self.forecast)

    def take(self, index: npt.NDArray[np.integer]) -> "WindowPredictions":
        """The rows at ``index``."""
        columns = (getattr(self, name)[index] for name in _COLUMNS)
        return WindowPredictions(self.origin, self.days, *columns)


@dataclass(frozen=True)
class BacktestPredictions:
    """All windows, oldest first, and by origin the coverage of each reported level.

    A window's coverage is that of intervals calibrated on the other windows. ``later``: windows
    that the fits of earlier ones forecast too, from origins of their own; only for comparisons.
    """

    windows: tuple[WindowPredictions, ...]
    coverage: dict[str, dict[str, float]]
    later: tuple[WindowPredictions, ...] = ()

    @property
    def all_windows(self) -> tuple[WindowPredictions, ...]:
        """Both kinds of windows, oldest first."""
        return tuple(sorted((*self.windows, *self.later), key=lambda window: window.origin))


class DayForecast(NamedTuple):
    """Forecast of a store's day in sales, from the origin ``as_of`` (YYYY-MM-DD)."""

    as_of: str
    forecast: float


class NewestForecasts:
    """Of each store and day of a backtest, the forecast from the newest origin before the day."""

    def __init__(self, predictions: BacktestPredictions) -> None:
        windows = sorted(predictions.windows, key=lambda window: window.origin)
        self._origins = [window.origin for window in windows]
        store, day, number, forecast = (
            np.concatenate([np.empty(0, dtype), *parts]).astype(dtype)
            for parts, dtype in (
                ([window.store for window in windows], np.int32),
                ([window.day for window in windows], np.int32),
                ([np.full(len(w.store), n) for n, w in enumerate(windows)], np.int32),
                ([window.forecast for window in windows], np.float64),
            )
        )
        order = np.lexsort((number, day, store))
        store, day = store[order], day[order]
        newest = np.append((store[1:] != store[:-1]) | (day[1:] != day[:-1]), len(store) > 0)
        newest = newest[: len(store)]
        kept = order[newest]
        self._store, self._day = store[newest], day[newest]
        self._window, self._forecast = number[kept], forecast[kept]

    def of_store(self, store: int, first: int, last: int) -> dict[int, DayForecast]:
        """The forecasts of a store's days from ``first`` to ``last``, by epoch day."""
        start, end = np.searchsorted(self._store, [store, store + 1])
        low, high = start + np.searchsorted(self._day[start:end], [first, last + 1])
        return {
            int(self._day[i]): DayForecast(self._origins[self._window[i]], float(self._forecast[i]))
            for i in range(low, high)
        }


def from_outcomes(
    outcomes: "Sequence[WindowForecasts]", coverage: dict[str, Any] | None
) -> BacktestPredictions:
    """The predictions to store, from what ``backtest`` and ``measure_coverage`` returned."""
    later = tuple(_window_predictions(w) for o in outcomes for w in o.follow_ups)
    windows = tuple(map(_window_predictions, outcomes))
    return BacktestPredictions(windows, _coverage(coverage), later)


def _window_predictions(outcome: "WindowForecasts") -> WindowPredictions:
    window = outcome.window
    return WindowPredictions(
        window.origin_date.isoformat(),
        window.days,
        window.rows.store,
        window.rows.day,
        window.sold,
        outcome.forecasts["ensemble"],
        outcome.forecasts[_BASELINE],
    )


def _coverage(measured: dict[str, Any] | None) -> dict[str, dict[str, float]]:
    """Coverage by origin and level."""
    from rossmann.models.calibration.interval_coverage import REPORTED_LEVELS, level_key

    if measured is None:
        return {}
    levels = {
        level_key(level): measured["levels"][level_key(level)]["windows"]
        for level in REPORTED_LEVELS
    }
    origins = next(iter(levels.values()))
    return {origin: {level: levels[level][origin] for level in levels} for origin in origins}


def write_predictions(folder: Path, predictions: BacktestPredictions) -> None:
    """Write ``evidence.npz`` into ``folder``: about 10 bytes a row."""
    stored = (*predictions.windows, *predictions.later)
    about = {
        "windows": [{"origin": w.origin, "days": w.days} for w in stored],
        "later": len(predictions.later),
        "coverage": predictions.coverage,
    }
    arrays: dict[str, npt.NDArray[np.generic]] = {"about": np.array(json.dumps(about))}
    for i, window in enumerate(stored):
        for name in _COLUMNS:
            dtype = np.int32 if name in {"store", "day"} else np.float32
            arrays[f"{i}.{name}"] = getattr(window, name).astype(dtype)
    np.savez_compressed(folder / PREDICTIONS_FILE, **arrays)  # type: ignore[arg-type]  # numpy's stub


def read_predictions(path: Path) -> BacktestPredictions:
    """Read what ``write_predictions`` wrote; raises ``CorruptModelError`` for a damaged file."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            windows = tuple(
                WindowPredictions(
                    str(w["origin"]),
                    int(w["days"]),
                    stored[f"{i}.store"],
                    stored[f"{i}.day"],
                    *(stored[f"{i}.{name}"].astype(np.float64) for name in _COLUMNS[2:]),
                )
                for i, w in enumerate(about["windows"])
            )
            first_later = len(windows) - int(about.get("later", 0))  # earlier releases wrote none
            coverage = dict(about["coverage"])
            return BacktestPredictions(windows[:first_later], coverage, windows[first_later:])
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise CorruptModelError(f"{path} cannot be read: {error}") from error
