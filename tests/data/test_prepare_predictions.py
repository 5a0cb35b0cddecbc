"""Uploaded tables become rows in their order; errors of a row do not affect other rows."""

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
from rossmann.data.uploads.fields import EMPTY_ROW, REQUIRED_FIELDS
from rossmann.data.uploads.value_formats import AmbiguousDatesError
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
def test_rows_and_their_order_are_preserved(table: list[Record]) -> None:
    result = upload(*table)
    assert as_records(result.rows) == table
    assert result.index.tolist() == list(range(len(table)))
    assert result.frame.to_dicts() == table
    assert (result.errors, result.notes) == ([], [])


@hypothesis(deadline=None, max_examples=60)
@given(
    tables,
    st.permutations(REQUIRED_FIELDS),
    st.sampled_from(["csv", "parquet", "xlsx", "semicolon"]),
)
def test_file_format_and_column_order_do_not_matter(
    table: list[Record], names: list[str], file_format: str
) -> None:
    frame = pl.DataFrame(table).select(names).with_columns(Id=pl.int_range(pl.len()) + 5)
    typed = frame.with_columns(
        pl.col("Store", "Open", "Promo", "SchoolHoliday").cast(pl.Int64),
        pl.col("Date").str.to_date(),
    )
    out = io.BytesIO()
    if file_format == "csv":
        frame.write_csv(out)
    elif file_format == "semicolon":
        frame.write_csv(out, separator=";", include_bom=True)
    elif file_format == "parquet":
        typed.write_parquet(out)
    else:
        typed.write_excel(out)
    result = read_upload(f"upload.{file_format}", out.getvalue())
    assert as_records(result.rows) == table
    assert result.errors == []
    assert result.frame["Id"].to_list() == [str(n + 5) for n in range(len(table))]


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
def test_each_error_is_reported_once_and_valid_rows_are_kept(
    cases: list[tuple[Record, dict[str, int]]],
) -> None:
    table, expected = [dict(GOOD), dict(GOOD)], set()
    for row, (record, replacements) in enumerate(cases, 3):
        bad = {field: BAD_VALUES[field][choice] for field, choice in replacements.items()}
        table.append({**record, **bad})
        expected |= {(row, field) for field in bad}
    result = upload(*table, date_format="YYYY-MM-DD")
    assert [error.loc for error in result.errors] == sorted(
        expected, key=lambda loc: (loc[0], REQUIRED_FIELDS.index(loc[1]))
    )
    broken = {row for row, _ in expected}
    good = [index for index in range(len(table)) if index + 1 not in broken]
    assert result.index.tolist() == good
    assert as_records(result.rows) == [table[index] for index in good]


@pytest.mark.parametrize(
    ("field", "value"), [(f, v) for f, values in BAD_VALUES.items() for v in values]
)
def test_an_error_names_row_column_and_value(field: str, value: str) -> None:
    result = upload(GOOD, {**GOOD, field: value})
    (error,) = result.errors
    assert error.loc == (2, field)
    assert f"(got {value})" in error.msg if value else error.msg == f"{field} is missing"
    assert result.index.tolist() == [0]


def test_empty_open_is_filled_from_the_row_and_reported() -> None:
    sunday, holiday = {**GOOD, "Date": "2015-08-02"}, {**GOOD, "StateHoliday": "a"}
    open_missing = [{**row, "Open": ""} for row in (GOOD, sunday, holiday)]
    result = upload(*open_missing, GOOD)
    assert result.rows.open.tolist() == [1, 0, 0, 1]
    assert result.errors == []
    assert len(result.notes) == 1
    assert result.notes[0].startswith("3 rows do not say whether the store opens")
    assert result.frame["Open"].to_list() == [None, None, None, "1"]


def test_weekday_mismatches_are_reported() -> None:
    result = upload({**GOOD, "DayOfWeek": "1"}, {**GOOD, "DayOfWeek": "5"})
    assert len(result.rows) == 2
    assert result.notes == ["1 row does not have the weekday of their Date: the Date decides"]


