"""The panel: a data version's dense store-by-day arrays, and feature matrices from them."""

import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rossmann.data.make_dataset import DatasetInfo
from rossmann.data.panel.array_storage import MemmapStorage
from rossmann.data.panel.build import MAX_DAYS_AHEAD, BuiltArrays, build_arrays
from rossmann.epoch_days import to_day
from rossmann.errors import DataNotFoundError
from rossmann.features import row_lookup
from rossmann.features.build_features import FeatureArrays, build_matrix_for_rows
from rossmann.features.offset_components import N_COMPONENTS, offset_components
from rossmann.features.row_lookup import RECENT_DAYS, RowQuery
from rossmann.features.schedule_counts import HOLIDAY, KNOWN, OPEN, PROMO, SCHOOL
from rossmann.filesystem.atomic_write import staging_folder
from rossmann.installation import shell_command
from rossmann.schema import (
    FEATURES,
    MAX_HORIZON,
    DayArray,
    FeatureMatrix,
    ProgressReporter,
    StoreDays,
)

_FORMAT: Final = "panel-6"
"""Increase it when an array's meaning changes: older folders are then not used."""
_OUT_OF_RANGE: Final = "rows hold a store, a day or an origin that the panel does not have"

Days = int | npt.NDArray[np.integer]
"""One epoch day for all rows, or one for each."""

LONG_CLOSURE_DAYS: Final = 30
"""Consecutive days without sales that are more than a holiday."""


@dataclass(frozen=True)
class StoreHistory:
    """A store's days up to a date, each of shape (n,); ``sales`` is NaN where not known."""

    day: DayArray
    sales: npt.NDArray[np.float64]
    open: npt.NDArray[np.uint8]
    promo: npt.NDArray[np.uint8]


