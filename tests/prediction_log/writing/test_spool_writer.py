"""Memory queue: bound, order, counts, high-water mark."""

from hypothesis import given
from hypothesis import strategies as st

from rossmann.prediction_log.records import LoggedPrediction
from rossmann.prediction_log.writing.spool_writer import MemoryQueue
from tests.fixtures.prediction_log import MakeEntry

STEPS = st.lists(
    st.one_of(st.tuples(st.just("put"), st.integers(1, 12)), st.tuples(st.just("take"), st.just(5)))
)


@given(steps=STEPS)
def test_queue_keeps_order_and_bound(make_entry: MakeEntry, steps: list[tuple[str, int]]) -> None:
    queue = MemoryQueue(max_rows=20, high_water_rows=10)
    accepted: list[LoggedPrediction] = []
    taken: list[LoggedPrediction] = []
    dropped = 0
    for number, (action, rows) in enumerate(steps):
        if action == "take":
            entries = queue.take(rows)
            queue.acknowledge(sum(len(entry.rows) for entry in entries))
            taken += entries
            continue
        room = 20 - sum(len(entry.rows) for entry in accepted[len(taken) :])
        entry = make_entry(number, rows)
        assert queue.put(entry) == (rows <= room)
        if rows <= room:
            accepted.append(entry)
        else:
            dropped += rows
        assert queue.rows <= 20
    assert queue.dropped == dropped
    while entries := queue.take(5):
        taken += entries
    assert taken == accepted


def test_entry_larger_than_the_bound_is_accepted_alone(make_entry: MakeEntry) -> None:
    queue = MemoryQueue(max_rows=20, high_water_rows=10)
    assert queue.put(make_entry(1, 50))
    assert not queue.put(make_entry(2, 1))
    assert [len(entry.rows) for entry in queue.take(5)] == [50]


def test_rows_count_until_acknowledged(make_entry: MakeEntry) -> None:
    queue = MemoryQueue(max_rows=2, high_water_rows=2)
    queue.put(make_entry(1, 2))
    queue.take(10)
    assert not queue.put(make_entry(2))
    queue.acknowledge(2)
    assert queue.put(make_entry(3))


def test_high_water_is_set_at_its_rows(make_entry: MakeEntry) -> None:
    queue = MemoryQueue(max_rows=20, high_water_rows=10)
    queue.put(make_entry(1, 9))
    assert not queue.high_water.is_set()
    queue.put(make_entry(2, 1))
    assert queue.high_water.is_set()


def test_closed_queue_drops_and_counts(make_entry: MakeEntry) -> None:
    queue = MemoryQueue(max_rows=20, high_water_rows=10)
    queue.close()
    assert not queue.put(make_entry(1, 3))
    assert queue.dropped == 3
