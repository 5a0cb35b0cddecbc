"""Tables of the prediction log, and engines for SQLite and PostgreSQL by URL.

``logged_requests`` has a row for each answered request, ``logged_forecasts`` one for each of its
forecast rows; the view ``predictions`` joins them, for people. So what is the same for 41,088 rows
is stored once, and queries read one flat table. ``log_writers`` holds the last batch number of each
process that logged: with it each row arrives exactly once. ``log_meta`` holds the schema version.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from rossmann.addresses import with_driver
from rossmann.errors import DataError, ServiceError, SettingsError, first_line

SCHEMA_VERSION: Final = 2
"""2: with the column ``in_training``."""
ENTRY_BITS: Final = 40
"""A request's id: the writer's id, and in these lower bits the request's number of that writer."""
BUSY_SECONDS: Final = 0.25
"""How long SQLite waits for a lock; callers try again."""

_BIGINT: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TEXT: Final = sa.Text()
_DOUBLE: Final[sa.Double[float]] = sa.Double()
_SMALLINT: Final = sa.SmallInteger()
_ADVISORY_LOCK: Final = 7_405_136
_POSTGRES_OPTIONS: Final = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    # A server that no longer answers is detected within these milliseconds.
    "tcp_user_timeout": 20_000,
    "application_name": "rossmann prediction log",
}


class NewerSchemaError(DataError):
    """The tables were created by a newer release of this program."""


metadata: Final = sa.MetaData()
meta: Final = sa.Table(
    "log_meta",
    metadata,
    sa.Column("name", _TEXT, primary_key=True, doc="name of the entry: `schema` or `pruned_on`"),
    sa.Column(
        "value",
        _TEXT,
        nullable=False,
        doc="its value: version of these tables; day of the last deletion of old rows",
    ),
    info={"doc": "Version of these tables."},
)
writers: Final = sa.Table(
    "log_writers",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, doc="number of the writer"),
    sa.Column(
        "name",
        _TEXT,
        nullable=False,
        unique=True,
        doc="name of its spool folder, one for each process",
    ),
    sa.Column(
        "last_batch",
        _BIGINT,
        nullable=False,
        doc="number of its last batch that is in the database",
    ),
    sa.Column("rows", _BIGINT, nullable=False, doc="rows of all its batches"),
    info={"doc": "Processes that ever logged, so that each row arrives exactly once."},
)
requests: Final = sa.Table(
    "logged_requests",
    metadata,
    sa.Column(
        "id",
        _BIGINT,
        primary_key=True,
        autoincrement=False,
        doc="key: the writer, and the number of its request",
    ),
    sa.Column(
        "request_id",
        _TEXT,
        nullable=False,
        doc="id of the response; a caller may choose it, so it need not be unique",
    ),
    sa.Column(
        "answered_at",
        sa.DateTime(timezone=True),
        nullable=False,
        doc="time of the response, in UTC",
    ),
    sa.Column("door", _TEXT, nullable=False, doc="endpoint: `predict`, `file` or `explain`"),
    sa.Column(
        "role",
        _TEXT,
        nullable=False,
        doc="`answer`, `challenger` (the answer of a challenger), `shadow` (only logged)",
    ),
    sa.Column(
        "caller", _TEXT, nullable=False, doc="name of the key or of the token; never the key"
    ),
    sa.Column("model_version", sa.Integer, nullable=False, doc="version that forecast the rows"),
    sa.Column("model_stage", _TEXT, nullable=False, doc="its stage"),
    sa.Column("as_of", sa.Date, nullable=False, doc="origin of the forecasts"),
    sa.Column("objective", _TEXT, nullable=False, doc="`accuracy` or `unbiased`"),
    sa.Column("latency_seconds", _DOUBLE, doc="duration of the whole request"),
    sa.Column("rows", sa.Integer, nullable=False, doc="number of its rows"),
    sa.Column("batch", _BIGINT, nullable=False, doc="number of the spool file that brought it"),
    sa.Index("logged_requests_answered_at", "answered_at"),
    sa.Index("logged_requests_request_id", "request_id"),
    info={"doc": "Answered requests, a row for each."},
)
forecasts: Final = sa.Table(
    "logged_forecasts",
    metadata,
    sa.Column(
        "request",
        _BIGINT,
        primary_key=True,
        autoincrement=False,
        doc="`id` of its request in `logged_requests`",
    ),
    sa.Column(
        "row",
        sa.Integer,
        primary_key=True,
        autoincrement=False,
        doc="index of the row in the request, from 0",
    ),
    sa.Column("store", sa.Integer, nullable=False, doc="field `Store` of the row"),
    sa.Column("date", sa.Date, nullable=False, doc="field `Date` of the row"),
    sa.Column("open", _SMALLINT, nullable=False, doc="field `Open` of the row"),
    sa.Column("promo", _SMALLINT, nullable=False, doc="field `Promo` of the row"),
    sa.Column("state_holiday", _TEXT, nullable=False, doc="field `StateHoliday` of the row"),
    sa.Column("school_holiday", _SMALLINT, nullable=False, doc="field `SchoolHoliday` of the row"),
    sa.Column("horizon", sa.Integer, nullable=False, doc="`date` less `as_of`, in days"),
    sa.Column("forecast", _DOUBLE, doc="forecast in sales, unrounded"),
    sa.Column(
        "lower_80", _DOUBLE, doc="lower bound of the 80 % interval; null where it was not requested"
    ),
    sa.Column("upper_80", _DOUBLE, doc="its upper bound"),
    sa.Column(
        "lower_95", _DOUBLE, doc="lower bound of the 95 % interval; null where it was not requested"
    ),
    sa.Column("upper_95", _DOUBLE, doc="its upper bound"),
    sa.Column("bounds", _TEXT, doc="bounds of other levels, as JSON: level to lower and upper"),
    # Null in rows of releases that did not note it.
    sa.Column(
        "in_training",
        _SMALLINT,
        doc="1 for an open row whose day the version learned from, else 0; null where not noted",
    ),
    sa.Index("logged_forecasts_store_date", "store", "date"),
    # SQLite then stores rows in the order of their key: appended at the end, read in one scan.
    sqlite_with_rowid=False,
    info={"doc": "Rows of the requests, with their forecasts."},
)

