"""Validation rules for the raw tables, and the search for rows that break them.

A rule is a name, a sentence and a polars expression that is true where a row breaks the rule.
Expressions see typed columns under the table's own names (null where the text is no such value)
and the text itself under ``text:<name>``. A null result means that another rule covers the row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from rossmann.errors import DataValidationError
from rossmann.schema import ASSORTMENTS, MONTH_NAMES, REGION_COLUMN, STATE_HOLIDAYS, STORE_TYPES

SCHEDULE_COLUMNS: Final = (
    "Store", "DayOfWeek", "Date", "Open", "Promo", "StateHoliday", "SchoolHoliday",
)  # fmt: skip
HISTORY_COLUMNS: Final = (*SCHEDULE_COLUMNS, "Sales", "Customers")
STORE_COLUMNS: Final = (
    "Store", "StoreType", "Assortment", "CompetitionDistance", "CompetitionOpenSinceMonth",
    "CompetitionOpenSinceYear", "Promo2", "Promo2SinceWeek", "Promo2SinceYear", "PromoInterval",
)  # fmt: skip
MONTH_INDEX: Final = {**{name: i for i, name in enumerate(MONTH_NAMES)}, "Sep": 8}
"""0 for January to 11, by name as the tables spell it (Sept), and by the common ``Sep``."""

_TEXT_COLUMNS: Final = ("StateHoliday", "StoreType", "Assortment", "PromoInterval", REGION_COLUMN)
_EXAMPLE_ROWS: Final = 3
_MAX_INT32: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a table: ``broken`` is true where a row breaks it; reports show ``columns``."""

    name: str
    description: str
    broken: pl.Expr
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RuleViolation:
    """A rule that a table breaks: the number of rows, and the first of them as text."""

    table: str
    rule: str
    description: str
    count: int
    first: tuple[str, ...]

    def __str__(self) -> str:
        rows = "1 row" if self.count == 1 else f"{self.count:,} rows"
        return f"{self.table}, {self.rule}: {self.description} ({rows}; {'; '.join(self.first)})"


def _whole(column: str, low: int, high: int, optional: bool = False) -> Rule:
    value, text = pl.col(column), pl.col(f"text:{column}")
    invalid = value.is_null() | ~value.is_between(low, high)
    limits = f"from {low} to {high}" if high < _MAX_INT32 else f"of {low} or more"
    return Rule(
        f"{column}_whole",
        f"{column} is a whole number {limits}" + (", or empty" if optional else ""),
        text.is_not_null() & invalid if optional else invalid,
        (column,),
    )


def _one_of(column: str, values: Sequence[str]) -> Rule:
    text = pl.col(column)
    invalid = text.is_null() | ~text.is_in(list(values))
    return Rule(f"{column}_known", f"{column} is one of {', '.join(values)}", invalid, (column,))


def _flag(column: str, optional: bool = False) -> Rule:
    rule = _whole(column, 0, 1, optional)
    description = f"{column} is 0 or 1" + (", or empty" if optional else "")
    return Rule(f"{column}_flag", description, rule.broken, (column,))


def schedule_rules(stores: Sequence[int], open_optional: bool = True) -> tuple[Rule, ...]:
    """Rules for the columns that history and schedule share; ``stores``: numbers that exist."""
    date = pl.col("Date")
    # One integer key is hashed ten times faster than a pair of columns.
    key = pl.col("Store") * 100_000 + date.dt.epoch("d")
    first, last = pl.date(2000, 1, 1), pl.date(2099, 12, 31)
    return (
        Rule(
            "Store_known",
            "Store is in the store table",
            pl.col("Store").is_null() | ~pl.col("Store").is_in(list(stores)),
            (),
        ),
        Rule("Date_format", "Date is a day as YYYY-MM-DD", date.is_null(), ()),
        Rule("Date_range", "Date is in 2000 to 2099", ~date.is_between(first, last), ()),
        Rule(
            "day_unique", "a store has one row a day", key.is_not_null() & key.is_duplicated(), ()
        ),
        Rule(
            "DayOfWeek_fits",
            "DayOfWeek is the Date's, 1 for Monday to 7",
            pl.col("DayOfWeek").is_null() | (pl.col("DayOfWeek") != date.dt.weekday()),
            ("DayOfWeek",),
        ),
        _flag("Open", open_optional),
        _flag("Promo"),
        _one_of("StateHoliday", STATE_HOLIDAYS),
        _flag("SchoolHoliday"),
    )


def history_rules(stores: Sequence[int]) -> tuple[Rule, ...]:
    """Rules for ``train.csv``."""
    has_sales = (pl.col("Sales") > 0) | (pl.col("Customers") > 0)
    return (
        *schedule_rules(stores, open_optional=False),
        _whole("Sales", 0, _MAX_INT32),
        _whole("Customers", 0, _MAX_INT32),
        Rule(
            "closed_sells_nothing",
            "a closed day has neither sales nor customers",
            (pl.col("Open") == 0) & has_sales,
            ("Open", "Sales", "Customers"),
        ),
    )


def store_rules() -> tuple[Rule, ...]:
    """Rules for ``store.csv``."""
    return (
        _whole("Store", 1, _MAX_INT32),
        Rule("Store_unique", "a store has one row", pl.col("Store").is_duplicated(), ()),
        _one_of("StoreType", STORE_TYPES),
        _one_of("Assortment", ASSORTMENTS),
        *_competition_rules(),
        *_promo2_rules(),
    )


