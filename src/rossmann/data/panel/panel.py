"""The panel: one dense table store by day, and the only way from rows to the matrix."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rossmann.data.make_dataset import DatasetInfo
from rossmann.data.panel.array_storage import MemmapStorage, MemoryStorage
from rossmann.data.panel.build import MAX_DAYS_AHEAD, BuiltArrays, build_arrays
from rossmann.epoch_days import to_day
from rossmann.errors import DataNotFoundError
from rossmann.features import row_lookup as asking
from rossmann.features import schedule_counts as plan
from rossmann.features.build_features import FeatureArrays, build_matrix_for_rows
from rossmann.features.offset_components import N_COMPONENTS, offset_components
from rossmann.features.row_lookup import RECENT_DAYS
from rossmann.schema import (
    FEATURES,
    MAX_HORIZON,
    DayArray,
    FeatureMatrix,
    ProgressReporter,
    StoreDays,
)

_FORMAT: Final = "panel-5"
"""Raise it when an array's meaning changes: old folders are then built anew."""
_Days = npt.NDArray[np.int64]
_Reach = tuple[int, int, int]
_Asked = tuple[DayArray, DayArray, DayArray, _Days, _Days, _Reach]
_NOT_ASKABLE: Final = "rows hold a store, a day or an origin that the panel does not have"

LONG_CLOSURE_DAYS: Final = 30
"""Days without sales in a row that are more than a holiday."""


@dataclass(frozen=True)
class StoreHistory:
    """A store's days up to a date: ``sales`` is NaN where unknown. Each of shape (n,)."""

    day: DayArray
    sales: npt.NDArray[np.float64]
    open: npt.NDArray[np.uint8]
    promo: npt.NDArray[np.uint8]


