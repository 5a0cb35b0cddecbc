"""Each declared rule: a table that breaks it is refused, by name, with the count and the row."""

from collections.abc import Sequence

import polars as pl
import pytest

from rossmann.data.tables import validation_rules as checks
from rossmann.errors import DataValidationError

DAY = {
    "Store": "1", "DayOfWeek": "6", "Date": "2015-08-01", "Sales": "100", "Customers": "10",
    "Open": "1", "Promo": "0", "StateHoliday": "0", "SchoolHoliday": "1",
}  # fmt: skip
NEXT_DAY = {**DAY, "DayOfWeek": "7", "Date": "2015-08-02"}
STORE = {
    "Store": "1", "StoreType": "a", "Assortment": "c", "CompetitionDistance": "570",
    "CompetitionOpenSinceMonth": "9", "CompetitionOpenSinceYear": "2008", "Promo2": "1",
    "Promo2SinceWeek": "13", "Promo2SinceYear": "2010", "PromoInterval": "Jan,Apr,Jul,Oct",
}  # fmt: skip
WITHOUT_PROMO2 = {
    **STORE, "Store": "2", "Promo2": "0", "Promo2SinceWeek": None, "Promo2SinceYear": None,
    "PromoInterval": None,
}  # fmt: skip

Change = dict[str, str | None]

DAYS_BROKEN: list[tuple[str, Change]] = [
    ("Store_known", {"Store": "3"}),
    ("Store_known", {"Store": None}),
    ("Store_known", {"Store": "one"}),
    ("Date_format", {"Date": "01.08.2015"}),
    ("Date_format", {"Date": "2015-8-1"}),
    ("Date_format", {"Date": "2015-02-30"}),
    ("Date_format", {"Date": None}),
    ("Date_range", {"Date": "1915-08-01", "DayOfWeek": "7"}),
    ("day_unique", {"DayOfWeek": "7", "Date": "2015-08-02"}),
    ("DayOfWeek_fits", {"DayOfWeek": "5"}),
    ("DayOfWeek_fits", {"DayOfWeek": None}),
    ("Open_flag", {"Open": "2"}),
    ("Open_flag", {"Open": None}),
    ("Promo_flag", {"Promo": "yes"}),
    ("StateHoliday_known", {"StateHoliday": "d"}),
    ("StateHoliday_known", {"StateHoliday": None}),
    ("SchoolHoliday_flag", {"SchoolHoliday": "-1"}),
    ("Sales_whole", {"Sales": "-1"}),
    ("Sales_whole", {"Sales": "100.5"}),
    ("Sales_whole", {"Sales": "99999999999"}),
    ("Sales_whole", {"Sales": None}),
    ("Customers_whole", {"Customers": "NaN"}),
    ("closed_sells_nothing", {"Open": "0"}),
    ("closed_sells_nothing", {"Open": "0", "Sales": "0"}),
]
STORES_BROKEN: list[tuple[str, Change]] = [
    ("Store_whole", {"Store": "0"}),
    ("Store_whole", {"Store": None}),
    ("Store_unique", {"Store": "2"}),
    ("StoreType_known", {"StoreType": "e"}),
    ("Assortment_known", {"Assortment": None}),
    ("CompetitionDistance_metres", {"CompetitionDistance": "-5"}),
    ("CompetitionDistance_metres", {"CompetitionDistance": "near"}),
    ("CompetitionDistance_metres", {"CompetitionDistance": "inf"}),
    ("CompetitionOpenSinceMonth_whole", {"CompetitionOpenSinceMonth": "13"}),
    ("CompetitionOpenSinceYear_whole", {"CompetitionOpenSinceYear": "99"}),
    ("competition_since_whole", {"CompetitionOpenSinceMonth": None}),
    ("Promo2_flag", {"Promo2": "2"}),
    ("Promo2SinceWeek_whole", {"Promo2SinceWeek": "54"}),
    ("Promo2SinceYear_whole", {"Promo2SinceYear": "1789"}),
    ("Promo2_told", {"PromoInterval": None}),
    ("Promo2_told", {"Promo2SinceWeek": None}),
    ("PromoInterval_months", {"PromoInterval": "Jan,April"}),
]


