"""Calendar columns of dates, regressors of the filters, public holidays of a country's regions."""

import re
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
from dateutil.easter import easter

from rossmann.epoch_days import to_date, to_day
from rossmann.errors import SettingsError
from rossmann.schema import DEFAULT_COUNTRY, DayArray, FloatArray

if TYPE_CHECKING:
    from holidays import HolidayBase

# Columns of ``date_table``.
WEEKDAY, DAY_OF_MONTH, DAY_OF_YEAR, WORKING_DAYS_LEFT = range(4)
EASTER, CHRISTMAS, MONTH, MONTH_INDEX = range(4, 8)
# Columns of ``date_regressors``.
RAMP, HARMONICS, TREND = 0, 1, 7

_GERMAN_CATEGORIES: Final = ("public", "catholic")
"""Categories of the ``holidays`` package that the real tables flag. The second holds days kept
only in a state's catholic towns; with both, each store agrees with its state on all days."""
_CODE: Final = re.compile(r"[A-Z0-9]{1,3}")


def country_regions(country: str) -> tuple[str, ...]:
    """Codes (ISO 3166-2) of the country's regions that have holidays of their own to tell.

    A region is an index into them; one without a code stands for a country without any. Raises
    ``SettingsError`` for a country that the ``holidays`` package does not know.
    """
    codes = _holidays(country).subdivisions
    return tuple(sorted(code for code in codes if _CODE.fullmatch(code))) or ("",)


def _holidays(
    country: str,
    years: range = range(0),
    region: str = "",
    categories: tuple[str, ...] = ("public",),
) -> "HolidayBase":
    """The country's holidays, or a region's; raises ``SettingsError`` for an unknown country."""
    import holidays

    if country not in holidays.list_supported_countries(include_aliases=False):
        raise SettingsError(
            f"country {country!r} is not known: give its code of two letters (ISO 3166), as DE"
        )
    return holidays.country_holidays(
        country, subdiv=region or None, years=years, categories=categories
    )


def date_table(days: DayArray, country: str = DEFAULT_COUNTRY) -> npt.NDArray[np.int16]:
    """Calendar columns for ``days`` (t,) as an array (t, 8); see the column names above."""
    stamps = days.astype("datetime64[D]")
    months = stamps.astype("datetime64[M]")
    years = stamps.astype("datetime64[Y]")
    month_index = months.astype(np.int64)
    out = np.empty((len(days), 8), np.int16)
    out[:, WEEKDAY] = (days + 3) % 7 + 1  # 1970-01-01 was a Thursday
    out[:, DAY_OF_MONTH] = (stamps - months.astype("datetime64[D]")).astype(np.int64) + 1
    out[:, DAY_OF_YEAR] = (stamps - years.astype("datetime64[D]")).astype(np.int64) + 1
    out[:, WORKING_DAYS_LEFT] = _working_days_left(stamps, country)
    out[:, EASTER] = _days_from_easter(days, years.astype(np.int64) + 1970)
    christmas = years.astype("datetime64[M]") + 11
    days_left = (christmas.astype("datetime64[D]") - stamps).astype(np.int64) + 24
    out[:, CHRISTMAS] = np.where(days_left < 0, 60, np.minimum(days_left, 60))
    out[:, MONTH] = month_index % 12 + 1
    out[:, MONTH_INDEX] = month_index
    return out


def _working_days_left(stamps: npt.NDArray[np.datetime64], country: str) -> npt.NDArray[np.int64]:
    """Working days after each day in its month: Monday to Friday, no holiday of all the country.

    Wages are paid on the last of them: where a month ends on a weekend, people shop on that day.
    """
    months = stamps.astype("datetime64[M]")
    first = months.min().astype("datetime64[D]")
    axis = np.arange(first, (months.max() + 1).astype("datetime64[D]"))
    years = range(int(axis[0].astype(object).year), int(axis[-1].astype(object).year) + 1)
    public = np.array(sorted(_holidays(country, years)), "datetime64[D]")
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
    table = date_table(days)  # the columns used here are those of any country
    december = (table[:, MONTH] == 12) & (table[:, DAY_OF_MONTH] <= 23)
    out = np.empty((len(days), 8))
    out[:, RAMP] = np.where(december, table[:, DAY_OF_MONTH] / 23.0, 0.0)
    angle = 2 * np.pi * table[:, DAY_OF_YEAR] / 365.25
    for k in (1, 2, 3):
        out[:, HARMONICS + 2 * k - 2] = np.sin(k * angle)
        out[:, HARMONICS + 2 * k - 1] = np.cos(k * angle)
    out[:, TREND] = (days - first_day) / 365.25
    return out


def public_holidays(days: DayArray, country: str = DEFAULT_COUNTRY) -> npt.NDArray[np.uint8]:
    """State-holiday codes by region of the country and day, an array (regions, t).

    1 public, 2 Easter (Good Friday to Easter Monday), 3 Christmas (25 and 26 December): the
    raw tables' categories a, b and c. Dates come from the ``holidays`` package.
    """
    dates = [to_date(day) for day in days]
    years = range(dates[0].year, dates[-1].year + 1)
    regions = country_regions(country)
    out = np.zeros((len(regions), len(days)), np.uint8)
    categories = _GERMAN_CATEGORIES if country == "DE" else ("public",)
    near_easter = np.isin(_days_from_easter(days, np.array([d.year for d in dates])), (-2, 0, 1))
    for i, region in enumerate(regions):
        kept = _holidays(country, years, region, categories)
        for j, when in enumerate(dates):
            if when in kept:
                christmas = when.month == 12 and when.day in (25, 26)
                out[i, j] = 3 if christmas else 2 if near_easter[j] else 1
    return out


def infer_regions(
    kept: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_], table: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_]]:
    """The region whose holidays fit each store's best, as of the end of each day (t, stores).

    ``kept`` and ``known`` are (t, stores): a holiday was kept, the day is in the tables.
    ``table`` is (regions, t). Where several fit equally well, no holiday so far tells which: the
    region is unknown, and -1 less the first of them. The second array, (regions, stores), has all
    that fit equally well on the last day.
    """
    regions, days = table.shape
    holiday: npt.NDArray[np.bool_] = np.asarray(table > 0)
    mismatches = np.zeros((regions, kept.shape[1]), np.int32)
    out = np.empty(kept.shape, np.int16)
    best, region = _best_regions(mismatches)
    telling: npt.NDArray[np.bool_] = np.asarray(holiday.any(axis=0) & ~holiday.all(axis=0))
    for t in range(days):
        if telling[t]:
            mismatches += known[t] & (holiday[:, t, None] != kept[t])
            best, region = _best_regions(mismatches)
        out[t] = region
    return out, best


def _best_regions(
    mismatches: npt.NDArray[np.int32],
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int16]]:
    """Which regions fit each store best, (regions, stores), and its region, (stores,)."""
    best = np.asarray(mismatches == mismatches.min(axis=0))
    first = best.argmax(axis=0)
    return best, np.where(best.sum(axis=0) == 1, first, -1 - first).astype(np.int16)


def shared_holidays(
    table: npt.NDArray[np.uint8], candidates: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint8]:
    """The holidays (t, stores) that all of a store's ``candidates`` (regions, stores) have.

    With one candidate: all of its holidays.
    """
    out = np.empty((table.shape[1], candidates.shape[1]), np.uint8)
    patterns, index = np.unique(candidates, axis=1, return_inverse=True)
    for number in range(patterns.shape[1]):
        rows = table[patterns[:, number]]
        code = np.where((rows > 0).all(axis=0), rows[0], 0)
        out[:, index.reshape(-1) == number] = code[:, None]
    return out
