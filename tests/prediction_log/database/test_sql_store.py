"""SQL store, in SQLite and PostgreSQL: exactly-once writes, schema, pruning, errors."""

import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rossmann.errors import ServiceError, SettingsError
from rossmann.models.inference.row_warnings import TrainingSpan
from rossmann.prediction_log.database.sql_store import SqlLogStore
from rossmann.prediction_log.database.tables import NewerSchemaError, open_engine, predictions_query
from rossmann.prediction_log.queries.export import ExportFilter, LogReader
from rossmann.prediction_log.records import Batch, RejectedRowsError
from tests.fixtures.prediction_log import MakeEntry, ReadRowKeys, make_batch, row_keys


@pytest.fixture
def store(url: str) -> Iterator[SqlLogStore]:
    store = SqlLogStore(url)
    yield store
    store.close()


def make_batches(make_entry: MakeEntry, *numbers: int) -> list[tuple[int, Batch]]:
    return [(n, make_batch([make_entry(2 * n, 2), make_entry(2 * n + 1)], 2 * n)) for n in numbers]


def expected_keys(make_entry: MakeEntry, *numbers: int) -> list[tuple[str, int]]:
    entries = [(make_entry(2 * n, 2), make_entry(2 * n + 1)) for n in numbers]
    return row_keys([entry for both in entries for entry in both])


# The examples share the database; each has its own writers.
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(ranges=st.lists(st.tuples(st.integers(1, 6), st.integers(0, 3)), min_size=1, max_size=8))
def test_writing_a_batch_again_changes_nothing(
    store: SqlLogStore, url: str, make_entry: MakeEntry, ranges: list[tuple[int, int]]
) -> None:
    """Ranges overlap in any way; the batch numbers of a writer increase."""
    writer = f"writer-{datetime.now(UTC).timestamp()}-{ranges}"
    done = 0
    for first, extra in ranges:
        start = min(first, done + 1)
        store.write(writer, make_batches(make_entry, *range(start, start + extra + 1)))
        done = max(done, start + extra)
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        of_writer = sa.text(
            "SELECT count(*), count(DISTINCT f.request), w.rows, w.last_batch"
            " FROM logged_forecasts f JOIN log_writers w ON w.id = f.request >> 40"
            " WHERE w.name = :writer GROUP BY w.rows, w.last_batch"
        )
        totals = connection.execute(of_writer, {"writer": writer}).one()
    engine.dispose()
    assert tuple(totals) == (3 * done, 2 * done, 3 * done, done)


