"""Row warnings: what a forecast should be taken with care for, and every text that says so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from rossmann.epoch_days import format_iso_day, parse_iso_day
from rossmann.features.calendars import EASTER
from rossmann.models.ensemble.residual_scale import EVENT_SEASONS, event_season
from rossmann.schema import (
    BEYOND_HORIZON,
    IN_TRAINING,
    MAX_HORIZON,
    NO_SCHEDULE,
    RARE_SEASON,
    RECENTLY_IDLE,
    SHORT_HISTORY,
    StoreDays,
)

if TYPE_CHECKING:
    from rossmann.data.panel.panel import Panel

WarningMasks = list[tuple[str, str, npt.NDArray[np.bool_]]]
"""For each warning its type, its text, and which of n rows it concerns, (n,)."""
WarningFlags = npt.NDArray[np.uint8]
"""The warnings of each row as bits of ``schema``, (n,)."""

IntegerArray = npt.NDArray[np.integer[Any]]

MAX_EXAMPLE_ROWS: Final = 10
"""Rows that a warning names; its count says how many there are."""


class WarningType(NamedTuple):
    """What a warning of one type means, and what the reader of the forecast can do."""

    meaning: str
    action: str


WARNING_TYPES: Final[dict[str, WarningType]] = {
    "horizon": WarningType(
        f"The day is more than {MAX_HORIZON} days after the origin, beyond what the model is"
        " trained for",
        "Take the forecast as rough; ingest newer sales days",
    ),
    "short_history": WarningType(
        "The store has few days of sales, so it is forecast from what stores have in common",
        "Expect a larger error until the store has more history",
    ),
    "reopened": WarningType(
        "The store had no sales of late, so it is forecast from what it sold before",
        "Check whether the store sells as it did before",
    ),
    "no_schedule": WarningType(
        "No schedule covers the day: promotions and school holidays around it count as unknown",
        "Ingest a schedule of these days",
    ),
    "in_training": WarningType(
        "The version that answers learned from this open day",
        "Do not use the forecast as evidence of accuracy; the backtest measures it",
    ),
    "rare_season": WarningType(
        "The version's backtest saw this season (1 December to 5 January, or Easter week) in one"
        " year at most",
        "Take forecast and interval as rough",
    ),
    "day_of_week": WarningType(
        "DayOfWeek contradicts Date: the Date decides", "Correct the row's DayOfWeek"
    ),
    "open_unsaid": WarningType(
        "Open is empty in a file's row: it counts as 1, but as 0 on Sundays and state holidays",
        "Fill in Open",
    ),
    "experiment": WarningType(
        "Totals are of one version: Production also answered stores of the challenger",
        "Ask without totals to get the challenger's rows",
    ),
}
"""By type, as ``warnings[].type`` of a response has it."""

_WEEKDAY_MISMATCH: Final = ("day_of_week", "DayOfWeek contradicts Date: the Date decides")
_OPEN_MISSING: Final = (
    "open_unsaid",
    "rows that do not say whether the store opens are taken as open, but for Sundays and"
    " state holidays",
)
_SINGLE_VERSION: Final = (
    "experiment",
    "totals are of one version: Production answered the rows of stores that a challenger answers"
    " elsewhere",
)
_IN_TRAINING_TEXT: Final = (
    "the model version that answers learned from these days, so its forecasts of them are no"
    " evidence of accuracy: the backtest measures it"
)
_RARE_SEASON_TEXT: Final = (
    "the backtest of the model version that answers saw this season (1 December to 5 January, or"
    " Easter week) in one year at most: take forecasts and intervals of these days as rough"
)
_MIN_SEASONS: Final = 2
"""Years in which a season must have been seen, so that its errors are more than one case."""


class TrainingSpan(NamedTuple):
    """First and last day that a version's final fit learned from, as epoch days."""

    first: int
    last: int


NO_TRAINING: Final = TrainingSpan(0, -1)
"""The span of a version that learned from no day of the chain that it forecasts."""


def training_span(card: Mapping[str, Any], dataset: str) -> TrainingSpan:
    """The span by a version's card; ``NO_TRAINING`` where it learned from another chain."""
    data = card.get("data", {})
    first, last = (parse_iso_day(str(data.get(name))) for name in ("first_day", "last_day"))
    if first is None or last is None or data.get("dataset") != dataset:
        return NO_TRAINING
    return TrainingSpan(first, last)


