"""Entries become columns and files, and come back as they were."""

import json
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rossmann.prediction_log.records import (
    CorruptBatchError,
    LoggedPrediction,
    concat,
    decode,
    make_batch,
)

MakeEntry = Callable[..., LoggedPrediction]
LEVELS = st.lists(st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.123456789]), unique=True, max_size=4)
SHAPES = st.lists(st.tuples(st.integers(0, 5), LEVELS), min_size=1, max_size=6)


def banded(
    entry: LoggedPrediction, levels: list[float]
) -> tuple[tuple[float, np.ndarray, np.ndarray], ...]:
    return tuple((level, entry.sales * (1 - level / 9), entry.sales + level) for level in levels)


def of(
    entries: list[LoggedPrediction], rows: pl.DataFrame, column: str, entry: int
) -> list[object]:
    return rows.filter(pl.col("entry") == 7 + entry)[column].to_list()


@settings(max_examples=40, deadline=None)
@given(shapes=SHAPES, first_row=st.integers(0, 10**6))
def test_every_value_is_kept(
    make_entry: MakeEntry, shapes: list[tuple[int, list[float]]], first_row: int
) -> None:
    entries = []
    for number, (rows, levels) in enumerate(shapes):
        bare = make_entry(number, rows)
        bounds = banded(bare, levels)
        entries.append(make_entry(number, rows, bounds=bounds, first_row=first_row))
    batch = make_batch(entries, 7)
    assert len(batch) == sum(rows for rows, _ in shapes)
    assert batch.requests["entry"].to_list() == list(range(7, 7 + len(entries)))
    assert batch.requests["answered_at"].to_list() == [e.answered_at for e in entries]
    for number, entry in enumerate(entries):
        assert of(entries, batch.rows, "forecast", number) == entry.sales.tolist()
        assert of(entries, batch.rows, "store", number) == entry.rows.store.tolist()
        places = range(first_row, first_row + len(entry.rows))
        assert of(entries, batch.rows, "row", number) == list(places)
        expect_bounds(entry, batch.rows.filter(pl.col("entry") == 7 + number))
    assert decode(batch.encode()).rows.equals(batch.rows)
    assert decode(batch.encode()).requests.equals(batch.requests)


def expect_bounds(entry: LoggedPrediction, rows: pl.DataFrame) -> None:
    given = {level: (lower.tolist(), upper.tolist()) for level, lower, upper in entry.bounds}
    for level, word in ((0.8, "80"), (0.95, "95")):
        none = [None] * len(entry.rows)
        lower, upper = given.pop(level, (none, none))
        assert rows[f"lower_{word}"].to_list() == lower
        assert rows[f"upper_{word}"].to_list() == upper
    for place, text in enumerate(rows["bounds"]):
        told = {} if text is None else json.loads(text)
        assert told == {str(k): [low[place], high[place]] for k, (low, high) in given.items()}


def test_batches_that_are_joined_hold_all_rows_in_order(make_entry: MakeEntry) -> None:
    both = concat([make_batch([make_entry(1, 3)], 1), make_batch([make_entry(2, 2)], 2)])
    assert both.rows["entry"].to_list() == [1, 1, 1, 2, 2]
    assert both.requests["request_id"].to_list() == ["request-1", "request-2"]


def test_what_is_no_number_becomes_empty(make_entry: MakeEntry) -> None:
    """A database may refuse NaN; one such row must not keep the others out."""
    sales = np.array([1.0, np.nan, np.inf])
    entry = make_entry(1, 3, sales=sales, bounds=((0.8, sales, sales), (0.9, sales, sales)))
    rows = make_batch([entry], 1).rows
    assert rows["forecast"].to_list() == rows["lower_80"].to_list() == [1.0, None, None]
    assert json.loads(rows["bounds"][1]) == {"0.9": [None, None]}


@given(text=st.text())
@settings(max_examples=60, deadline=None)
def test_any_text_becomes_one_that_any_database_takes(make_entry: MakeEntry, text: str) -> None:
    kept = make_batch([make_entry(1, caller=text)], 1).requests["caller"][0]
    assert kept.isprintable()
    assert len(kept) == min(len(text), 200)


def test_half_characters_are_replaced(make_entry: MakeEntry) -> None:
    kept = make_batch([make_entry(1, caller="a\ud800\x00b")], 1).requests["caller"][0]
    assert kept == "a??b"


def test_a_moment_is_kept_to_the_microsecond(make_entry: MakeEntry) -> None:
    moment = datetime(2099, 12, 31, 23, 59, 59, 999_999, UTC)
    batch = make_batch([make_entry(1, answered_at=moment)], 1)
    assert batch.requests["answered_at"][0] == moment


@given(place=st.integers(0, 10**9), bit=st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_one_bit_of_damage_is_seen(make_entry: MakeEntry, place: int, bit: int) -> None:
    content = bytearray(make_batch([make_entry(1, 4)], 1).encode())
    content[place % len(content)] ^= 1 << bit
    with pytest.raises(CorruptBatchError):
        decode(bytes(content))


@given(share=st.floats(0, 0.999))
@settings(max_examples=30, deadline=None)
def test_a_file_that_is_cut_off_is_seen(make_entry: MakeEntry, share: float) -> None:
    content = make_batch([make_entry(1, 4)], 1).encode()
    with pytest.raises(CorruptBatchError):
        decode(content[: int(share * len(content))])
