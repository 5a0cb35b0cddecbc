"""Each batch arrives exactly once, in SQLite and in PostgreSQL, however often it is offered."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rossmann.errors import ServiceError, SettingsError
from rossmann.prediction_log.database.sql_store import SqlLogStore
from rossmann.prediction_log.database.store_protocol import RejectedRowsError
from rossmann.prediction_log.database.tables import NewerSchemaError, open_engine
from rossmann.prediction_log.records import Batch, LoggedPrediction, make_batch

MakeEntry = Callable[..., LoggedPrediction]
Logged = Callable[[str], list[tuple[str, int]]]


@pytest.fixture
def store(url: str) -> Iterator[SqlLogStore]:
    store = SqlLogStore(url)
    yield store
    store.close()


def keys(*entries: LoggedPrediction) -> list[tuple[str, int]]:
    return sorted((e.request_id, row) for e in entries for row in range(len(e.rows)))


def numbered(make_entry: MakeEntry, *numbers: int) -> list[tuple[int, Batch]]:
    return [(n, make_batch([make_entry(2 * n, 2), make_entry(2 * n + 1)], 2 * n)) for n in numbers]


def expected(make_entry: MakeEntry, *numbers: int) -> list[tuple[str, int]]:
    entries = [(make_entry(2 * n, 2), make_entry(2 * n + 1)) for n in numbers]
    return keys(*(entry for both in entries for entry in both))


# The fixture's database is shared by the examples on purpose: each adds writers of its own.
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(offers=st.lists(st.tuples(st.integers(1, 6), st.integers(0, 3)), min_size=1, max_size=8))
def test_a_batch_that_is_offered_again_changes_nothing(
    store: SqlLogStore, url: str, make_entry: MakeEntry, offers: list[tuple[int, int]]
) -> None:
    """Offers overlap in any way; a writer's batches rise, as files in a folder do."""
    writer = f"writer-{datetime.now(UTC).timestamp()}-{offers}"
    done = 0
    for first, more in offers:
        begin = min(first, done + 1)
        store.write(writer, numbered(make_entry, *range(begin, begin + more + 1)))
        done = max(done, begin + more)
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        of_writer = sa.text(
            "SELECT count(*), count(DISTINCT f.request), w.rows, w.last_batch"
            " FROM logged_forecasts f JOIN log_writers w ON w.id = f.request >> 40"
            " WHERE w.name = :writer GROUP BY w.rows, w.last_batch"
        )
        found = connection.execute(of_writer, {"writer": writer}).one()
    engine.dispose()
    assert tuple(found) == (3 * done, 2 * done, 3 * done, done)