def rare_season_days(card: Mapping[str, Any], panel: "Panel") -> WarningFlags:
    """``RARE_SEASON`` on such days, else 0: by day from the panel's first, (days,).

    No day has it where the card, of an earlier release, does not count seasons.
    """
    counts = card.get("intervals", {}).get("seasons", {})
    years = [counts.get(name, _MIN_SEASONS) for name in EVENT_SEASONS]
    rare = [index for index, count in enumerate(years) if count < _MIN_SEASONS]
    table = panel.arrays.table
    day = panel.first_day + np.arange(len(table))
    is_rare = np.isin(event_season(day, table[:, EASTER]), rare)
    return np.where(is_rare, RARE_SEASON, 0).astype(np.uint8)


def is_in_training(
    day: IntegerArray, is_open: IntegerArray, first: int | IntegerArray, last: int | IntegerArray
) -> npt.NDArray[np.bool_]:
    """Which rows (n,) are of days that the version learned from, ``first`` to ``last``.

    Closed rows are not: their forecast is 0 by rule.
    """
    return np.asarray((day >= first) & (day <= last) & (is_open > 0))


@dataclass(frozen=True, slots=True)
class RowWarning:
    """A warning: its type, its text, how many rows it concerns, and the first of them."""

    type: str
    msg: str
    count: int
    rows: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """The fields of ``schemas.forecasts.WarningMessage``."""
        return {"type": self.type, "msg": self.msg, "count": self.count, "rows": self.rows}


def row_warning(name: str, msg: str, rows: npt.NDArray[np.integer[Any]]) -> RowWarning:
    """A warning about ``rows`` (their numbers)."""
    return RowWarning(name, msg, len(rows), tuple(rows[:MAX_EXAMPLE_ROWS].tolist()))


def weekday_warnings(rows: Sequence[int]) -> list[RowWarning]:
    """The warning about ``rows`` whose DayOfWeek contradicts their Date; empty without any."""
    return [row_warning(*_WEEKDAY_MISMATCH, np.asarray(rows))] if rows else []


def single_version_warnings(rows: npt.NDArray[np.int64]) -> list[RowWarning]:
    """The warning that totals keep a challenger from answering ``rows``; empty without any."""
    return [row_warning(*_SINGLE_VERSION, rows)] if len(rows) else []


def input_warnings(
    weekday_mismatch: npt.NDArray[np.bool_], open_missing: npt.NDArray[np.bool_]
) -> WarningMasks:
    """Warnings about what rows of a file say themselves; masks (n,)."""
    masks: WarningMasks = [(*_WEEKDAY_MISMATCH, weekday_mismatch), (*_OPEN_MISSING, open_missing)]
    return [warning for warning in masks if warning[2].any()]


def find_warnings(
    panel: "Panel", rows: StoreDays, origin: int, flags: WarningFlags, short_history: int
) -> WarningMasks:
    """The warnings that ``flags`` (n,) of ``Forecaster.warning_flags`` hold, in words.

    ``short_history``: stores with fewer days of sales get the warning of that name.
    """
    present = int(np.bitwise_or.reduce(flags))
    if not present:
        return []
    day = format_iso_day(origin)
    warnings: WarningMasks = []
    if present & BEYOND_HORIZON:
        msg = (
            f"days more than {MAX_HORIZON} after {day} lie beyond what the model "
            "is trained for: take them as rough"
        )
        warnings.append(("horizon", msg, flags & BEYOND_HORIZON > 0))
    if present & SHORT_HISTORY:
        msg = (
            f"stores with less than {short_history} days of sales up to {day} "
            "are forecast from what stores have in common"
        )
        warnings.append(("short_history", msg, flags & SHORT_HISTORY > 0))
    if present & RECENTLY_IDLE:
        idle = panel.idle_days(panel.store_indices(rows.store), origin, short_history)
        if idle.any():
            msg = (
                f"stores that had no sales for up to {idle.max()} days, until {day} or "
                "shortly before, are forecast from what they sold before that"
            )
            warnings.append(("reopened", msg, idle > 0))
    if present & NO_SCHEDULE:
        msg = (
            "days without a schedule: the promotions and school holidays around them are "
            "taken as not known, opening as usual; with a schedule the forecast is better"
        )
        warnings.append(("no_schedule", msg, flags & NO_SCHEDULE > 0))
    if present & IN_TRAINING:
        warnings.append(("in_training", _IN_TRAINING_TEXT, flags & IN_TRAINING > 0))
    if present & RARE_SEASON:
        warnings.append(("rare_season", _RARE_SEASON_TEXT, flags & RARE_SEASON > 0))
    return warnings