class Panel:
    """One data version, memory-mapped; workers share its pages. All days are since 1970-01-01."""

    def __init__(self, info: DatasetInfo, built: BuiltArrays, store_numbers: DayArray) -> None:
        self.info = info
        self.store_numbers = store_numbers
        self.arrays: FeatureArrays = built.arrays
        self._sales, self._seen = built.sales, built.seen
        self._planned = built.arrays.cube[:, :, plan.KNOWN]
        self.first_day = to_day(info.first_day)
        self.last_day = to_day(info.last_day)
        self.schedule_end = to_day(info.schedule_end or info.last_day)
        self.furthest_day = self.last_day + MAX_DAYS_AHEAD

    def store_indices(self, stores: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Places of store numbers (n,) in the panel, -1 for stores that it does not have."""
        out = np.empty(len(stores), np.int64)
        asking.store_indices(self.store_numbers, stores, out)
        return out

    def row_extent(self, rows: StoreDays) -> tuple[int, int, int]:
        """The lowest place of rows (n >= 1), -1 where a store is unknown; first and last day."""
        return asking.row_extent(self.store_numbers, rows.store, rows.day)

    def matrix(
        self,
        rows: StoreDays,
        origin: int | npt.NDArray[np.integer],
        planned_to: int | npt.NDArray[np.integer] | None = None,
    ) -> FeatureMatrix:
        """The features of ``rows`` (n,) as of ``origin`` (one, or one per row): (n, 46) float32.

        ``planned_to`` (one, or one per row): as if the schedule ended on that day.

        Raises ``ValueError`` where a store is unknown, or a day or its origin is out of reach
        (first day <= origin < day <= a year after history, and origin in history): callers check
        rows first and say so in words.
        """
        out = np.empty((len(rows), len(FEATURES)), np.float32)
        asked = self._asked(rows, origin, planned_to)
        flags = (rows.promo, rows.state_holiday, rows.school_holiday)
        if not build_matrix_for_rows(self.arrays, *asked, *flags, out):
            raise ValueError(_NOT_ASKABLE)
        return out

    def offset_parts(
        self, rows: StoreDays, origin: int | npt.NDArray[np.integer]
    ) -> npt.NDArray[np.float64]:
        """What the base filter's forecast of each row is the sum of: (n, offset_parts.N_PARTS).

        Takes what ``matrix`` takes, and raises what it raises.
        """
        out = np.empty((len(rows), N_COMPONENTS))
        at = np.empty((4, len(rows)), np.int64)
        if not asking.locate_rows(*self._asked(rows, origin, None), at):
            raise ValueError(_NOT_ASKABLE)
        flags = (rows.promo, rows.state_holiday, rows.school_holiday)
        offset_components(self.arrays, at[0], at[1], at[2], at[3], *flags, out)
        return out

    def _asked(
        self,
        rows: StoreDays,
        origin: int | npt.NDArray[np.integer],
        planned_to: int | npt.NDArray[np.integer] | None,
    ) -> _Asked:
        """Rows as the kernels take them, before they are placed."""
        limit = self.first_day + len(self.arrays.table) if planned_to is None else planned_to
        reach = (self.first_day, self.last_day, self.furthest_day)
        return (self.store_numbers, rows.store, rows.day, _each(origin), _each(limit), reach)

    def warning_flags(
        self, rows: StoreDays, origin: int | npt.NDArray[np.integer], fewest: int
    ) -> npt.NDArray[np.uint8]:
        """What each of ``rows`` (n,) may be in doubt for, as ``features.doubt_bits``: mostly 0.

        Takes what ``matrix`` takes. ``fewest``: days with sales below which a store has few.
        """
        out = np.empty(len(rows), np.uint8)
        asking.find_warning_flags(
            self.store_numbers, rows.store, rows.day, _each(origin), self.first_day, MAX_HORIZON,
            fewest, self._seen, self._planned, out,
        )  # fmt: skip
        return out

    def is_scheduled(
        self, places: npt.NDArray[np.int64], days: npt.NDArray[np.integer]
    ) -> npt.NDArray[np.bool_]:
        """Whether each day (n,) is planned in the tables rather than filled by rule."""
        return np.asarray(self._planned[days - self.first_day, places] > 0)

    def idle_days(
        self, places: npt.NDArray[np.int64], origin: int, fewest: int
    ) -> npt.NDArray[np.int64]:
        """Days that a store had no sales in a row, up to ``origin`` or shortly before; (n,).

        0 where a store sold on at least ``fewest`` of the last ``RECENT`` days, never before
        them, or was away for less than ``LONG_AWAY`` days.
        """
        t = origin - self.first_day
        out = np.zeros(len(places), np.int64)
        if t < RECENT_DAYS:
            return out
        before = self._seen[places, t - RECENT_DAYS]
        quiet = (before > 0) & (self._seen[places, t] - before < fewest)
        for place in np.unique(places[quiet]):
            sold = np.flatnonzero(~np.isnan(self.arrays.log_sales[place, : t + 1]))
            again = np.append(sold[1:], t + 1)
            away = (again - sold - 1)[again > t - RECENT_DAYS].max()
            out[quiet & (places == place)] = away if away >= LONG_CLOSURE_DAYS else 0
        return out

    def store_schedule(self, store: int, days: npt.NDArray[np.integer]) -> StoreDays:
        """The plan of a store for ``days`` (n,), filled by rule where there is none."""
        return self.schedule(np.full(len(days), store, np.int32), days)

    def schedule(self, stores: npt.NDArray[np.integer], days: npt.NDArray[np.integer]) -> StoreDays:
        """The plan for pairs of a store and a day (n,), filled by rule where there is none.

        Raises ``ValueError`` for a store that is not in the panel.
        """
        places = self.store_indices(stores)
        if (places < 0).any():
            raise ValueError(f"store {stores[places < 0][0]} is not in the panel")
        flags = self.arrays.cube[days - self.first_day, places]
        return StoreDays(
            stores.astype(np.int32),
            days.astype(np.int32),
            flags[:, plan.OPEN].copy(),
            flags[:, plan.PROMO].copy(),
            flags[:, plan.HOLIDAY].copy(),
            flags[:, plan.SCHOOL].copy(),
        )

    def history(self, store: int, until: int, days: int) -> StoreHistory:
        """The last ``days`` days of a store's history up to ``until``."""
        end = min(until, self.last_day)
        when = np.arange(max(end - days + 1, self.first_day), end + 1, dtype=np.int32)
        rows = self.store_schedule(store, when)
        place = int(self.store_indices(np.array([store]))[0])
        sold = self._sales[place, when - self.first_day].astype(np.float64)
        return StoreHistory(when, np.where(sold < 0, np.nan, sold), rows.open, rows.promo)

    def sales_rows(self) -> tuple[StoreDays, npt.NDArray[np.float64]]:
        """All open days with sales, by date and store, and what they sold (n,)."""
        cube = self.arrays.cube
        t, s = np.nonzero((self._sales > 0).T & (cube[: self._sales.shape[1], :, plan.OPEN] > 0))
        rows = StoreDays(
            self.store_numbers[s],
            (t + self.first_day).astype(np.int32),
            *(cube[t, s, flag] for flag in (plan.OPEN, plan.PROMO, plan.HOLIDAY, plan.SCHOOL)),
        )
        return rows, self._sales[s, t].astype(np.float64)


def build_panel(
    info: DatasetInfo, threads: int, report: ProgressReporter = lambda line: None
) -> None:
    """Compute the arrays of a data version beside its tables; does nothing where they are."""
    folder = info.folder / _FORMAT
    if folder.is_dir():
        report(f"features of data version {info.version} are there already")
        return
    names = ("history", "schedule", "stores")
    tables = {name: pl.read_parquet(info.folder / f"{name}.parquet") for name in names}
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=info.folder))
    try:
        shelf = MemmapStorage(draft)
        built = build_arrays(tables, info.first_day, info.last_day, threads, report, shelf)
        numbers = tables["stores"]["Store"].to_numpy().astype(np.int32)
        small = {name: getattr(built.arrays, name) for name in ("table", "terms", "stores")}
        for name, array in {**small, "store_numbers": numbers}.items():
            np.save(draft / f"{name}.npy", array)
        draft.chmod(0o755)
        draft.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was quicker, with the same arrays
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _each(given: int | npt.NDArray[np.integer]) -> _Days:
    """One for all, or one for each, as the kernels take it."""
    if isinstance(given, int):
        return np.array((given,), np.int64)
    return np.atleast_1d(np.asarray(given, np.int64))


def open_panel(info: DatasetInfo) -> Panel:
    """Map a data version's arrays; raises ``MissingData`` where they were not built."""
    folder = info.folder / _FORMAT
    if not folder.is_dir():
        raise DataNotFoundError(
            f"the features of data version {info.version} are not built: run: rossmann features"
        )

    def load(name: str) -> npt.NDArray[np.generic]:
        # a plain view, because the kernels' dispatch is slow on the memmap subclass
        return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")).view(np.ndarray)

    arrays = FeatureArrays(*(load(name) for name in FeatureArrays._fields))  # type: ignore[arg-type]
    built = BuiltArrays(arrays, load("sales"), load("seen"))  # type: ignore[arg-type]
    return Panel(info, built, load("store_numbers"))  # type: ignore[arg-type]


def in_memory_panel(info: DatasetInfo, tables: dict[str, pl.DataFrame], threads: int = 1) -> Panel:
    """A panel in memory from clean tables, for tests and small chains."""
    built = build_arrays(
        tables, info.first_day, info.last_day, threads, lambda line: None, MemoryStorage()
    )
    return Panel(info, built, tables["stores"]["Store"].to_numpy().astype(np.int32))
