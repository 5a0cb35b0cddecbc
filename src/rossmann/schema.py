"""Columns, categories and the 46 features: every name that two modules share stands here once."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

MODEL_NAME: Final = "rossmann-ensemble"
MAX_HORIZON: Final = 48
"""Longest horizon that the model is trained for, in days: the length of Kaggle's ``test.csv``."""

ROW_FIELDS: Final = ("Store", "DayOfWeek", "Date", "Open", "Promo", "StateHoliday", "SchoolHoliday")
STATE_HOLIDAYS: Final = ("0", "a", "b", "c")
"""None, public holiday, Easter, Christmas: the code of a category is its place here."""
STORE_TYPES: Final = ("a", "b", "c", "d")
ASSORTMENTS: Final = ("a", "b", "c")
MONTH_NAMES: Final = (
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sept", "Oct", "Nov", "Dec",
)  # fmt: skip
"""As ``PromoInterval`` spells them (the raw table says Sept)."""

Objective = Literal["accuracy", "unbiased"]
"""What a forecast is made for: a small percentage error of each day, or totals without bias."""
OBJECTIVES: Final[tuple[Objective, ...]] = ("accuracy", "unbiased")

DayArray = npt.NDArray[np.int32]
FlagArray = npt.NDArray[np.uint8]
FeatureMatrix = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]


class Stage(StrEnum):
    """A version's place in the registry, in the words that users know."""

    NONE = "None"
    STAGING = "Staging"
    PRODUCTION = "Production"
    ARCHIVED = "Archived"


class Dataset(StrEnum):
    """Which chain the tables describe."""

    REAL = "rossmann"
    DEMO = "demo"


@dataclass(frozen=True, slots=True)
class StoreDays:
    """n rows of the seven fields as columns; ``DayOfWeek`` is left out because the date decides it.

    ``store``: store numbers. ``day``: days since 1970-01-01. ``open``, ``promo``,
    ``school_holiday``: 0 or 1. ``state_holiday``: place in ``STATE_HOLIDAYS``. Each of shape (n,).
    """

    store: DayArray
    day: DayArray
    open: FlagArray
    promo: FlagArray
    state_holiday: FlagArray
    school_holiday: FlagArray

    def __len__(self) -> int:
        return len(self.store)

    @classmethod
    def concat(cls, parts: Sequence["StoreDays"]) -> "StoreDays":
        """Rows of several, one after the other."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS))

    def duplicates(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The rows whose store and day an earlier row has, and the first row of each, (d,) each."""
        keys = self.store.astype(np.int64) << 32 | self.day.astype(np.uint32)
        _, first, key = np.unique(keys, return_index=True, return_inverse=True)
        first_row = first[key]
        rows = np.flatnonzero(first_row != np.arange(len(keys)))
        return rows, first_row[rows]

    def take(self, index: npt.NDArray[np.integer] | slice) -> "StoreDays":
        """The rows at ``index``, in its order."""
        return StoreDays(
            self.store[index],
            self.day[index],
            self.open[index],
            self.promo[index],
            self.state_holiday[index],
            self.school_holiday[index],
        )


_COLUMNS: Final = tuple(field.name for field in fields(StoreDays))


@dataclass(frozen=True, slots=True)
class Feature:
    """One column of the matrix: its name, its group, and what it means."""

    name: str
    group: str
    note: str


def _group(group: str, *pairs: tuple[str, str]) -> tuple[Feature, ...]:
    return tuple(Feature(name, group, note) for name, note in pairs)


