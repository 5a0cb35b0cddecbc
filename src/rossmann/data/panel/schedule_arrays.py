"""What is known ahead, as arrays: each store's plan for each day, and its fixed traits."""

import numpy as np
import numpy.typing as npt
import polars as pl

from rossmann.features import build_features as competition
from rossmann.features import calendars
from rossmann.features import schedule_counts as plan
from rossmann.schema import ASSORTMENTS, DayArray


def row_positions(
    frame: pl.DataFrame, axis: DayArray, numbers: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Places of a table's rows on the day axis and in the store table."""
    day = frame["Date"].cast(pl.Int32).to_numpy() - int(axis[0])
    return day.astype(np.int64), np.searchsorted(numbers, frame["Store"].to_numpy())


def fill_schedule(
    tables: dict[str, pl.DataFrame],
    axis: DayArray,
    days: int,
    numbers: npt.NDArray[np.int32],
    cube: npt.NDArray[np.uint8],
) -> npt.NDArray[np.int64]:
    """Set the flags in a plan cube (days, stores, N_PLAN) of zeros; returns the stores' regions.

    Days without a plan are filled by rule: what the chain (promotions) or the region (school
    holidays) does on that day where anyone's plan says, public holidays by calendar, and the
    store's usual opening by weekday.
    """
    for name in ("history", "schedule"):
        frame = tables[name]
        if frame.height:
            at = row_positions(frame, axis, numbers)
            cube[(*at, plan.OPEN)] = frame["Open"].to_numpy()
            cube[(*at, plan.PROMO)] = frame["Promo"].to_numpy()
            cube[(*at, plan.HOLIDAY)] = frame["StateHoliday"].to_numpy()
            cube[(*at, plan.SCHOOL)] = frame["SchoolHoliday"].to_numpy()
            cube[(*at, plan.KNOWN)] = 1
    known = cube[:, :, plan.KNOWN] > 0
    kinds = calendars.public_holidays(axis)
    regions = calendars.infer_regions(cube[:, :, plan.HOLIDAY] > 0, known, kinds)
    gaps = ~known
    holiday = kinds[regions].T
    everyone = np.zeros(len(numbers), np.int64)
    promo, promo_said = _majority(cube[:, :, plan.PROMO], known, everyone)
    school, school_said = _majority(cube[:, :, plan.SCHOOL], known, regions)
    cube[:, :, plan.SAID] = known | (promo_said & school_said)
    for column, filler in (
        (plan.HOLIDAY, holiday),
        (plan.PROMO, promo),
        (plan.SCHOOL, school),
        (plan.OPEN, _usual_opening(cube, known, axis, days, holiday > 0)),
    ):
        cube[:, :, column] = np.where(gaps, filler, cube[:, :, column])
    return regions


def _majority(
    flag: npt.NDArray[np.uint8], known: npt.NDArray[np.bool_], group: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """What most stores of the same group have on each day, and whether any plan says."""
    member = np.eye(int(group.max(initial=0)) + 1, dtype=np.float32)[group]
    ayes = (flag * known).astype(np.float32) @ member
    votes = known.astype(np.float32) @ member
    return (2 * ayes > votes).astype(np.uint8)[:, group], (votes > 0)[:, group]


def _usual_opening(
    cube: npt.NDArray[np.uint8],
    known: npt.NDArray[np.bool_],
    axis: DayArray,
    days: int,
    holiday: npt.NDArray[np.bool_],
) -> npt.NDArray[np.uint8]:
    """Open where the store mostly is on that weekday (or holiday); the chain's habit if new."""
    weekday = (axis + 3) % 7
    opened = cube[:days, :, plan.OPEN] > 0
    kept = cube[:days, :, plan.HOLIDAY] > 0
    out = np.zeros(known.shape, np.uint8)
    for slot in range(8):  # seven weekdays, then holidays
        here = kept if slot == 7 else ~kept & (weekday[:days] == slot)[:, None]
        votes = (here & known[:days]).sum(axis=0)
        ayes = (here & known[:days] & opened).sum(axis=0)
        chain = 2 * ayes.sum() > votes.sum()
        usual = np.where(votes > 0, 2 * ayes > votes, chain)
        where = holiday if slot == 7 else ~holiday & (weekday == slot)[:, None]
        out[where & usual[None, :]] = 1
    return out


def store_kind_codes(frame: pl.DataFrame) -> npt.NDArray[np.int64]:
    """Each store's kind (stores,): its type and assortment."""
    kinds = frame["StoreType"].to_numpy().astype(np.int64) * len(ASSORTMENTS)
    return np.asarray(kinds + frame["Assortment"].to_numpy())


def store_traits(
    frame: pl.DataFrame, regions: npt.NDArray[np.int64], first_day: int
) -> npt.NDArray[np.float64]:
    """The fixed traits of stores, (stores, N_STORE)."""
    out = np.empty((frame.height, competition.N_STORE))
    metres = frame["CompetitionDistance"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    out[:, competition.LOG_DISTANCE] = competition.log_distance(metres)
    opened = frame["CompetitionSince"]
    months = (opened.dt.year() - 1970) * 12 + opened.dt.month() - 1
    out[:, competition.COMPETITION_MONTH] = months.cast(pl.Float64).fill_null(float("nan"))
    out[:, competition.ASSORTMENT] = frame["Assortment"].to_numpy()
    out[:, competition.REGION] = regions
    since = frame["Promo2Since"].cast(pl.Int32).cast(pl.Float64) - first_day
    out[:, competition.PROMO2_SINCE] = since.fill_null(float("nan")).to_numpy()
    runs = frame["Promo2"].to_numpy() * frame["PromoMonths"].to_numpy()
    out[:, competition.PROMO2_MONTHS] = runs
    return out