def history(rows: Sequence[Change]) -> list[checks.RuleViolation]:
    frame = checks.parse_columns("train.csv", text(rows), checks.HISTORY_COLUMNS)
    return checks.find_violations("train.csv", frame, checks.history_rules([1, 2]))


def stores(rows: Sequence[Change]) -> list[checks.RuleViolation]:
    frame = checks.parse_columns("store.csv", text(rows), checks.STORE_COLUMNS)
    return checks.find_violations("store.csv", frame, checks.store_rules())


def text(rows: Sequence[Change]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=dict.fromkeys(rows[0], pl.String))


def test_good_tables_break_no_rule() -> None:
    assert history([DAY, NEXT_DAY]) == []
    assert stores([STORE, WITHOUT_PROMO2]) == []


@pytest.mark.parametrize(("rule", "change"), DAYS_BROKEN)
def test_a_broken_day_is_told(rule: str, change: Change) -> None:
    found = {breach.rule: breach for breach in history([NEXT_DAY, {**DAY, **change}])}
    # A row that stands twice breaks the rule twice.
    assert found[rule].count == (2 if rule == "day_unique" else 1)
    assert found[rule].first[-1].startswith("line 3: ")
    assert all(f"{name}={value or ''}" in found[rule].first[-1] for name, value in shown(change))


def shown(change: Change) -> list[tuple[str, str | None]]:
    return [(name, value) for name, value in change.items() if len(change) == 1]


@pytest.mark.parametrize(("rule", "change"), STORES_BROKEN)
def test_a_broken_store_is_told(rule: str, change: Change) -> None:
    found = {breach.rule: breach for breach in stores([WITHOUT_PROMO2, {**STORE, **change}])}
    assert found[rule].count == (2 if rule == "Store_unique" else 1)
    assert found[rule].first[-1].startswith("line 3: ")


def test_every_rule_has_an_example_that_breaks_it() -> None:
    assert {rule for rule, _ in DAYS_BROKEN} == {rule.name for rule in checks.history_rules([1])}
    assert {rule for rule, _ in STORES_BROKEN} == {rule.name for rule in checks.store_rules()}


def test_only_the_schedule_may_leave_open_empty() -> None:
    frame = checks.parse_columns("test.csv", text([{**DAY, "Open": None}]), checks.PLAN_COLUMNS)
    assert checks.find_violations("test.csv", frame, checks.plan_rules([1])) == []


def test_one_fault_breaks_no_other_rule() -> None:
    found = history([NEXT_DAY, {**DAY, "Date": "soon"}])
    assert [breach.rule for breach in found] == ["Date_format"]


def test_the_refusal_names_every_rule_its_count_and_its_first_rows() -> None:
    bad = [{**DAY, "Promo": "9", "Sales": "-7", "Date": f"2015-08-{d:02}"} for d in range(1, 29)]
    with pytest.raises(DataValidationError) as caught:
        checks.raise_violations(history(bad))
    summary, *lines = str(caught.value).splitlines()
    assert "Promo_flag in train.csv (28)" in summary
    assert "Sales_whole in train.csv (28)" in summary
    promo = next(line for line in lines if "Promo_flag" in line)
    assert "28 rows" in promo
    assert promo.count("Promo=9") == 3
    assert "line 2: Store=1 Date=2015-08-01 Promo=9" in promo


def test_nothing_broken_refuses_nothing() -> None:
    checks.raise_violations([])


def test_missing_columns_are_all_named() -> None:
    lacking = text([DAY]).drop("Promo", "Sales")
    with pytest.raises(
        DataValidationError, match=r"lacks the columns Promo, Sales; it has Store, "
    ):
        checks.parse_columns("train.csv", lacking, checks.HISTORY_COLUMNS)


def test_a_table_without_rows_is_refused() -> None:
    with pytest.raises(DataValidationError, match=r"train\.csv has no rows"):
        checks.parse_columns("train.csv", text([DAY]).clear(), checks.HISTORY_COLUMNS)


def test_whole_numbers_may_have_a_point() -> None:
    assert history([{**DAY, "Open": "1.0", "Store": "1.0"}]) == []