# O is the origin, D the row's date; "same kind" means same weekday and same promotion as the row.
# History is on the scale of log sales, and all levels are less ``kfb`` (the offset), so that a
# tree sees deviations from what the filter already knows. What looks at promotions or school
# holidays around D is NaN where no plan says them.
FEATURE_CATALOGUE: Final[tuple[Feature, ...]] = (
    *_group(
        "calendar",
        ("day_of_week", "1 (Monday) to 7"),
        ("day_of_month", "1 to 31"),
        ("working_days_left_in_month", "0 from the last working day on: when wages come"),
        ("days_from_easter", "D less the nearest Easter Sunday, -60 to 90"),
        ("days_to_christmas", "days until 25 December, at most 60"),
    ),
    *_group(
        "promo",
        ("promo_lift", "what a promotion adds at this store, as the base filter knows it"),
        ("promo", "1 where the store runs a promotion on D"),
        ("days_since_promo", "days since the last promotion day before D, at most 14, if planned"),
        ("days_to_promo", "days until the next promotion day after D, at most 14, if planned"),
        ("promo_days_left", "promotion days in a row from D on, at most 7, if planned"),
        ("promo2_phase", "months into the Promo2 round (0 to 2), -1 where it does not run"),
    ),
    *_group(
        "holiday",
        ("state_holiday", "0 none, 1 public, 2 Easter, 3 Christmas"),
        ("days_since_holiday", "days since a state holiday last shut the store, at most 30"),
        ("days_to_holiday", "days until a state holiday next shuts the store, at most 30"),
        ("holidays_next_week", "state holidays that shut the store on D+1 to D+7"),
    ),
    *_group(
        "school",
        ("days_since_school_holiday", "days since the last one, 0 on one, at most 60, if planned"),
        ("days_to_school_holiday", "days until the next one after D, at most 60, if planned"),
        ("school_holidays_this_week", "school holidays, Monday to Sunday of D's week, if planned"),
    ),
    *_group(
        "opening",
        ("closed_days_before", "closed days in a row just before D, at most 30"),
        ("closed_days_after", "closed days in a row just after D, at most 30"),
        ("days_since_long_closure", "days since a closure of 6 days or more, at most 200"),
        ("open_days_before", "open days on D-14 to D-1"),
    ),
    *_group(
        "store",
        ("log_competition_distance", "log of metres to the nearest competitor"),
        ("months_since_competition", "months since it opened, -24 to 120"),
        ("assortment", "0 basic, 1 extra, 2 extended"),
        ("region", "state whose public holidays it keeps, as a number; below 0 where several fit"),
    ),
    *_group("horizon", ("horizon", "D less O in days")),
    *_group(
        "history",
        ("mean_weekday_91", "mean of the same weekday, 13 weeks to O"),
        ("mean_promo_28", "mean of days with the same promotion, 28 days to O"),
        ("mean_same_182", "mean of the same kind, 26 weeks to O"),
        ("mean_same_364", "mean of the same kind, 52 weeks to O"),
        ("median_same_364", "median of the same kind, 52 weeks to O"),
        ("sd_same_364", "standard deviation of the same kind, 52 weeks to O"),
        ("count_same_364", "days of the same kind with sales, 52 weeks to O"),
        ("open_days_365", "days with sales, 365 days to O"),
        ("log_sales_per_customer_365", "mean log of sales per customer, 365 days to O"),
        ("log_customers_same_364", "mean log of customers, same kind, 52 weeks to O"),
        ("last_year_day", "D-364"),
        ("last_year_same", "mean of the same kind, D-364 give or take 3 weeks"),
        ("last_year_change", "mean of D-364 give or take a week, less that of 56 days to O-364"),
    ),
    *_group(
        "state_space",
        ("kfa", "forecast of the filter whose level moves fast"),
        ("kfc", "forecast of the filter with yearly harmonics"),
        ("kfd", "forecast of the filter with harmonics and trend"),
        ("last_year_error", "mean error of kfb, made at O-364 for D-364 give or take a week"),
        ("last_year_error_chain", "the same over the chain: median by date, give or take 3 days"),
        ("kfb", "log-sales forecast of the base filter: the offset of every member"),
    ),
)
FEATURES: Final[tuple[str, ...]] = tuple(feature.name for feature in FEATURE_CATALOGUE)
OFFSET_COLUMN: Final = FEATURES.index("kfb")


def feature_fingerprint() -> str:
    """Digest of the feature list; a version made for another list is refused on load."""
    text = "\n".join(f"{f.name}: {f.note}" for f in FEATURE_CATALOGUE)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


DEFAULT_COUNTRY: Final = "DE"
"""Country whose holidays and working days hold, unless the settings name another (ISO 3166)."""
REGION_COLUMN: Final = "State"
"""Column of the store table with a store's region, which may be left out."""

BEYOND_HORIZON: Final = 1
"""Days beyond the longest horizon that members learned."""
SHORT_HISTORY: Final = 2
"""Stores with few days of sales."""
RECENTLY_IDLE: Final = 4
"""Stores that sold on few days of late."""
NO_SCHEDULE: Final = 8
"""Days without a schedule."""
IN_TRAINING: Final = 16
"""Open days that the version learned from."""
RARE_SEASON: Final = 32
"""Open days of a season that the version's backtest saw in one year at most."""


ProgressReporter = Callable[[str], None]
