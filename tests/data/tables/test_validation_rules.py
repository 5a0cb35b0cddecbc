"""Each validation rule: violations are reported by name, with the count and the first rows."""

from collections.abc import Sequence

import polars as pl
import pytest

from rossmann.data.tables import validation_rules
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


def history(rows: Sequence[Change]) -> list[validation_rules.RuleViolation]:
    frame = validation_rules.parse_columns(
        "train.csv", text(rows), validation_rules.HISTORY_COLUMNS
    )
    return validation_rules.find_violations(
        "train.csv", frame, validation_rules.history_rules([1, 2]), line
    )


def stores(rows: Sequence[Change]) -> list[validation_rules.RuleViolation]:
    frame = validation_rules.parse_columns("store.csv", text(rows), validation_rules.STORE_COLUMNS)
    rules = validation_rules.store_rules()
    return validation_rules.find_violations("store.csv", frame, rules, line)


def line(row: int) -> str:
    return f"line {row + 2}"


def text(rows: Sequence[Change]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=dict.fromkeys(rows[0], pl.String))


def test_valid_tables_break_no_rule() -> None:
    assert history([DAY, NEXT_DAY]) == []
    assert stores([STORE, WITHOUT_PROMO2]) == []


@pytest.mark.parametrize(("rule", "change"), DAYS_BROKEN)
def test_a_broken_daily_rule_is_reported_with_its_row(rule: str, change: Change) -> None:
    violations = {violation.rule: violation for violation in history([NEXT_DAY, {**DAY, **change}])}
    # Both rows of a duplicate break the rule.
    assert violations[rule].count == (2 if rule == "day_unique" else 1)
    assert violations[rule].first[-1].startswith("line 3: ")
    assert all(
        f"{name}={value or ''}" in violations[rule].first[-1]
        for name, value in named_values(change)
    )


def named_values(change: Change) -> list[tuple[str, str | None]]:
    return [(name, value) for name, value in change.items() if len(change) == 1]


@pytest.mark.parametrize(("rule", "change"), STORES_BROKEN)
def test_a_broken_store_rule_is_reported_with_its_row(rule: str, change: Change) -> None:
    violations = {
        violation.rule: violation for violation in stores([WITHOUT_PROMO2, {**STORE, **change}])
    }
    assert violations[rule].count == (2 if rule == "Store_unique" else 1)
    assert violations[rule].first[-1].startswith("line 3: ")


def test_every_rule_has_a_case() -> None:
    assert {rule for rule, _ in DAYS_BROKEN} == {
        rule.name for rule in validation_rules.history_rules([1])
    }
    assert {rule for rule, _ in STORES_BROKEN} == {
        rule.name for rule in validation_rules.store_rules()
    }


def test_only_the_schedule_may_leave_open_empty() -> None:
    frame = validation_rules.parse_columns(
        "test.csv", text([{**DAY, "Open": None}]), validation_rules.SCHEDULE_COLUMNS
    )
    rules = validation_rules.schedule_rules([1])
    assert validation_rules.find_violations("test.csv", frame, rules, line) == []


def test_an_invalid_value_breaks_one_rule_only() -> None:
    violations = history([NEXT_DAY, {**DAY, "Date": "soon"}])
    assert [violation.rule for violation in violations] == ["Date_format"]


def test_error_lists_every_rule_with_count_and_first_rows() -> None:
    bad = [{**DAY, "Promo": "9", "Sales": "-7", "Date": f"2015-08-{d:02}"} for d in range(1, 29)]
    with pytest.raises(DataValidationError) as caught:
        validation_rules.raise_violations(history(bad))
    summary, *lines = str(caught.value).splitlines()
    assert "Promo_flag in train.csv (28)" in summary
    assert "Sales_whole in train.csv (28)" in summary
    promo = next(line for line in lines if "Promo_flag" in line)
    assert "28 rows" in promo
    assert promo.count("Promo=9") == 3
    assert "line 2: Store=1 Date=2015-08-01 Promo=9" in promo


def test_no_violations_raise_nothing() -> None:
    validation_rules.raise_violations([])


def test_error_names_every_missing_column() -> None:
    lacking = text([DAY]).drop("Promo", "Sales")
    with pytest.raises(
        DataValidationError, match=r"lacks the columns Promo, Sales; it has Store, "
    ):
        validation_rules.parse_columns("train.csv", lacking, validation_rules.HISTORY_COLUMNS)


def test_a_table_without_rows_is_rejected() -> None:
    with pytest.raises(DataValidationError, match=r"train\.csv has no rows"):
        validation_rules.parse_columns(
            "train.csv", text([DAY]).clear(), validation_rules.HISTORY_COLUMNS
        )


def test_whole_numbers_may_have_a_decimal_point() -> None:
    assert history([{**DAY, "Open": "1.0", "Store": "1.0"}]) == []