def test_two_who_write_the_same_at_once_write_it_once(
    url: str, make_entry: MakeEntry, logged: Logged
) -> None:
    stores = [SqlLogStore(url) for _ in range(4)]
    stores[0].write("w", numbered(make_entry, 1))
    gate = threading.Barrier(len(stores))

    def offer(store: SqlLogStore) -> None:
        gate.wait()
        for number in range(2, 12):
            for _ in range(100):
                try:
                    store.write("w", numbered(make_entry, number))
                    break
                except ServiceError:
                    continue

    threads = [threading.Thread(target=offer, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        store.close()
    assert logged(url) == expected(make_entry, *range(1, 12))


def test_all_begin_at_once_on_an_empty_database(
    url: str, make_entry: MakeEntry, logged: Logged
) -> None:
    gate = threading.Barrier(4)
    failed: list[str] = []

    def begin(name: str) -> None:
        store = SqlLogStore(url)
        gate.wait()
        for _ in range(50):
            try:
                store.write(name, numbered(make_entry, 1))
                break
            except ServiceError as error:
                last = str(error)
        else:
            failed.append(last)
        store.close()

    threads = [threading.Thread(target=begin, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert logged(url) == sorted(expected(make_entry, 1) * 4)


def test_the_view_shows_what_was_answered(
    store: SqlLogStore, url: str, make_entry: MakeEntry
) -> None:
    entry = make_entry(5, 2, caller='a "quoted", \\N; name', door="file", role="shadow")
    closed = make_entry(6, caller="", bounds=())
    store.write("w", [(1, make_batch([entry, closed], 1))])
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        found = [
            dict(line)
            for line in connection.exec_driver_sql(
                'SELECT * FROM predictions ORDER BY request_id, "row"'
            ).mappings()
        ]
    engine.dispose()
    assert [line["caller"] for line in found] == [entry.caller, entry.caller, ""]
    assert [line["forecast"] for line in found] == [*entry.sales, *closed.sales]
    assert [line["lower_80"] for line in found] == [*entry.bounds[0][1], None]
    assert found[2]["bounds"] is None
    days = [date(1970, 1, 1) + timedelta(days=int(day)) for day in entry.rows.day]
    assert [str(line["date"]) for line in found[:2]] == [str(day) for day in days]
    assert [line["horizon"] for line in found[:2]] == [d - 16_640 for d in entry.rows.day]
    assert {line["state_holiday"] for line in found} <= set("0abc")
    assert (found[0]["door"], found[0]["role"], found[0]["model_version"]) == ("file", "shadow", 3)


def test_rows_at_fault_are_told_from_a_database_that_is_away(
    store: SqlLogStore, url: str, make_entry: MakeEntry, logged: Logged
) -> None:
    batch = make_batch([make_entry(1)], 1)
    nothing = pl.lit(None, pl.Int32).alias("store")
    broken = Batch(batch.requests, batch.rows.with_columns(nothing))
    store.write("w", [(1, batch)])
    with pytest.raises(RejectedRowsError):
        store.write("w", [(2, broken)])
    assert logged(url) == [("request-1", 0)]
    store.write("w", numbered(make_entry, 3))
    assert len(logged(url)) == 4


def test_tables_of_a_newer_release_are_refused(
    store: SqlLogStore, url: str, make_entry: MakeEntry
) -> None:
    store.write("w", numbered(make_entry, 1))
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE log_meta SET value = '2' WHERE name = 'schema'")
    engine.dispose()
    with pytest.raises(NewerSchemaError, match="version 2, and this release knows 1"):
        SqlLogStore(url).write("w", numbered(make_entry, 2))


def test_one_of_all_prunes_on_a_day(url: str) -> None:
    stores = [SqlLogStore(url) for _ in range(3)]
    first = [store.claim_pruning(date(2026, 3, 1)) for store in stores]
    second = [store.claim_pruning(date(2026, 3, 2)) for store in stores]
    back = [store.claim_pruning(date(2026, 2, 27)) for store in stores]  # the clock was set back
    assert first == second == back == [True, False, False]
    for store in stores:
        store.close()


def test_pruning_goes_by_steps_from_the_oldest_on(
    store: SqlLogStore, url: str, make_entry: MakeEntry, logged: Logged
) -> None:
    entries = [make_entry(number, 3) for number in range(20)]
    store.write("w", [(1, make_batch(entries, 1))])
    limit = entries[12].answered_at
    assert store.prune(limit, most_rows=10) == 9
    assert logged(url) == keys(*entries[3:])
    assert [store.prune(limit, most_rows=20) for _ in range(3)] == [18, 9, 0]
    assert logged(url) == keys(*entries[12:])
    # What is gone does not come back: its batch is known.
    store.write("w", [(1, make_batch(entries, 1))])
    assert logged(url) == keys(*entries[12:])


def test_a_large_request_is_pruned_whole(
    store: SqlLogStore, url: str, make_entry: MakeEntry, logged: Logged
) -> None:
    entries = [make_entry(0, 50), make_entry(1, 3)]
    store.write("w", [(1, make_batch(entries, 1))])
    assert store.prune(entries[1].answered_at + timedelta(1), most_rows=10) == 50
    assert logged(url) == keys(entries[1])


def test_pruned_room_is_given_back(sqlite_url: str, make_entry: MakeEntry) -> None:
    store = SqlLogStore(sqlite_url)
    entry = make_entry(1, 20_000)
    store.write("w", [(1, make_batch([entry], 1))])
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    _checkpoint(sqlite_url)
    before = path.stat().st_size
    store.prune(entry.answered_at + timedelta(1), most_rows=1)
    store.close()
    _checkpoint(sqlite_url)
    assert path.stat().st_size < before / 4


def _checkpoint(url: str) -> None:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()


def test_a_file_that_was_deleted_is_made_anew(
    sqlite_url: str, make_entry: MakeEntry, logged: Logged
) -> None:
    """Else rows would go to a file that has no name any more."""
    store = SqlLogStore(sqlite_url)
    store.write("w", numbered(make_entry, 1))
    for path in Path(sqlite_url.removeprefix("sqlite:///")).parent.iterdir():
        path.unlink()
    for number in (2, 3):
        try:
            store.write("w", numbered(make_entry, number))
        except ServiceError:
            store.write("w", numbered(make_entry, number))
    store.close()
    assert logged(sqlite_url) == expected(make_entry, 2, 3)


@pytest.mark.parametrize(
    "url",
    ["sqlite://", "mysql://u:secret@h/d", "postgresql+asyncpg://u:secret@h/d", "postgresql://u:secret@h:x/d"],
)  # fmt: skip
def test_a_url_that_is_no_use_is_named_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="ROSSMANN_DATABASE_URL") as told:
        open_engine(url)
    assert "secret" not in str(told.value)


def test_a_database_that_is_away_is_one_line_without_the_password() -> None:
    with pytest.raises(ServiceError) as told:
        SqlLogStore("postgresql://u:secret@127.0.0.1:1/d").claim_pruning(date(2026, 3, 1))
    assert "\n" not in str(told.value)
    assert "secret" not in str(told.value)
