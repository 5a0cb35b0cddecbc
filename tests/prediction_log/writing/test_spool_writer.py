"""The queue in memory keeps its bound, and counts what it refuses."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from rossmann.prediction_log.records import LoggedPrediction
from rossmann.prediction_log.writing.spool_writer import MemoryQueue

MakeEntry = Callable[..., LoggedPrediction]
STEPS = st.lists(
    st.one_of(st.tuples(st.just("put"), st.integers(1, 12)), st.tuples(st.just("take"), st.just(5)))
)


@given(steps=STEPS)
def test_it_holds_what_it_took_in_order_and_no_more_than_its_bound(
    make_entry: MakeEntry, steps: list[tuple[str, int]]
) -> None:
    intake = MemoryQueue(most_rows=20, hurry_rows=10)
    accepted: list[LoggedPrediction] = []
    taken: list[LoggedPrediction] = []
    refused = 0
    for number, (what, rows) in enumerate(steps):
        if what == "take":
            some = intake.take(rows)
            intake.acknowledge(sum(len(entry.rows) for entry in some))
            taken += some
            continue
        room = 20 - sum(len(entry.rows) for entry in accepted[len(taken) :])
        entry = make_entry(number, rows)
        assert intake.put(entry) == (rows <= room)
        if rows <= room:
            accepted.append(entry)
        else:
            refused += rows
        assert intake.rows <= 20
    assert intake.dropped == refused
    while some := intake.take(5):
        taken += some
    assert taken == accepted


def test_one_that_is_larger_than_all_the_room_is_taken_alone(make_entry: MakeEntry) -> None:
    intake = MemoryQueue(most_rows=20, hurry_rows=10)
    assert intake.put(make_entry(1, 50))
    assert not intake.put(make_entry(2, 1))
    assert [len(entry.rows) for entry in intake.take(5)] == [50]


def test_rows_that_are_not_kept_yet_still_count(make_entry: MakeEntry) -> None:
    intake = MemoryQueue(most_rows=2, hurry_rows=2)
    intake.put(make_entry(1, 2))
    intake.take(10)
    assert not intake.put(make_entry(2))
    intake.acknowledge(2)
    assert intake.put(make_entry(3))


def test_many_rows_call_for_hurry(make_entry: MakeEntry) -> None:
    intake = MemoryQueue(most_rows=20, hurry_rows=10)
    intake.put(make_entry(1, 9))
    assert not intake.high_water.is_set()
    intake.put(make_entry(2, 1))
    assert intake.high_water.is_set()


def test_a_closed_one_refuses_and_counts(make_entry: MakeEntry) -> None:
    intake = MemoryQueue(most_rows=20, hurry_rows=10)
    intake.close()
    assert not intake.put(make_entry(1, 3))
    assert intake.dropped == 3