def test_a_blank_row_between_others_is_skipped_and_said() -> None:
    lines = as_csv([GOOD, GOOD]).decode().splitlines()
    result = read_upload("u.csv", "\n".join([*lines[:2], "", lines[2]]).encode())
    assert result.errors == []
    assert result.notes == ["1 blank row is skipped"]
    assert result.index.tolist() == [0, 1]


def test_a_row_without_fields_is_one_error() -> None:
    rows = [{**GOOD, "Note": "a"}, {**dict.fromkeys(GOOD, ""), "Note": "b"}]
    result = read_upload("u.csv", as_csv(rows))
    assert [(error.loc, error.msg) for error in result.errors] == [((2,), EMPTY_ROW)]
    assert result.notes == []


def test_column_names_may_differ_in_case_and_blanks() -> None:
    renamed = {"store": "Store", "DATE ": "Date", "state holiday": "StateHoliday",
               "School_Holiday": "SchoolHoliday", "open": "Open", "Promo": "Promo"}  # fmt: skip
    result = upload({name: GOOD[field] for name, field in renamed.items()})
    assert as_records(result.rows) == [GOOD]


def test_whole_numbers_may_have_a_decimal_point() -> None:
    result = upload({**GOOD, "Store": "7.0", "Open": "1.0", "StateHoliday": "0.0"})
    assert as_records(result.rows) == [GOOD]


def test_error_names_every_missing_column() -> None:
    content = pl.DataFrame([GOOD]).drop("Promo", "Date").write_csv().encode()
    with pytest.raises(
        DataValidationError, match=r"u\.csv lacks the columns Date, Promo; it has: Store"
    ):
        read_upload("u.csv", content)


def test_duplicate_columns_are_rejected() -> None:
    content = b"Store,Store,Date,Open,Promo,StateHoliday,SchoolHoliday\n1,2,2015-08-01,1,1,0,0\n"
    with pytest.raises(DataValidationError, match="Store more than once"):
        read_upload("u.csv", content)


def test_a_table_without_rows_is_rejected() -> None:
    with pytest.raises(DataValidationError, match="no rows"):
        read_upload("u.csv", (",".join(REQUIRED_FIELDS) + "\n").encode())


@pytest.mark.parametrize(
    ("text", "date_format"),
    [("2015-08-13", None), ("08/13/15", None), ("08/13/2015", None), ("13.08.2015", None),
     ("8/3/2015", "MM/DD/YYYY"), ("3/8/2015", "dd/mm/yyyy")],
)  # fmt: skip
def test_dates_are_parsed_in_every_supported_format(text: str, date_format: str | None) -> None:
    result = upload({**GOOD, "Date": text}, date_format=date_format)
    day = result.rows.day.astype("datetime64[D]").astype(date)[0]
    assert day == (date(2015, 8, 13) if "13" in text else date(2015, 8, 3))


def test_ambiguous_dates_need_the_date_format() -> None:
    rows = [{**GOOD, "Date": text} for text in ("08/01/2015", "08/02/2015")]
    with pytest.raises(AmbiguousDatesError) as caught:
        upload(*rows)
    assert caught.value.formats == ["MM/DD/YYYY", "DD/MM/YYYY"]
    days_by_format = {f: upload(*rows, date_format=f).rows.day for f in caught.value.formats}
    first = {f: days.astype("datetime64[D]").astype(str)[0] for f, days in days_by_format.items()}
    assert first == {"MM/DD/YYYY": "2015-08-01", "DD/MM/YYYY": "2015-01-08"}


def test_the_template_is_valid() -> None:
    result = read_upload("template.csv", template_csv().encode())
    assert (result.errors, result.notes) == ([], [])
    assert result.frame.columns == list(REQUIRED_FIELDS)
    assert len(result.rows) == result.frame.height > 0


def test_columns_have_the_types_of_store_days() -> None:
    rows = upload(GOOD).rows
    assert (rows.store.dtype, rows.day.dtype) == (np.int32, np.int32)
    flags = (rows.open, rows.promo, rows.state_holiday, rows.school_holiday)
    assert {flag.dtype for flag in flags} == {np.dtype(np.uint8)}
