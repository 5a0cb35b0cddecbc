"""A user's table to rows: order kept, faults by row and column, good rows untouched by bad ones."""

import io
from datetime import date
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from rossmann.data.prepare_predictions import Upload, read_upload, template_csv
from rossmann.data.uploads.fields import REQUIRED_FIELDS, AmbiguousDatesError
from rossmann.errors import DataValidationError
from rossmann.schema import STATE_HOLIDAYS, StoreDays

Record = dict[str, str]
GOOD: Record = {
    "Store": "7", "Date": "2015-08-03", "Open": "1", "Promo": "0", "StateHoliday": "0",
    "SchoolHoliday": "1",
}  # fmt: skip
BAD_VALUES = {
    "Store": ["", "0", "true", "-1", "1.5", "one", "99999999999", "2147483648", "\u0663"],
    "Date": ["", "2015-02-30", "3.8.2015", "soon"],
    "Open": ["2", "yes", "-1", "0.5"],
    "Promo": ["", "2", "ja"],
    "StateHoliday": ["", "d", "1", "aa"],
    "SchoolHoliday": ["", "3", "x"],
}

records = st.fixed_dictionaries(
    {
        "Store": st.integers(1, 2_000).map(str),
        "Date": st.dates(date(2013, 1, 1), date(2016, 12, 31)).map(date.isoformat),
        "Open": st.sampled_from("01"),
        "Promo": st.sampled_from("01"),
        "StateHoliday": st.sampled_from(STATE_HOLIDAYS),
        "SchoolHoliday": st.sampled_from("01"),
    }
)
tables = st.lists(records, min_size=1, max_size=30)


def as_csv(rows: list[Record]) -> bytes:
    return pl.DataFrame(rows).write_csv().encode()


def upload(*rows: Record, **options: Any) -> Upload:
    return read_upload("upload.csv", as_csv(list(rows)), **options)


def as_records(rows: StoreDays) -> list[Record]:
    values = zip(
        rows.store.tolist(),
        rows.day.astype("datetime64[D]").astype(date).tolist(),
        rows.open.tolist(),
        rows.promo.tolist(),
        [STATE_HOLIDAYS[code] for code in rows.state_holiday],
        rows.school_holiday.tolist(),
        strict=True,
    )
    return [dict(zip(REQUIRED_FIELDS, map(str, row), strict=True)) for row in values]


@hypothesis(deadline=None)
@given(tables)
def test_rows_come_back_as_they_were_written_in_their_order(table: list[Record]) -> None:
    found = upload(*table)
    assert as_records(found.rows) == table
    assert found.index.tolist() == list(range(len(table)))
    assert found.frame.to_dicts() == table
    assert (found.faults, found.notes) == ([], [])


@hypothesis(deadline=None, max_examples=60)
@given(
    tables,
    st.permutations(REQUIRED_FIELDS),
    st.sampled_from(["csv", "parquet", "xlsx", "semicolon"]),
)
def test_the_file_format_and_the_columns_order_do_not_matter(
    table: list[Record], names: list[str], kind: str
) -> None:
    frame = pl.DataFrame(table).select(names).with_columns(Id=pl.int_range(pl.len()) + 5)
    typed = frame.with_columns(
        pl.col("Store", "Open", "Promo", "SchoolHoliday").cast(pl.Int64),
        pl.col("Date").str.to_date(),
    )
    out = io.BytesIO()
    if kind == "csv":
        frame.write_csv(out)
    elif kind == "semicolon":
        frame.write_csv(out, separator=";", include_bom=True)
    elif kind == "parquet":
        typed.write_parquet(out)
    else:
        typed.write_excel(out)
    found = read_upload(f"upload.{kind}", out.getvalue())
    assert as_records(found.rows) == table
    assert found.faults == []
    assert found.frame["Id"].to_list() == [str(n + 5) for n in range(len(table))]


@hypothesis(deadline=None)
@given(
    st.lists(
        st.tuples(
            records,
            st.dictionaries(st.sampled_from(REQUIRED_FIELDS), st.integers(0, 2), max_size=3),
        ),
        min_size=2,
        max_size=25,
    )
)
def test_each_fault_is_told_once_and_costs_no_other_row(
    plan: list[tuple[Record, dict[str, int]]],
) -> None:
    table, expected = [dict(GOOD), dict(GOOD)], set()
    for row, (record, damage) in enumerate(plan, 3):
        bad = {field: BAD_VALUES[field][choice] for field, choice in damage.items()}
        table.append({**record, **bad})
        expected |= {(row, field) for field in bad}
    found = upload(*table, date_format="YYYY-MM-DD")
    assert [fault.loc for fault in found.faults] == sorted(
        expected, key=lambda loc: (loc[0], REQUIRED_FIELDS.index(loc[1]))
    )
    broken = {row for row, _ in expected}
    good = [place for place in range(len(table)) if place + 1 not in broken]
    assert found.index.tolist() == good
    assert as_records(found.rows) == [table[place] for place in good]


