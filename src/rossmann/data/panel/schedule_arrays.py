"""Arrays of what is known ahead: each store's schedule for each day, and its fixed traits."""

import numpy as np
import numpy.typing as npt
import polars as pl

from rossmann.epoch_days import weekday_of
from rossmann.features.build_features import (
    ASSORTMENT,
    COMPETITION_MONTH,
    LOG_DISTANCE,
    N_STORE,
    PROMO2_MONTHS,
    PROMO2_SINCE,
    log_distance,
)
from rossmann.features.calendars import (
    country_regions,
    infer_regions,
    public_holidays,
    shared_holidays,
)
from rossmann.features.schedule_counts import (
    HOLIDAY,
    KNOWN,
    OPEN,
    PROMO,
    SCHOOL,
    SPECIFIED,
    usual_opening,
)
from rossmann.schema import ASSORTMENTS, DEFAULT_COUNTRY, REGION_COLUMN, DayArray


def row_positions(
    frame: pl.DataFrame, axis: DayArray, numbers: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Positions of a table's rows on the day axis and in the store table."""
    day = frame["Date"].cast(pl.Int32).to_numpy() - int(axis[0])
    return day.astype(np.int64), np.searchsorted(numbers, frame["Store"].to_numpy())


def fill_schedule(
    tables: dict[str, pl.DataFrame],
    axis: DayArray,
    days: int,
    numbers: npt.NDArray[np.int32],
    cube: npt.NDArray[np.uint8],
    country: str = DEFAULT_COUNTRY,
) -> npt.NDArray[np.int16]:
    """Set the flags in a cube (schedule days, stores, N_PLAN) of zeros; returns the regions.

    The region of each store as of the end of each day of history, (days, stores): that of the
    store table, else the one that its holidays so far tell. ``days``: of history. Days without a
    row are filled by rule: the majority of the chain (promotions) or of the region (school
    holidays) on that day, public holidays by calendar, and the store's usual opening by weekday.
    """
    for name in ("history", "schedule"):
        frame = tables[name]
        if frame.height:
            position = row_positions(frame, axis, numbers)
            cube[(*position, OPEN)] = frame["Open"].to_numpy()
            cube[(*position, PROMO)] = frame["Promo"].to_numpy()
            cube[(*position, HOLIDAY)] = frame["StateHoliday"].to_numpy()
            cube[(*position, SCHOOL)] = frame["SchoolHoliday"].to_numpy()
            cube[(*position, KNOWN)] = 1
    known = cube[:, :, KNOWN] > 0
    calendar = public_holidays(axis, country)
    kept = cube[:days, :, HOLIDAY] > 0
    regions, candidates = infer_regions(kept, known[:days], calendar[:, :days])
    _set_given_regions(tables["stores"], country, regions, candidates)
    holiday = shared_holidays(calendar, candidates)
    whole_chain = np.zeros(len(numbers), np.int64)
    promo, promo_known = _majority(cube[:, :, PROMO], known, whole_chain)
    of_region = np.unique(regions[-1], return_inverse=True)[1].reshape(-1)
    school, school_known = _majority(cube[:, :, SCHOOL], known, of_region)
    cube[:, :, SPECIFIED] = known | (promo_known & school_known)
    for column, default in (
        (HOLIDAY, holiday),
        (PROMO, promo),
        (SCHOOL, school),
        (OPEN, _usual_opening(cube, known, axis, days, holiday > 0)),
    ):
        cube[:, :, column] = np.where(known, cube[:, :, column], default)
    return regions


def _set_given_regions(
    stores: pl.DataFrame,
    country: str,
    regions: npt.NDArray[np.int16],
    candidates: npt.NDArray[np.bool_],
) -> None:
    """Put the regions of the store table in place of those that holidays tell."""
    if REGION_COLUMN not in stores.columns:
        return
    codes = {code: index for index, code in enumerate(country_regions(country))}
    for store, code in enumerate(stores[REGION_COLUMN].to_list()):
        if code is not None:
            regions[:, store] = codes[code]
            candidates[:, store] = np.arange(len(candidates)) == codes[code]


def _majority(
    flag: npt.NDArray[np.uint8], known: npt.NDArray[np.bool_], group: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """The majority of each store's group on each day, and whether any store of it is known."""
    member = np.eye(int(group.max(initial=0)) + 1, dtype=np.float32)[group]
    yes = (flag * known).astype(np.float32) @ member
    total = known.astype(np.float32) @ member
    return (2 * yes > total).astype(np.uint8)[:, group], (total > 0)[:, group]


def _usual_opening(
    cube: npt.NDArray[np.uint8],
    known: npt.NDArray[np.bool_],
    axis: DayArray,
    days: int,
    holiday: npt.NDArray[np.bool_],
) -> npt.NDArray[np.uint8]:
    """1 where the store usually opens on that weekday, or on holidays, (schedule days, stores).

    After history by its latest days (``schedule_counts.usual_opening``); in gaps of history by all
    of it, and on holidays by all holidays of history. A new store: as the chain, or but for Sunday.
    """
    weekday = weekday_of(axis)
    is_open = cube[:days, :, OPEN] > 0
    past_holiday = cube[:days, :, HOLIDAY] > 0
    out = np.zeros(known.shape, np.uint8)
    for day_type in range(8):  # seven weekdays, then holidays
        if day_type == 7:
            past, future = past_holiday, holiday
        else:
            past = ~past_holiday & (weekday[:days] == day_type)[:, None]
            future = ~holiday & (weekday == day_type)[:, None]
        total = (past & known[:days]).sum(axis=0)
        opened = (past & known[:days] & is_open).sum(axis=0)
        chain = 2 * opened.sum() > total.sum()
        usual = np.where(total > 0, 2 * opened > total, chain)
        out[future & usual[None, :]] = 1
    first_weekday = int(weekday[0])
    for store in np.flatnonzero(known[:days].any(axis=0)):
        mask = usual_opening(cube, first_weekday, int(store), days - 1)
        by_weekday = np.array([(mask >> day) & 1 for day in range(7)], np.uint8)
        coming = slice(days, None)
        ordinary = by_weekday[weekday[coming]]
        out[coming, store] = np.where(holiday[coming, store], out[coming, store], ordinary)
    return out


def store_kind_codes(frame: pl.DataFrame) -> npt.NDArray[np.int64]:
    """A code for each store's type and assortment (stores,)."""
    codes = frame["StoreType"].to_numpy().astype(np.int64) * len(ASSORTMENTS)
    return np.asarray(codes + frame["Assortment"].to_numpy())


def store_traits(frame: pl.DataFrame, first_day: int) -> npt.NDArray[np.float64]:
    """The fixed traits of stores, (stores, N_STORE)."""
    out = np.empty((frame.height, N_STORE))
    metres = frame["CompetitionDistance"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    out[:, LOG_DISTANCE] = log_distance(metres)
    opened = frame["CompetitionSince"]
    months = (opened.dt.year() - 1970) * 12 + opened.dt.month() - 1
    out[:, COMPETITION_MONTH] = months.cast(pl.Float64).fill_null(float("nan"))
    out[:, ASSORTMENT] = frame["Assortment"].to_numpy()
    since = frame["Promo2Since"].cast(pl.Int32).cast(pl.Float64) - first_day
    out[:, PROMO2_SINCE] = since.fill_null(float("nan")).to_numpy()
    out[:, PROMO2_MONTHS] = frame["Promo2"].to_numpy() * frame["PromoMonths"].to_numpy()
    return out
