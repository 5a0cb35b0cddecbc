"""Calendar columns of dates, regressors of the filters, public holidays of the German states."""

from typing import Final

import numpy as np
import numpy.typing as npt
from dateutil.easter import easter

from rossmann.epoch_days import to_date, to_day
from rossmann.schema import DayArray, FloatArray

GERMAN_STATES: Final = (
    "BB", "BE", "BW", "BY", "HB", "HE", "HH", "MV", "NI", "NW", "RP", "SH", "SL", "SN", "ST", "TH",
)  # fmt: skip
"""ISO 3166-2 codes; a region is an index into this tuple."""

# Columns of ``date_table``.
WEEKDAY, DAY_OF_MONTH, DAY_OF_YEAR, WORKING_DAYS_LEFT = range(4)
EASTER, CHRISTMAS, MONTH, MONTH_INDEX = range(4, 8)
# Columns of ``date_regressors``.
RAMP, HARMONICS, TREND = 0, 1, 7

_CATEGORIES: Final = ("public", "catholic")
"""Categories of the ``holidays`` package that the real tables flag. The second holds days kept
only in a state's catholic towns; with both, each store agrees with its state on all days."""


def date_table(days: DayArray) -> npt.NDArray[np.int16]:
    """Calendar columns for ``days`` (t,) as an array (t, 8); see the column names above."""
    stamps = days.astype("datetime64[D]")
    months = stamps.astype("datetime64[M]")
    years = stamps.astype("datetime64[Y]")
    month_index = months.astype(np.int64)
    out = np.empty((len(days), 8), np.int16)
    out[:, WEEKDAY] = (days + 3) % 7 + 1  # 1970-01-01 was a Thursday
    out[:, DAY_OF_MONTH] = (stamps - months.astype("datetime64[D]")).astype(np.int64) + 1
    out[:, DAY_OF_YEAR] = (stamps - years.astype("datetime64[D]")).astype(np.int64) + 1
    out[:, WORKING_DAYS_LEFT] = _working_days_left(stamps)
    out[:, EASTER] = _days_from_easter(days, years.astype(np.int64) + 1970)
    christmas = years.astype("datetime64[M]") + 11
    days_left = (christmas.astype("datetime64[D]") - stamps).astype(np.int64) + 24
    out[:, CHRISTMAS] = np.where(days_left < 0, 60, np.minimum(days_left, 60))
    out[:, MONTH] = month_index % 12 + 1
    out[:, MONTH_INDEX] = month_index
    return out


def _working_days_left(stamps: npt.NDArray[np.datetime64]) -> npt.NDArray[np.int64]:
    """Working days after each day in its month: Monday to Friday, no holiday of all Germany.

    Wages are paid on the last of them: where a month ends on a weekend, people shop on that day.
    """
    import holidays

    months = stamps.astype("datetime64[M]")
    first = months.min().astype("datetime64[D]")
    axis = np.arange(first, (months.max() + 1).astype("datetime64[D]"))
    years = range(int(axis[0].astype(object).year), int(axis[-1].astype(object).year) + 1)
    public = np.array(sorted(holidays.country_holidays("DE", years=years)), "datetime64[D]")
    worked = np.concatenate([[0], np.cumsum(np.is_busday(axis, holidays=public))])
    ends = ((months + 1).astype("datetime64[D]") - first).astype(np.int64)
    return np.asarray(worked[ends] - worked[(stamps - first).astype(np.int64) + 1], np.int64)


def _days_from_easter(days: DayArray, years: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Distance to the nearest Easter Sunday, kept within -60 to 90."""
    low, high = int(years.min()) - 1, int(years.max()) + 1
    sundays = np.array([to_day(easter(year)) for year in range(low, high + 1)])
    distance = days[:, None] - sundays[None, :]
    nearest = distance[np.arange(len(days)), np.abs(distance).argmin(axis=1)]
    return np.asarray(np.clip(nearest, -60, 90), np.int64)


def date_regressors(days: DayArray, first_day: int) -> FloatArray:
    """The part of a filter's design vector that depends on the date alone, as an array (t, 8).

    A ramp over 1 to 23 December, sine and cosine of three yearly harmonics, years since the
    first day of history.
    """
    table = date_table(days)
    december = (table[:, MONTH] == 12) & (table[:, DAY_OF_MONTH] <= 23)
    out = np.empty((len(days), 8))
    out[:, RAMP] = np.where(december, table[:, DAY_OF_MONTH] / 23.0, 0.0)
    angle = 2 * np.pi * table[:, DAY_OF_YEAR] / 365.25
    for k in (1, 2, 3):
        out[:, HARMONICS + 2 * k - 2] = np.sin(k * angle)
        out[:, HARMONICS + 2 * k - 1] = np.cos(k * angle)
    out[:, TREND] = (days - first_day) / 365.25
    return out


def public_holidays(days: DayArray) -> npt.NDArray[np.uint8]:
    """State-holiday codes by German state and day, an array (states, t).

    1 public, 2 Easter (Good Friday to Easter Monday), 3 Christmas (25 and 26 December): the
    raw tables' categories a, b and c. Dates come from the ``holidays`` package.
    """
    import holidays

    dates = [to_date(day) for day in days]
    years = range(dates[0].year, dates[-1].year + 1)
    out = np.zeros((len(GERMAN_STATES), len(days)), np.uint8)
    near_easter = np.isin(_days_from_easter(days, np.array([d.year for d in dates])), (-2, 0, 1))
    for i, state in enumerate(GERMAN_STATES):
        kept = holidays.country_holidays("DE", subdiv=state, years=years, categories=_CATEGORIES)
        for j, when in enumerate(dates):
            if when in kept:
                christmas = when.month == 12 and when.day in (25, 26)
                out[i, j] = 3 if christmas else 2 if near_easter[j] else 1
    return out


def infer_regions(
    kept: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_], table: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int64]:
    """The state whose holidays fit each store's best; ties go to the first.

    ``kept`` and ``known`` are (t, stores): a holiday was kept, the day is in the tables.
    ``table`` is (states, t). Returns (stores,) indices into ``GERMAN_STATES``.
    """
    holiday = (table > 0).astype(np.float32)
    both = holiday @ (kept & known).astype(np.float32)
    expected = holiday @ known.astype(np.float32)
    mismatches = expected - 2 * both  # plus the store's own count, the same for every state
    return np.asarray(mismatches.argmin(axis=0), np.int64)
