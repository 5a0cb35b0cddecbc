"""Details of the 46 features for their reader: the columns they come from, days, unit, an example.

Names, groups and meanings are in ``schema.FEATURE_CATALOGUE``. O is the origin, D the row's date.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class FeatureDetails:
    """``source``: columns of the tables. ``window``: the days read. ``example``: a value."""

    source: str
    window: str
    unit: str
    example: float


EXAMPLE_CHAIN: Final = "rossmann data demo --seed 7 --stores 40 --days 620"
"""The command that writes the tables of the examples."""
EXAMPLE_STORE: Final = 10
EXAMPLE_DATE: Final = "2015-08-10"
EXAMPLE_ORIGIN: Final = "2015-07-31"

_DATE: Final = "Date"
_SALES: Final = "Sales"
_SALES_BY_PROMO: Final = "Sales, Promo"
_HOLIDAYS: Final = "StateHoliday, Open"
_SCHOOL: Final = "SchoolHoliday"
_FILTER: Final = "Sales and the row fields"
_ALL_TO_ORIGIN: Final = "all days to O"
_LOG: Final = "log"
_LESS_OFFSET: Final = "log, less kfb"
_DAYS_30: Final = "days, 1 to 30"

FEATURE_DETAILS: Final[dict[str, FeatureDetails]] = {
    "day_of_week": FeatureDetails(_DATE, "D", "1 to 7", 1),
    "day_of_month": FeatureDetails(_DATE, "D", "1 to 31", 10),
    "working_days_left_in_month": FeatureDetails(
        "Date, setting country", "D to the month's end", "days, 0 to 22", 15
    ),
    "days_from_easter": FeatureDetails(_DATE, "D", "days, -60 to 90", 90),
    "days_to_christmas": FeatureDetails(_DATE, "D", "days, 0 to 60", 60),
    "promo_lift": FeatureDetails(_SALES_BY_PROMO, _ALL_TO_ORIGIN, _LOG, 0.236),
    "promo": FeatureDetails("Promo", "D", "0 or 1", 1),
    "days_since_promo": FeatureDetails("Promo", "D-14 to D-1", "days, 1 to 14", 10),
    "days_to_promo": FeatureDetails("Promo", "D+1 to D+14", "days, 1 to 14", 1),
    "promo_days_left": FeatureDetails("Promo", "D to D+6", "days, 0 to 7", 5),
    "promo2_phase": FeatureDetails(
        "Promo2, Promo2SinceWeek, Promo2SinceYear, PromoInterval", "D", "months, -1 to 2", 2
    ),
    "state_holiday": FeatureDetails("StateHoliday", "D", "0 to 3", 0),
    "days_since_holiday": FeatureDetails(_HOLIDAYS, "D-30 to D-1", _DAYS_30, 30),
    "days_to_holiday": FeatureDetails(_HOLIDAYS, "D+1 to D+30", _DAYS_30, 30),
    "holidays_next_week": FeatureDetails(_HOLIDAYS, "D+1 to D+7", "days, 0 to 7", 0),
    "days_since_school_holiday": FeatureDetails(_SCHOOL, "D-60 to D", "days, 0 to 60", 0),
    "days_to_school_holiday": FeatureDetails(_SCHOOL, "D+1 to D+60", "days, 1 to 60", 1),
    "school_holidays_this_week": FeatureDetails(_SCHOOL, "week of D", "days, 0 to 7", 7),
    "closed_days_before": FeatureDetails("Open", "D-30 to D-1", "days, 0 to 30", 1),
    "closed_days_after": FeatureDetails("Open", "D+1 to D+30", "days, 0 to 30", 0),
    "days_since_long_closure": FeatureDetails("Open", "D-200 to D-1", "days, 1 to 200", 200),
    "open_days_before": FeatureDetails("Open", "D-14 to D-1", "days, 0 to 14", 12),
    "log_competition_distance": FeatureDetails("CompetitionDistance", "D", "log of metres", 6.804),
    "months_since_competition": FeatureDetails(
        "CompetitionOpenSinceMonth, CompetitionOpenSinceYear", "D", "months, -24 to 120", 35
    ),
    "assortment": FeatureDetails("Assortment", "D", "0 to 2", 0),
    "region": FeatureDetails(
        "State; without it StateHoliday and Open", _ALL_TO_ORIGIN, "index of the region", -2
    ),
    "horizon": FeatureDetails("Date, as_of", "O to D", "days, from 1", 10),
    "mean_weekday_91": FeatureDetails(_SALES, "13 weeks to O", _LESS_OFFSET, -0.180),
    "mean_promo_28": FeatureDetails(_SALES_BY_PROMO, "O-27 to O", _LESS_OFFSET, -0.090),
    "mean_same_182": FeatureDetails(_SALES_BY_PROMO, "26 weeks to O", _LESS_OFFSET, -0.042),
    "mean_same_364": FeatureDetails(_SALES_BY_PROMO, "52 weeks to O", _LESS_OFFSET, -0.057),
    "median_same_364": FeatureDetails(_SALES_BY_PROMO, "52 weeks to O", _LESS_OFFSET, -0.063),
    "sd_same_364": FeatureDetails(_SALES_BY_PROMO, "52 weeks to O", _LOG, 0.126),
    "count_same_364": FeatureDetails(_SALES_BY_PROMO, "52 weeks to O", "days, 0 to 52", 27),
    "open_days_365": FeatureDetails(_SALES, "O-364 to O", "days, 0 to 365", 303),
    "log_sales_per_customer_365": FeatureDetails("Sales, Customers", "O-364 to O", _LOG, 2.330),
    "log_customers_same_364": FeatureDetails("Customers, Promo", "52 weeks to O", _LOG, 6.662),
    "last_year_day": FeatureDetails(_SALES, "D-364", _LESS_OFFSET, -0.180),
    "last_year_same": FeatureDetails(_SALES_BY_PROMO, "D-385 to D-343", _LESS_OFFSET, -0.100),
    "last_year_change": FeatureDetails(
        _SALES, "D-371 to D-357, O-419 to O-364", "log, a difference", -0.032
    ),
    "kfa": FeatureDetails(_FILTER, _ALL_TO_ORIGIN, _LESS_OFFSET, 0.018),
    "kfc": FeatureDetails(_FILTER, _ALL_TO_ORIGIN, _LESS_OFFSET, 0.001),
    "kfd": FeatureDetails(_FILTER, _ALL_TO_ORIGIN, _LESS_OFFSET, 0.127),
    "last_year_error": FeatureDetails(_FILTER, "D-371 to D-357", _LOG, -0.010),
    "last_year_error_chain": FeatureDetails(
        "the same, of all stores", "D-374 to D-354", _LOG, -0.008
    ),
    "kfb": FeatureDetails(_FILTER, _ALL_TO_ORIGIN, "log of sales", 9.140),
}
"""By name, in the order of the catalogue. The example is the value for one row of a demo chain."""