@pytest.mark.parametrize(
    ("field", "value"), [(f, v) for f, values in BAD_VALUES.items() for v in values]
)
def test_a_fault_names_its_row_its_column_and_what_it_got(field: str, value: str) -> None:
    found = upload(GOOD, {**GOOD, field: value})
    (fault,) = found.faults
    assert fault.loc == (2, field)
    assert f"(got {value})" in fault.msg if value else fault.msg == f"{field} is missing"
    assert found.index.tolist() == [0]


def test_an_empty_open_is_filled_from_the_row_alone_and_said() -> None:
    sunday, holiday = {**GOOD, "Date": "2015-08-02"}, {**GOOD, "StateHoliday": "a"}
    unsaid = [{**row, "Open": ""} for row in (GOOD, sunday, holiday)]
    found = upload(*unsaid, GOOD)
    assert found.rows.open.tolist() == [1, 0, 0, 1]
    assert found.faults == []
    assert len(found.notes) == 1
    assert found.notes[0].startswith("3 rows do not say whether the store opens")
    assert found.frame["Open"].to_list() == [None, None, None, "1"]


def test_the_date_decides_the_weekday_and_it_is_said() -> None:
    found = upload({**GOOD, "DayOfWeek": "1"}, {**GOOD, "DayOfWeek": "5"})
    assert len(found.rows) == 2
    assert found.notes == ["1 row does not have the weekday of their Date: the Date decides"]


def test_an_empty_row_inside_is_one_fault() -> None:
    lines = as_csv([GOOD, GOOD]).decode().splitlines()
    found = read_upload("u.csv", "\n".join([*lines[:2], "", lines[2]]).encode())
    assert [(fault.loc, fault.msg) for fault in found.faults] == [((2,), "the row is empty")]
    assert found.index.tolist() == [0, 2]


def test_names_may_differ_in_case_and_blanks() -> None:
    renamed = {"store": "Store", "DATE ": "Date", "state holiday": "StateHoliday",
               "School_Holiday": "SchoolHoliday", "open": "Open", "Promo": "Promo"}  # fmt: skip
    found = upload({name: GOOD[field] for name, field in renamed.items()})
    assert as_records(found.rows) == [GOOD]


def test_numbers_with_a_point_are_numbers() -> None:
    found = upload({**GOOD, "Store": "7.0", "Open": "1.0", "StateHoliday": "0.0"})
    assert as_records(found.rows) == [GOOD]


def test_every_missing_column_is_named() -> None:
    content = pl.DataFrame([GOOD]).drop("Promo", "Date").write_csv().encode()
    with pytest.raises(
        DataValidationError, match=r"u\.csv lacks the columns Date, Promo; it has: Store"
    ):
        read_upload("u.csv", content)


def test_a_column_that_is_there_twice_is_refused() -> None:
    content = b"Store,Store,Date,Open,Promo,StateHoliday,SchoolHoliday\n1,2,2015-08-01,1,1,0,0\n"
    with pytest.raises(DataValidationError, match="Store more than once"):
        read_upload("u.csv", content)


def test_names_without_rows_are_refused() -> None:
    with pytest.raises(DataValidationError, match="no rows"):
        read_upload("u.csv", (",".join(REQUIRED_FIELDS) + "\n").encode())


@pytest.mark.parametrize(
    ("text", "form"),
    [("2015-08-13", None), ("08/13/15", None), ("08/13/2015", None), ("13.08.2015", None),
     ("8/3/2015", "MM/DD/YYYY"), ("3/8/2015", "dd/mm/yyyy")],
)  # fmt: skip
def test_dates_are_read_in_every_promised_format(text: str, form: str | None) -> None:
    found = upload({**GOOD, "Date": text}, date_format=form)
    day = found.rows.day.astype("datetime64[D]").astype(date)[0]
    assert day == (date(2015, 8, 13) if "13" in text else date(2015, 8, 3))


def test_an_ambiguous_column_is_asked_about_then_read_as_told() -> None:
    rows = [{**GOOD, "Date": text} for text in ("08/01/2015", "08/02/2015")]
    with pytest.raises(AmbiguousDatesError) as caught:
        upload(*rows)
    assert caught.value.formats == ["MM/DD/YYYY", "DD/MM/YYYY"]
    found = {form: upload(*rows, date_format=form).rows.day for form in caught.value.formats}
    first = {form: days.astype("datetime64[D]").astype(str)[0] for form, days in found.items()}
    assert first == {"MM/DD/YYYY": "2015-08-01", "DD/MM/YYYY": "2015-01-08"}


def test_the_template_goes_through() -> None:
    found = read_upload("template.csv", template_csv().encode())
    assert (found.faults, found.notes) == ([], [])
    assert found.frame.columns == list(REQUIRED_FIELDS)
    assert len(found.rows) == found.frame.height > 0


def test_the_columns_have_the_types_that_forecasts_expect() -> None:
    rows = upload(GOOD).rows
    assert (rows.store.dtype, rows.day.dtype) == (np.int32, np.int32)
    flags = (rows.open, rows.promo, rows.state_holiday, rows.school_holiday)
    assert {flag.dtype for flag in flags} == {np.dtype(np.uint8)}