def test_concurrent_writes_of_one_batch_write_it_once(
    url: str, make_entry: MakeEntry, logged: ReadRowKeys
) -> None:
    stores = [SqlLogStore(url) for _ in range(4)]
    stores[0].write("w", make_batches(make_entry, 1))
    barrier = threading.Barrier(len(stores))

    def write_all(store: SqlLogStore) -> None:
        barrier.wait()
        for number in range(2, 12):
            for _ in range(100):
                try:
                    store.write("w", make_batches(make_entry, number))
                    break
                except ServiceError:
                    continue

    threads = [threading.Thread(target=write_all, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        store.close()
    assert logged(url) == expected_keys(make_entry, *range(1, 12))


def test_concurrent_writers_create_the_tables_once(
    url: str, make_entry: MakeEntry, logged: ReadRowKeys
) -> None:
    barrier = threading.Barrier(4)
    errors: list[str] = []

    def start_writer(name: str) -> None:
        store = SqlLogStore(url)
        barrier.wait()
        for _ in range(50):
            try:
                store.write(name, make_batches(make_entry, 1))
                break
            except ServiceError as error:
                last = str(error)
        else:
            errors.append(last)
        store.close()

    threads = [threading.Thread(target=start_writer, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert logged(url) == sorted(expected_keys(make_entry, 1) * 4)


def test_view_shows_the_logged_values(store: SqlLogStore, url: str, make_entry: MakeEntry) -> None:
    entry = make_entry(5, 2, caller='a "quoted", \\N; name', endpoint="file", role="shadow")
    without_bounds = make_entry(6, caller="", bounds=())
    store.write("w", [(1, make_batch([entry, without_bounds], 1))])
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        view_rows = [
            dict(row)
            for row in connection.exec_driver_sql(
                'SELECT * FROM predictions ORDER BY request_id, "row"'
            ).mappings()
        ]
    engine.dispose()
    assert [row["caller"] for row in view_rows] == [entry.caller, entry.caller, ""]
    assert [row["forecast"] for row in view_rows] == [*entry.sales, *without_bounds.sales]
    assert [row["lower_80"] for row in view_rows] == [*entry.bounds[0][1], None]
    assert view_rows[2]["bounds"] is None
    days = [date(1970, 1, 1) + timedelta(days=int(day)) for day in entry.rows.day]
    assert [str(row["date"]) for row in view_rows[:2]] == [str(day) for day in days]
    assert [row["horizon"] for row in view_rows[:2]] == [d - 16_640 for d in entry.rows.day]
    assert {row["state_holiday"] for row in view_rows} <= set("0abc")
    assert (view_rows[0]["door"], view_rows[0]["role"], view_rows[0]["model_version"]) == (
        "file",
        "shadow",
        3,
    )


def test_invalid_rows_raise_rejected_rows_error(
    store: SqlLogStore, url: str, make_entry: MakeEntry, logged: ReadRowKeys
) -> None:
    batch = make_batch([make_entry(1)], 1)
    null_store = pl.lit(None, pl.Int32).alias("store")
    invalid = Batch(batch.requests, batch.rows.with_columns(null_store))
    store.write("w", [(1, batch)])
    with pytest.raises(RejectedRowsError):
        store.write("w", [(2, invalid)])
    assert logged(url) == [("request-1", 0)]
    store.write("w", make_batches(make_entry, 3))
    assert len(logged(url)) == 4


def test_newer_schema_raises(store: SqlLogStore, url: str, make_entry: MakeEntry) -> None:
    store.write("w", make_batches(make_entry, 1))
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE log_meta SET value = '3' WHERE name = 'schema'")
    engine.dispose()
    with pytest.raises(NewerSchemaError, match="version 3, and this release knows 2"):
        SqlLogStore(url).write("w", make_batches(make_entry, 2))


def remove_in_training(url: str) -> None:
    """Make the tables those of the release before, which had no column ``in_training``."""
    engine = sa.create_engine(url)
    query = predictions_query()
    old = query.with_only_columns(*list(query.selected_columns)[:-1]).compile(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP VIEW predictions")
        connection.exec_driver_sql("ALTER TABLE logged_forecasts DROP COLUMN in_training")
        connection.exec_driver_sql(f"CREATE VIEW predictions AS {old}")
        connection.exec_driver_sql("UPDATE log_meta SET value = '1' WHERE name = 'schema'")
    engine.dispose()


def test_tables_of_an_older_release_are_read_and_upgraded(
    url: str, make_entry: MakeEntry, tmp_path: Path
) -> None:
    def exported() -> list[int | None]:
        reader = LogReader(url)
        reader.export(ExportFilter(), tmp_path / "x.parquet", lambda _: None)
        reader.close()
        return pl.read_parquet(tmp_path / "x.parquet")["in_training"].to_list()

    writer = SqlLogStore(url)
    writer.write("w", make_batches(make_entry, 1))
    writer.close()
    remove_in_training(url)
    assert exported() == [None] * 3
    learned = make_entry(9, 1, training=TrainingSpan(0, 10**6))
    learned.rows.open[:] = 1
    stores = [SqlLogStore(url), SqlLogStore(url)]
    for number, store in enumerate(stores, 2):
        store.write("w", [(number, make_batch([make_entry(2 * number), learned], 2 * number))])
        store.close()
    assert exported() == [None] * 3 + [0, 0, 1, 1]
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        view = "SELECT count(*) FROM predictions WHERE in_training = 1"
        assert connection.exec_driver_sql(view).scalar_one() == 2
        version = "SELECT value FROM log_meta WHERE name = 'schema'"
        assert connection.exec_driver_sql(version).scalar_one() == "2"
    engine.dispose()


def test_one_store_a_day_claims_pruning(url: str) -> None:
    stores = [SqlLogStore(url) for _ in range(3)]
    first = [store.claim_pruning(date(2026, 3, 1)) for store in stores]
    second = [store.claim_pruning(date(2026, 3, 2)) for store in stores]
    clock_set_back = [store.claim_pruning(date(2026, 2, 27)) for store in stores]
    assert first == second == clock_set_back == [True, False, False]
    for store in stores:
        store.close()


def test_prune_deletes_the_oldest_rows_first(
    store: SqlLogStore, url: str, make_entry: MakeEntry, logged: ReadRowKeys
) -> None:
    entries = [make_entry(number, 3) for number in range(20)]
    store.write("w", [(1, make_batch(entries, 1))])
    before = entries[12].answered_at
    assert store.prune(before, max_rows=10) == 9
    assert logged(url) == row_keys(entries[3:])
    assert [store.prune(before, max_rows=20) for _ in range(3)] == [18, 9, 0]
    assert logged(url) == row_keys(entries[12:])
    # Pruned rows are not written again: the number of their batch is stored.
    store.write("w", [(1, make_batch(entries, 1))])
    assert logged(url) == row_keys(entries[12:])


def test_large_request_is_pruned_whole(
    store: SqlLogStore, url: str, make_entry: MakeEntry, logged: ReadRowKeys
) -> None:
    entries = [make_entry(0, 50), make_entry(1, 3)]
    store.write("w", [(1, make_batch(entries, 1))])
    assert store.prune(entries[1].answered_at + timedelta(1), max_rows=10) == 50
    assert logged(url) == row_keys(entries[1:])


def test_prune_shrinks_the_sqlite_file(sqlite_url: str, make_entry: MakeEntry) -> None:
    store = SqlLogStore(sqlite_url)
    entry = make_entry(1, 20_000)
    store.write("w", [(1, make_batch([entry], 1))])
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    checkpoint(sqlite_url)
    before = path.stat().st_size
    store.prune(entry.answered_at + timedelta(1), max_rows=1)
    store.close()
    checkpoint(sqlite_url)
    assert path.stat().st_size < before / 4


def checkpoint(url: str) -> None:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()


def test_deleted_sqlite_file_is_created_again(
    sqlite_url: str, make_entry: MakeEntry, logged: ReadRowKeys
) -> None:
    """Otherwise, rows would be written to a deleted file."""
    store = SqlLogStore(sqlite_url)
    store.write("w", make_batches(make_entry, 1))
    for path in Path(sqlite_url.removeprefix("sqlite:///")).parent.iterdir():
        path.unlink()
    for number in (2, 3):
        try:
            store.write("w", make_batches(make_entry, number))
        except ServiceError:
            store.write("w", make_batches(make_entry, number))
    store.close()
    assert logged(sqlite_url) == expected_keys(make_entry, 2, 3)


@pytest.mark.parametrize(
    "url",
    ["sqlite://", "mysql://u:secret@h/d", "postgresql+asyncpg://u:secret@h/d", "postgresql://u:secret@h:x/d"],
)  # fmt: skip
def test_bad_url_raises_without_the_password(url: str) -> None:
    with pytest.raises(SettingsError, match="ROSSMANN_DATABASE_URL") as caught:
        open_engine(url)
    assert "secret" not in str(caught.value)


def test_unreachable_database_error_is_one_line_without_the_password() -> None:
    with pytest.raises(ServiceError) as caught:
        SqlLogStore("postgresql://u:secret@127.0.0.1:1/d").claim_pruning(date(2026, 3, 1))
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
