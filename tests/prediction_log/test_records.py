"""Logged predictions as columns and spool files: round trips, limits, corruption."""

import json
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rossmann.models.inference.row_warnings import NO_TRAINING, TrainingSpan
from rossmann.prediction_log.records import (
    Batch,
    CorruptBatchError,
    LoggedPrediction,
    concat,
    decode,
)
from tests.fixtures.prediction_log import MakeEntry, make_batch

LEVELS = st.lists(st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.123456789]), unique=True, max_size=4)
SHAPES = st.lists(st.tuples(st.integers(0, 5), LEVELS), min_size=1, max_size=6)


def with_bounds(
    entry: LoggedPrediction, levels: list[float]
) -> tuple[tuple[float, np.ndarray, np.ndarray], ...]:
    return tuple((level, entry.sales * (1 - level / 9), entry.sales + level) for level in levels)


def column_of_entry(rows: pl.DataFrame, column: str, entry: int) -> list[object]:
    return rows.filter(pl.col("entry") == 7 + entry)[column].to_list()


@settings(max_examples=40, deadline=None)
@given(shapes=SHAPES, first_row=st.integers(0, 10**6))
def test_batch_keeps_every_value(
    make_entry: MakeEntry, shapes: list[tuple[int, list[float]]], first_row: int
) -> None:
    entries = []
    for number, (rows, levels) in enumerate(shapes):
        bounds = with_bounds(make_entry(number, rows), levels)
        entries.append(make_entry(number, rows, bounds=bounds, first_row=first_row))
    batch = make_batch(entries, 7)
    assert len(batch) == sum(rows for rows, _ in shapes)
    assert batch.requests["entry"].to_list() == list(range(7, 7 + len(entries)))
    assert batch.requests["answered_at"].to_list() == [e.answered_at for e in entries]
    for number, entry in enumerate(entries):
        assert column_of_entry(batch.rows, "forecast", number) == entry.sales.tolist()
        assert column_of_entry(batch.rows, "store", number) == entry.rows.store.tolist()
        row_numbers = range(first_row, first_row + len(entry.rows))
        assert column_of_entry(batch.rows, "row", number) == list(row_numbers)
        assert_bounds(entry, batch.rows.filter(pl.col("entry") == 7 + number))
    assert decode(batch.encode()).rows.equals(batch.rows)
    assert decode(batch.encode()).requests.equals(batch.requests)


def assert_bounds(entry: LoggedPrediction, rows: pl.DataFrame) -> None:
    expected = {level: (lower.tolist(), upper.tolist()) for level, lower, upper in entry.bounds}
    for level, word in ((0.8, "80"), (0.95, "95")):
        nulls = [None] * len(entry.rows)
        lower, upper = expected.pop(level, (nulls, nulls))
        assert rows[f"lower_{word}"].to_list() == lower
        assert rows[f"upper_{word}"].to_list() == upper
    for index, text in enumerate(rows["bounds"]):
        parsed = {} if text is None else json.loads(text)
        assert parsed == {str(k): [low[index], high[index]] for k, (low, high) in expected.items()}


def test_rows_in_training_are_marked(make_entry: MakeEntry) -> None:
    """Open rows of days that the entry's version learned from, both ends included."""
    entries = [
        make_entry(number, 12, training=span)
        for number, span in enumerate((TrainingSpan(16_660, 16_670), NO_TRAINING))
    ]
    entries[0].rows.day[:4] = [16_659, 16_660, 16_670, 16_671]
    entries[0].rows.open[:5] = [1, 1, 1, 1, 0]
    marks = make_batch(entries, 7).rows["in_training"].to_list()
    day, is_open = entries[0].rows.day.tolist(), entries[0].rows.open.tolist()
    assert marks[:5] == [0, 1, 1, 0, 0]
    assert marks[:12] == [
        int(o and 16_660 <= d <= 16_670) for d, o in zip(day, is_open, strict=True)
    ]
    assert marks[12:] == [0] * 12


def test_file_of_a_release_without_the_mark_is_read(make_entry: MakeEntry) -> None:
    new = make_batch([make_entry(1, 3)], 1)
    old = decode(Batch(new.requests, new.rows.drop("in_training")).encode())
    assert old.rows["in_training"].to_list() == [None] * 3
    assert concat([new, old]).rows["in_training"].to_list() == [0, 0, 0, None, None, None]


def test_concat_keeps_all_rows_in_order(make_entry: MakeEntry) -> None:
    combined = concat([make_batch([make_entry(1, 3)], 1), make_batch([make_entry(2, 2)], 2)])
    assert combined.rows["entry"].to_list() == [1, 1, 1, 2, 2]
    assert combined.requests["request_id"].to_list() == ["request-1", "request-2"]


def test_non_finite_numbers_become_null(make_entry: MakeEntry) -> None:
    """A database may reject NaN; one such row must not block the others."""
    sales = np.array([1.0, np.nan, np.inf])
    entry = make_entry(1, 3, sales=sales, bounds=((0.8, sales, sales), (0.9, sales, sales)))
    rows = make_batch([entry], 1).rows
    assert rows["forecast"].to_list() == rows["lower_80"].to_list() == [1.0, None, None]
    assert json.loads(rows["bounds"][1]) == {"0.9": [None, None]}


@given(text=st.text())
@settings(max_examples=60, deadline=None)
def test_texts_become_printable_and_short(make_entry: MakeEntry, text: str) -> None:
    text_value = make_batch([make_entry(1, caller=text)], 1).requests["caller"][0]
    assert text_value.isprintable()
    assert len(text_value) == min(len(text), 200)


def test_lone_surrogates_are_replaced(make_entry: MakeEntry) -> None:
    text_value = make_batch([make_entry(1, caller="a\ud800\x00b")], 1).requests["caller"][0]
    assert text_value == "a??b"


def test_timestamps_keep_microseconds(make_entry: MakeEntry) -> None:
    moment = datetime(2099, 12, 31, 23, 59, 59, 999_999, UTC)
    batch = make_batch([make_entry(1, answered_at=moment)], 1)
    assert batch.requests["answered_at"][0] == moment


@given(index=st.integers(0, 10**9), bit=st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_one_flipped_bit_is_detected(make_entry: MakeEntry, index: int, bit: int) -> None:
    content = bytearray(make_batch([make_entry(1, 4)], 1).encode())
    content[index % len(content)] ^= 1 << bit
    with pytest.raises(CorruptBatchError):
        decode(bytes(content))


@given(share=st.floats(0, 0.999))
@settings(max_examples=30, deadline=None)
def test_truncated_file_is_detected(make_entry: MakeEntry, share: float) -> None:
    content = make_batch([make_entry(1, 4)], 1).encode()
    with pytest.raises(CorruptBatchError):
        decode(content[: int(share * len(content))])
