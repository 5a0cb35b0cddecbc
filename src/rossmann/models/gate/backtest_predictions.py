"""Each row of a version's backtest with its forecasts, stored with the version as ``evidence.npz``.

The gate and comparisons of versions need the rows: paired tests by store cannot be made from means
over a window. Reweighting needs the members' log factors of each row, to blend it anew.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from rossmann.epoch_days import to_day
from rossmann.errors import CorruptModelError
from rossmann.models.evaluation.metrics import bias, rmspe
from rossmann.schema import DayArray, FloatArray

if TYPE_CHECKING:
    from rossmann.models.evaluation.backtest import WindowForecasts


PREDICTIONS_FILE: Final = "evidence.npz"
_COLUMNS: Final = ("store", "day", "sold", "forecast", "naive")
_BASELINE: Final = "seasonal_naive"

LogFactors = npt.NDArray[np.float32]
"""The members' log factors of n rows, (members, n), in single precision: half the size, and off by
a ten millionth at most."""


def row_keys(store: npt.NDArray[np.integer], day: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """A number for each pair (n,) of a store and a day, to match rows by."""
    return store.astype(np.int64) * 1_000_000 + day


@dataclass(frozen=True)
class WindowPredictions:
    """One window's rows: store, day since 1970-01-01, sales, and two forecasts of them; (n,) each.

    ``forecast``: of members fitted on nothing after the origin; ``naive``: of seasonal naive.
    ``age_days``: from the last day that these members learned from to the origin; None in files of
    earlier releases. ``log_factors``: of each member, by the name of the blended forecaster
    (``MemberOutputs``); empty where they are not stored or not asked for.
    """

    origin: str
    days: int
    store: DayArray
    day: DayArray
    sold: FloatArray
    forecast: FloatArray
    naive: FloatArray
    age_days: int | None = None
    log_factors: dict[str, LogFactors] = field(default_factory=dict)

    @property
    def origin_day(self) -> int:
        """The origin as days since 1970-01-01."""
        return to_day(date.fromisoformat(self.origin))

    @property
    def fit_day(self) -> int | None:
        """The last day that the members learned from, since 1970-01-01; None where unknown."""
        return None if self.age_days is None else self.origin_day - self.age_days

    @property
    def row_keys(self) -> npt.NDArray[np.int64]:
        """A number for each row (n,) that its store and day alone decide."""
        return row_keys(self.store, self.day)

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
        columns = {name: getattr(self, name)[index] for name in _COLUMNS}
        factors = {name: values[:, index] for name, values in self.log_factors.items()}
        return replace(self, **columns, log_factors=factors)


@dataclass(frozen=True)
class BacktestPredictions:
    """All windows, oldest first, and by origin the coverage of each reported level.

    A window's coverage is that of intervals calibrated on the other windows. ``later``: windows
    that the fits of earlier ones forecast too, from origins of their own; only for comparisons and
    calibration. ``members``: names of the log factors, in their order; empty where none are stored.
    """

    windows: tuple[WindowPredictions, ...]
    coverage: dict[str, dict[str, float]]
    later: tuple[WindowPredictions, ...] = ()
    members: tuple[str, ...] = ()

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
    members = tuple(outcomes[0].members["ensemble"].log_factors) if outcomes else ()
    later = tuple(_window_predictions(w, members) for o in outcomes for w in o.follow_ups)
    windows = tuple(_window_predictions(outcome, members) for outcome in outcomes)
    return BacktestPredictions(windows, _coverage(coverage), later, members)


def _window_predictions(outcome: "WindowForecasts", members: Sequence[str]) -> WindowPredictions:
    window = outcome.window
    return WindowPredictions(
        window.origin_date.isoformat(),
        window.days,
        window.rows.store,
        window.rows.day,
        window.sold,
        outcome.forecasts["ensemble"],
        outcome.forecasts[_BASELINE],
        outcome.age_days,
        {
            name: np.array([outputs.log_factors[member] for member in members], np.float32)
            for name, outputs in outcome.members.items()
        },
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
    """Write ``evidence.npz`` into ``folder``: about 10 bytes a row, and 8 for each member."""
    stored = (*predictions.windows, *predictions.later)
    about = {
        "windows": [{"origin": w.origin, "days": w.days, "age_days": w.age_days} for w in stored],
        "later": len(predictions.later),
        "members": predictions.members,
        "log_factors": sorted({name for window in stored for name in window.log_factors}),
        "coverage": predictions.coverage,
    }
    arrays: dict[str, npt.NDArray[np.generic]] = {"about": np.array(json.dumps(about))}
    for i, window in enumerate(stored):
        for name in _COLUMNS:
            dtype = np.int32 if name in {"store", "day"} else np.float32
            arrays[f"{i}.{name}"] = getattr(window, name).astype(dtype)
        for name, factors in window.log_factors.items():
            arrays[_factors_key(i, name)] = factors
    np.savez_compressed(folder / PREDICTIONS_FILE, **arrays)  # type: ignore[arg-type]  # numpy's stub


def _factors_key(window: int, name: str) -> str:
    return f"{window}.log_factors.{name}"


def read_predictions(path: Path, with_log_factors: bool = False) -> BacktestPredictions:
    """Read what ``write_predictions`` wrote; raises ``CorruptModelError`` for a damaged file.

    ``with_log_factors``: most readers do not need them, and they are most of the file.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            names = about.get("log_factors", []) if with_log_factors else []
            windows = tuple(
                _read_window(stored, i, w, names) for i, w in enumerate(about["windows"])
            )
            first_later = len(windows) - int(about.get("later", 0))  # earlier releases wrote none
            return BacktestPredictions(
                windows[:first_later],
                dict(about["coverage"]),
                windows[first_later:],
                tuple(about.get("members", ())),
            )
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise CorruptModelError(f"{path} cannot be read: {error}") from error


def _read_window(
    stored: Mapping[str, npt.NDArray[Any]], i: int, about: Mapping[str, Any], names: Sequence[str]
) -> WindowPredictions:
    store, day = (stored[f"{i}.{name}"] for name in _COLUMNS[:2])
    sold, forecast, naive = (stored[f"{i}.{name}"].astype(np.float64) for name in _COLUMNS[2:])
    factors = {name: stored[_factors_key(i, name)] for name in names}
    origin, days, age_days = str(about["origin"]), int(about["days"]), about.get("age_days")
    return WindowPredictions(origin, days, store, day, sold, forecast, naive, age_days, factors)