def region_rule(regions: Sequence[str]) -> Rule:
    """Rule for the column of regions, which ``store.csv`` may have; ``regions``: the codes."""
    text = pl.col(REGION_COLUMN)
    description = f"{REGION_COLUMN} is empty or one of {', '.join(regions)}"
    unknown = text.is_not_null() & ~text.is_in(list(regions))
    return Rule(f"{REGION_COLUMN}_known", description, unknown, (REGION_COLUMN,))


def _competition_rules() -> tuple[Rule, ...]:
    distance = pl.col("CompetitionDistance")
    since = ("CompetitionOpenSinceMonth", "CompetitionOpenSinceYear")
    return (
        Rule(
            "CompetitionDistance_metres",
            "CompetitionDistance is a number of metres of 0 or more, or empty",
            pl.col("text:CompetitionDistance").is_not_null()
            & (distance.is_null() | ~distance.is_finite() | (distance < 0)),
            ("CompetitionDistance",),
        ),
        _whole("CompetitionOpenSinceMonth", 1, 12, optional=True),
        _whole("CompetitionOpenSinceYear", 1800, 2099, optional=True),
        Rule(
            "competition_since_whole",
            "CompetitionOpenSinceMonth and -Year are both given or both empty",
            pl.col(f"text:{since[0]}").is_null() != pl.col(f"text:{since[1]}").is_null(),
            since,
        ),
    )


def _promo2_rules() -> tuple[Rule, ...]:
    columns = ("Promo2", "Promo2SinceWeek", "Promo2SinceYear", "PromoInterval")
    incomplete = pl.any_horizontal(pl.col(f"text:{c}").is_null() for c in columns[1:])
    months = pl.col("PromoInterval").str.split(",")
    known = months.list.eval(pl.element().str.strip_chars().is_in(list(MONTH_INDEX))).list.all()
    return (
        _flag("Promo2"),
        _whole("Promo2SinceWeek", 1, 53, optional=True),
        _whole("Promo2SinceYear", 1990, 2099, optional=True),
        Rule(
            "Promo2_told",
            "a store with Promo2 has Promo2SinceWeek, Promo2SinceYear and PromoInterval",
            (pl.col("Promo2") == 1) & incomplete,
            columns,
        ),
        Rule(
            "PromoInterval_months",
            f"PromoInterval is months with commas between, spelled {', '.join(MONTH_NAMES)}",
            ~known,
            ("PromoInterval",),
        ),
    )


def parse_columns(table: str, text: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """``columns`` as typed values, null where the text is none, and the text as ``text:<name>``.

    ``text``: from ``raw_tables.read_text``. Whole numbers may be written ``5.0``. Raises
    ``DataValidationError`` where columns are missing (naming all of them) or there is no row.
    """
    missing = [name for name in columns if name not in text.columns]
    if missing:
        raise DataValidationError(
            f"{table} lacks the columns {', '.join(missing)}; it has {', '.join(text.columns)}"
        )
    if text.is_empty():
        raise DataValidationError(f"{table} has no rows")
    values = [_parse(name).alias(name) for name in columns]
    return text.select(*values, pl.col(columns).name.prefix("text:"))


def _parse(column: str) -> pl.Expr:
    text = pl.col(column)
    if column == "Date":
        # Without the length, 2015-6-3 would pass as a date.
        whole = pl.when(text.str.len_bytes() == 10).then(text)
        return whole.str.to_date("%Y-%m-%d", strict=False)
    if column in _TEXT_COLUMNS:
        return text
    number = text.cast(pl.Float64, strict=False)
    if column == "CompetitionDistance":
        return number
    return pl.when(number == number.floor()).then(number.cast(pl.Int64, strict=False))


def find_violations(
    table: str, frame: pl.DataFrame, rules: Sequence[Rule], position: Callable[[int], str]
) -> list[RuleViolation]:
    """Every rule that ``frame`` (of ``parse_columns``) breaks, in the rules' order.

    ``position``: where the row with an index stands in the file, as ``WholeTable.position`` says.
    """
    broken = frame.select(rule.broken.fill_null(False).alias(rule.name) for rule in rules)
    counts = broken.sum().row(0)
    violations = []
    for rule, count in zip(rules, counts, strict=True):
        if count:
            index = broken[rule.name].arg_true().head(_EXAMPLE_ROWS).to_list()
            first = tuple(f"{position(i)}: {_format_row(frame, i, rule)}" for i in index)
            violations.append(RuleViolation(table, rule.name, rule.description, count, first))
    return violations


def _format_row(frame: pl.DataFrame, index: int, rule: Rule) -> str:
    keys = [c for c in ("Store", "Date") if f"text:{c}" in frame.columns]
    names = list(dict.fromkeys([*keys, *rule.columns]))
    texts = frame.select(f"text:{name}" for name in names).row(index)
    return " ".join(f"{n}={'' if t is None else t}" for n, t in zip(names, texts, strict=True))


def raise_violations(violations: Sequence[RuleViolation]) -> None:
    """Raise ``DataValidationError`` if there are any: a summary line, then a line for each rule."""
    if not violations:
        return
    names = ", ".join(f"{v.rule} in {v.table} ({v.count:,})" for v in violations)
    rules = "1 rule is" if len(violations) == 1 else f"{len(violations)} rules are"
    lines = [f"{rules} broken: {names}", *(f"- {violation}" for violation in violations)]
    raise DataValidationError("\n".join(lines))