_VIEW_COLUMNS: Final = (
    "store", "date", "open", "promo", "state_holiday", "school_holiday", "horizon", "forecast",
    "lower_80", "upper_80", "lower_95", "upper_95", "bounds",
)  # fmt: skip


def predictions_query(version: int = SCHEMA_VERSION) -> sa.Select[Any]:
    """Rows of the view ``predictions`` and of an export, from tables of that schema version."""
    in_training = forecasts.c.in_training if version > 1 else sa.null().label("in_training")
    return (
        sa.select(
            requests.c.request_id,
            forecasts.c.row,
            *(
                requests.c[name]
                for name in (
                    "answered_at",
                    "door",
                    "role",
                    "caller",
                    "model_version",
                    "model_stage",
                )
            ),
            requests.c.as_of,
            requests.c.objective,
            *(forecasts.c[name] for name in _VIEW_COLUMNS),
            requests.c.latency_seconds,
            requests.c.batch,
            in_training,
        )
        .select_from(requests)
        .join(forecasts, forecasts.c.request == requests.c.id)
    )


def create_tables(connection: sa.Connection) -> None:
    """Create or upgrade the tables, within a transaction; raises ``NewerSchemaError``."""
    postgresql = connection.dialect.name == "postgresql"
    if postgresql:
        # Where several processes start at once, one creates the tables and the others wait.
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
    version = schema_version(connection)
    if version == SCHEMA_VERSION:
        return
    query = predictions_query().compile(dialect=connection.dialect)
    if version is None:
        metadata.create_all(connection)
        connection.exec_driver_sql(f"CREATE VIEW predictions AS {query}")
        connection.execute(meta.insert().values(name="schema", value=str(SCHEMA_VERSION)))
        return
    connection.exec_driver_sql(f"ALTER TABLE {forecasts.name} ADD COLUMN in_training SMALLINT")
    if (
        postgresql
    ):  # replaced, and not dropped, because it may have readers with rights of their own
        connection.exec_driver_sql(f"CREATE OR REPLACE VIEW predictions AS {query}")
    else:
        connection.exec_driver_sql("DROP VIEW predictions")
        connection.exec_driver_sql(f"CREATE VIEW predictions AS {query}")
    connection.execute(
        meta.update().where(meta.c.name == "schema").values(value=str(SCHEMA_VERSION))
    )