class Panel:
    """One data version, memory-mapped; workers share its pages. All days are epoch days.

    ``release_pages`` takes the arrays' pages out of the process's memory until they are read again.
    """

    def __init__(
        self,
        info: DatasetInfo,
        built: BuiltArrays,
        store_numbers: DayArray,
        release_pages: Callable[[], None] = lambda: None,
    ) -> None:
        self.info = info
        self.release_pages = release_pages
        self.store_numbers = store_numbers
        self.arrays: FeatureArrays = built.arrays
        self._sales, self._sales_days = built.sales, built.sales_days
        self._is_scheduled = built.arrays.cube[:, :, KNOWN]
        self.first_day = to_day(info.first_day)
        self.last_day = to_day(info.last_day)
        self.schedule_end = to_day(info.schedule_end or info.last_day)
        self.furthest_day = self.last_day + MAX_DAYS_AHEAD

    def store_indices(self, stores: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Indices of store numbers (n,) in the panel, -1 for unknown stores."""
        out = np.empty(len(stores), np.int64)
        row_lookup.store_indices(self.store_numbers, stores, out)
        return out

    def row_extent(self, rows: StoreDays) -> tuple[int, int, int]:
        """The lowest store index of rows (n >= 1), -1 if one is unknown; first and last day."""
        return row_lookup.row_extent(self.store_numbers, rows.store, rows.day)

    def matrix(
        self,
        rows: StoreDays,
        origin: Days,
        planned_to: Days | None = None,
        region_day: int | None = None,
    ) -> FeatureMatrix:
        """The features of ``rows`` (n,) as of ``origin``: (n, 46) float32.

        ``planned_to``: as if the schedule ended on that day. ``region_day``: the regions of stores
        as holidays up to that day tell them, the origin without; training rows take the last day
        that the fit knows, else what is not yet known would tell members the time. Raises
        ``ValueError`` where a store is unknown or a day is out of range (first day <= origin < day
        <= ``furthest_day``, origin in history): callers check rows first and report each.
        """
        out = np.empty((len(rows), len(FEATURES)), np.float32)
        query = self._query(rows, origin, planned_to, region_day)
        flags = (rows.promo, rows.state_holiday, rows.school_holiday)
        if not build_matrix_for_rows(self.arrays, query, flags, out):
            raise ValueError(_OUT_OF_RANGE)
        return out

    def offset_components(self, rows: StoreDays, origin: Days) -> npt.NDArray[np.float64]:
        """The summands of the base filter's forecast of each row: (n, N_COMPONENTS).

        Takes and raises what ``matrix`` does.
        """
        out = np.empty((len(rows), N_COMPONENTS))
        flags = (rows.promo, rows.state_holiday, rows.school_holiday)
        if not offset_components(self.arrays, self._query(rows, origin, None), flags, out):
            raise ValueError(_OUT_OF_RANGE)
        return out

    def regions(self, rows: StoreDays, day: int) -> npt.NDArray[np.int16]:
        """The region of each row's store (n,) as holidays up to ``day`` tell it."""
        regions = self.arrays.regions[day - self.first_day]
        return np.asarray(regions[self.store_indices(rows.store)], np.int16)

    def _query(
        self, rows: StoreDays, origin: Days, planned_to: Days | None, region_day: int | None = None
    ) -> RowQuery:
        """Rows as the kernels take them."""
        limit = self.first_day + len(self.arrays.table) if planned_to is None else planned_to
        regions_of = -1 if region_day is None else region_day - self.first_day
        bounds = (self.first_day, self.last_day, self.furthest_day, regions_of)
        return (
            self.store_numbers,
            rows.store,
            rows.day,
            _as_array(origin),
            _as_array(limit),
            bounds,
        )

    def warning_flags(self, rows: StoreDays, origin: Days, min_days: int) -> npt.NDArray[np.uint8]:
        """The warnings about each of ``rows`` (n,) as bits of ``schema``, 0 for none.

        Takes what ``matrix`` takes. ``min_days``: with fewer days of sales a history is short.
        """
        out = np.empty(len(rows), np.uint8)
        row_lookup.find_warning_flags(
            (self.store_numbers, rows.store, rows.day, _as_array(origin)),
            (self.first_day, MAX_HORIZON, min_days),
            self._sales_days,
            self._is_scheduled,
            out,
        )
        return out

    def is_scheduled(
        self, stores: npt.NDArray[np.int64], days: npt.NDArray[np.integer]
    ) -> npt.NDArray[np.bool_]:
        """Whether the tables hold each pair (n,) of a store index and a day."""
        return np.asarray(self._is_scheduled[days - self.first_day, stores] > 0)

    def idle_days(
        self, stores: npt.NDArray[np.int64], origin: int, min_days: int
    ) -> npt.NDArray[np.int64]:
        """Longest run of days without sales in the last ``RECENT_DAYS`` of store indices (n,).

        0 where a store sold on at least ``min_days`` of them, never sold before them, or was idle
        for less than ``LONG_CLOSURE_DAYS``.
        """
        t = origin - self.first_day
        out = np.zeros(len(stores), np.int64)
        if t < RECENT_DAYS:
            return out
        before = self._sales_days[stores, t - RECENT_DAYS]
        is_idle = (before > 0) & (self._sales_days[stores, t] - before < min_days)
        for store in np.unique(stores[is_idle]):
            sold = np.flatnonzero(~np.isnan(self.arrays.log_sales[store, : t + 1]))
            next_sold = np.append(sold[1:], t + 1)
            run = (next_sold - sold - 1)[next_sold > t - RECENT_DAYS].max()
            out[is_idle & (stores == store)] = run if run >= LONG_CLOSURE_DAYS else 0
        return out

    def store_schedule(self, store: int, days: npt.NDArray[np.integer]) -> StoreDays:
        """The schedule of a store for ``days`` (n,), filled by rule where the tables have none."""
        return self.schedule(np.full(len(days), store, np.int32), days)

    def schedule(self, stores: npt.NDArray[np.integer], days: npt.NDArray[np.integer]) -> StoreDays:
        """The schedule of pairs (n,) of a store and a day, filled by rule where there is none.

        Raises ``ValueError`` for a store that is not in the panel.
        """
        indices = self.store_indices(stores)
        if (indices < 0).any():
            raise ValueError(f"store {stores[indices < 0][0]} is not in the panel")
        flags = self.arrays.cube[days - self.first_day, indices]
        return StoreDays(
            stores.astype(np.int32),
            days.astype(np.int32),
            *(flags[:, flag].copy() for flag in (OPEN, PROMO, HOLIDAY, SCHOOL)),
        )

    def history(self, store: int, until: int, days: int) -> StoreHistory:
        """The last ``days`` days of a store's history up to ``until``."""
        end = min(until, self.last_day)
        day = np.arange(max(end - days + 1, self.first_day), end + 1, dtype=np.int32)
        rows = self.store_schedule(store, day)
        index = int(self.store_indices(np.array([store]))[0])
        sales = self._sales[index, day - self.first_day].astype(np.float64)
        return StoreHistory(day, np.where(sales < 0, np.nan, sales), rows.open, rows.promo)

    def sales_between(self, first: int, last: int) -> npt.NDArray[np.float64]:
        """Sales of every store from ``first`` to ``last``, (stores, days): NaN where not known."""
        sales = self._sales[:, first - self.first_day : last - self.first_day + 1]
        return np.where(sales < 0, np.nan, sales.astype(np.float64))

    def sales_rows(self) -> tuple[StoreDays, npt.NDArray[np.float64]]:
        """All open days with sales, by date and store, and their sales (n,)."""
        cube = self.arrays.cube
        t, s = np.nonzero((self._sales > 0).T & (cube[: self._sales.shape[1], :, OPEN] > 0))
        rows = StoreDays(
            self.store_numbers[s],
            (t + self.first_day).astype(np.int32),
            *(cube[t, s, flag] for flag in (OPEN, PROMO, HOLIDAY, SCHOOL)),
        )
        return rows, self._sales[s, t].astype(np.float64)


def build_panel(
    info: DatasetInfo, threads: int, report: ProgressReporter = lambda line: None
) -> None:
    """Compute the arrays of a data version in its folder, unless they exist."""
    folder = info.folder / _FORMAT
    if folder.is_dir():
        report(f"features of data version {info.version} are there already")
        return
    names = ("history", "schedule", "stores")
    tables = {name: pl.read_parquet(info.folder / f"{name}.parquet") for name in names}
    try:
        with staging_folder(info.folder) as draft:
            storage = MemmapStorage(draft)
            built = build_arrays(info, tables, storage, threads, report)
            numbers = tables["stores"]["Store"].to_numpy().astype(np.int32)
            small = {name: getattr(built.arrays, name) for name in ("table", "terms", "stores")}
            for name, array in {**small, "store_numbers": numbers}.items():
                np.save(draft / f"{name}.npy", array)
            draft.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was quicker, with the same arrays
            raise


def remove_old_arrays(processed: Path, kept: Collection[str], newest: int) -> list[str]:
    """Remove the arrays of data versions that are neither in ``kept`` nor among the ``newest``.

    Returns their names. Their tables stay, from which ``build_panel`` makes the arrays again; a
    process that has them mapped keeps them until it ends.
    """
    folders = [folder for folder in processed.glob("*/") if (folder / _FORMAT).is_dir()]
    folders.sort(key=lambda folder: (folder / _FORMAT).stat().st_mtime_ns, reverse=True)
    removed = [folder for folder in folders[newest:] if folder.name not in kept]
    for folder in removed:
        shutil.rmtree(folder / _FORMAT, ignore_errors=True)
    return [folder.name for folder in removed]


def _as_array(days: Days) -> npt.NDArray[np.int64]:
    """Shape (1,) or (n,), as the kernels take it."""
    if isinstance(days, int):
        return np.array((days,), np.int64)
    return np.atleast_1d(np.asarray(days, np.int64))


def open_panel(info: DatasetInfo) -> Panel:
    """Map a data version's arrays; raises ``DataNotFoundError`` where they were not built."""
    folder = info.folder / _FORMAT
    if not folder.is_dir():
        raise DataNotFoundError(
            f"the features of data version {info.version} are not built:"
            f" run: {shell_command('features')}"
        )

    storage = MemmapStorage(folder)
    arrays = FeatureArrays(*(storage.existing(name) for name in FeatureArrays._fields))
    built = BuiltArrays(arrays, storage.existing("sales"), storage.existing("seen"))
    return Panel(info, built, storage.existing("store_numbers"), storage.release_pages)