def schema_version(connection: sa.Connection) -> int | None:
    """Version of the existing tables, None where there are none; raises ``NewerSchemaError``."""
    if not sa.inspect(connection).has_table(meta.name):
        return None
    value = connection.scalar(sa.select(meta.c.value).where(meta.c.name == "schema"))
    if value is None:
        return None
    version = int(value)
    if version > SCHEMA_VERSION:
        raise NewerSchemaError(
            f"the prediction log has tables of version {version}, and this release knows"
            f" {SCHEMA_VERSION}: update the program, or name another database in"
            " ROSSMANN_DATABASE_URL"
        )
    return version


def open_engine(url: str, busy_seconds: float = BUSY_SECONDS) -> sa.Engine:
    """An engine for that URL, not connected yet; raises ``SettingsError`` for a bad URL."""
    try:
        parsed = sa.make_url(with_driver(url))
        backend = parsed.get_backend_name()
        if backend == "sqlite" and parsed.database:
            return _open_sqlite(parsed, busy_seconds)
        if backend == "postgresql" and parsed.get_driver_name() == "psycopg2":
            options = {k: v for k, v in _POSTGRES_OPTIONS.items() if k not in parsed.query}
            return sa.create_engine(
                parsed, connect_args=options, pool_size=1, pool_pre_ping=True, hide_parameters=True
            )
    except (ArgumentError, ValueError, ImportError) as error:
        raise SettingsError(f"ROSSMANN_DATABASE_URL cannot be used: {first_line(error)}") from error
    raise SettingsError(
        "ROSSMANN_DATABASE_URL must be sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"
    )


def _open_sqlite(url: sa.URL, busy_seconds: float) -> sa.Engine:
    path = Path(str(url.database))
    engine = sa.create_engine(
        url, connect_args={"timeout": busy_seconds}, pool_size=1, hide_parameters=True
    )
    opened: list[tuple[int, int]] = []

    def check_same_file(_: object, __: object, ___: object) -> None:
        # Rows written to an open file that was deleted would be lost.
        status = path.stat() if path.exists() else None
        current = (status.st_dev, status.st_ino) if status else (0, 0)
        if opened and opened[0] != current:
            opened.clear()
            raise sa.exc.DisconnectionError("the database file is another one now")
        opened[:] = [current]

    def make_folder(*_: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)

    sa.event.listen(engine, "do_connect", make_folder)
    sa.event.listen(engine, "connect", _set_pragmas)
    sa.event.listen(engine, "begin", _begin)
    sa.event.listen(engine, "checkout", check_same_file)
    return engine


def _set_pragmas(connection: Any, _: object) -> None:
    # The driver would begin a transaction only at the first change: ``_begin`` does it.
    connection.isolation_level = None
    connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # works only before the first table
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        connection.execute("PRAGMA journal_mode=WAL")
    # A spool file is deleted after the commit, so the commit must be on the disk.
    connection.execute("PRAGMA synchronous=FULL")
    # Rows come for any store and day: with a small cache, index pages would be read again.
    connection.execute("PRAGMA cache_size=-32000")
    connection.execute("PRAGMA wal_autocheckpoint=4000")


def _begin(connection: sa.Connection) -> None:
    read_only = connection.get_execution_options().get("log_reads")
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


@contextmanager
def translate_errors(engine: sa.Engine) -> Iterator[None]:
    """Turn the driver's errors into ``ServiceError``: one line, without the password."""
    try:
        yield
    except SQLAlchemyError as error:
        reason = first_line(getattr(error, "orig", None) or error)
        password = engine.url.password
        if password:
            reason = reason.replace(str(password), "***")
        raise ServiceError(f"the prediction log's database: {reason}") from error
