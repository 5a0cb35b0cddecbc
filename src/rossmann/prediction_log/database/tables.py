"""The prediction log's tables, and how they are made.

``logged_requests`` has a line for each answered request, ``logged_forecasts`` one for each of its
rows; the view ``predictions`` joins them, for people. So what is the same for 41,088 rows is kept
once, and what a person queries is one flat table. ``log_writers`` remembers the last batch of each
process that logged: what makes each row arrive exactly once. ``log_meta`` holds the schema version.

MERGED: Opening the database of the prediction log: SQLite or PostgreSQL, by URL.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from rossmann.errors import DataError, ServiceError, SettingsError

SCHEMA: Final = 1
ENTRY_BITS: Final = 40
"""A request's id is its writer's id, and in the lower bits its number among the writer's."""

_BIG: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TEXT: Final = sa.Text()
_REAL: Final[sa.Double[float]] = sa.Double()
_SMALL: Final = sa.SmallInteger()
_ADVISORY_LOCK: Final = 7_405_136


class NewerSchemaError(DataError):
    """A database that a newer release of this program made."""


metadata: Final = sa.MetaData()
meta: Final = sa.Table(
    "log_meta",
    metadata,
    sa.Column("name", _TEXT, primary_key=True),
    sa.Column("value", _TEXT, nullable=False),
)
writers: Final = sa.Table(
    "log_writers",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", _TEXT, nullable=False, unique=True),
    sa.Column("last_batch", _BIG, nullable=False),
    sa.Column("rows", _BIG, nullable=False),
)
requests: Final = sa.Table(
    "logged_requests",
    metadata,
    sa.Column("id", _BIG, primary_key=True, autoincrement=False),
    sa.Column("request_id", _TEXT, nullable=False),
    sa.Column("answered_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("door", _TEXT, nullable=False),
    sa.Column("role", _TEXT, nullable=False),
    sa.Column("caller", _TEXT, nullable=False),
    sa.Column("model_version", sa.Integer, nullable=False),
    sa.Column("model_stage", _TEXT, nullable=False),
    sa.Column("as_of", sa.Date, nullable=False),
    sa.Column("objective", _TEXT, nullable=False),
    sa.Column("latency_seconds", _REAL),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("batch", _BIG, nullable=False),
    sa.Index("logged_requests_answered_at", "answered_at"),
    sa.Index("logged_requests_request_id", "request_id"),
)
forecasts: Final = sa.Table(
    "logged_forecasts",
    metadata,
    sa.Column("request", _BIG, primary_key=True, autoincrement=False),
    sa.Column("row", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("store", sa.Integer, nullable=False),
    sa.Column("date", sa.Date, nullable=False),
    sa.Column("open", _SMALL, nullable=False),
    sa.Column("promo", _SMALL, nullable=False),
    sa.Column("state_holiday", _TEXT, nullable=False),
    sa.Column("school_holiday", _SMALL, nullable=False),
    sa.Column("horizon", sa.Integer, nullable=False),
    sa.Column("forecast", _REAL),
    sa.Column("lower_80", _REAL),
    sa.Column("upper_80", _REAL),
    sa.Column("lower_95", _REAL),
    sa.Column("upper_95", _REAL),
    sa.Column("bounds", _TEXT),
    sa.Index("logged_forecasts_store_date", "store", "date"),
    # In SQLite the rows lie in the order of their key: written at the end, read in one sweep.
    sqlite_with_rowid=False,
)

_VIEW_OF_FORECASTS: Final = (
    "store", "date", "open", "promo", "state_holiday", "school_holiday", "horizon", "forecast",
    "lower_80", "upper_80", "lower_95", "upper_95", "bounds",
)  # fmt: skip
predictions_view: Final = (
    sa.select(
        requests.c.request_id,
        forecasts.c.row,
        *(
            requests.c[name]
            for name in ("answered_at", "door", "role", "caller", "model_version", "model_stage")
        ),
        requests.c.as_of,
        requests.c.objective,
        *(forecasts.c[name] for name in _VIEW_OF_FORECASTS),
        requests.c.latency_seconds,
        requests.c.batch,
    )
    .select_from(requests)
    .join(forecasts, forecasts.c.request == requests.c.id)
)
"""What the view ``predictions`` shows, and an export holds."""


def create_tables(connection: sa.Connection) -> None:
    """Make what is missing; raises ``NewerSchema``. To be called within a transaction."""
    if connection.dialect.name == "postgresql":
        # Several processes begin at once: one makes the tables, the others wait here for a moment.
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
    if schema_of(connection) is None:
        metadata.create_all(connection)
        text = predictions_view.compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"CREATE VIEW predictions AS {text}")
        connection.execute(meta.insert().values(name="schema", value=str(SCHEMA)))


def schema_of(connection: sa.Connection) -> int | None:
    """The version of the tables there; None where there are none. Raises ``NewerSchema``."""
    if not sa.inspect(connection).has_table(meta.name):
        return None
    found = connection.scalar(sa.select(meta.c.value).where(meta.c.name == "schema"))
    if found is not None and int(found) > SCHEMA:
        raise NewerSchemaError(
            f"the prediction log has tables of version {found}, and this release knows {SCHEMA}:"
            " update the program, or name another database in ROSSMANN_DATABASE_URL"
        )
    return None if found is None else int(found)


BUSY_SECONDS: Final = 0.25
"""How long SQLite is waited for; who asks has time, and asks again."""
_POSTGRES: Final = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    # A server that vanished without a word is noticed within this time.
    "tcp_user_timeout": 20_000,
    "application_name": "rossmann prediction log",
}


def open_engine(url: str, busy_seconds: float = BUSY_SECONDS) -> sa.Engine:
    """An engine for that URL; touches no database. Raises ``SettingsError`` for a bad URL."""
    try:
        parsed = sa.make_url(re.sub(r"^postgres(ql)?://", "postgresql+psycopg2://", url))
        name = parsed.get_backend_name()
        if name == "sqlite" and parsed.database:
            return _open_sqlite(parsed, busy_seconds)
        if name == "postgresql" and parsed.get_driver_name() == "psycopg2":
            given = {key: value for key, value in _POSTGRES.items() if key not in parsed.query}
            return sa.create_engine(
                parsed, connect_args=given, pool_size=1, pool_pre_ping=True, hide_parameters=True
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
    place: list[tuple[int, int]] = []

    def prepare(connection: Any, _: object) -> None:
        # The driver would begin too late, at the first change: we say ourselves when.
        connection.isolation_level = None
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # heeded where no table is yet
        if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            connection.execute("PRAGMA journal_mode=WAL")
        # A file of the spool is deleted after the commit, so the commit must be on the disk.
        connection.execute("PRAGMA synchronous=FULL")
        # Rows come for any store and day: with few pages at hand, each would be read again.
        connection.execute("PRAGMA cache_size=-32000")
        connection.execute("PRAGMA wal_autocheckpoint=4000")

    def begin(connection: sa.Connection) -> None:
        wants = connection.get_execution_options().get("log_reads")
        connection.exec_driver_sql("BEGIN" if wants else "BEGIN IMMEDIATE")

    def same_file(_: object, __: object, ___: object) -> None:
        # A file that somebody deleted would swallow the rows while we hold it open.
        now = path.stat() if path.exists() else None
        key = (now.st_dev, now.st_ino) if now else (0, 0)
        if place and place[0] != key:
            place.clear()
            raise sa.exc.DisconnectionError("the database file is another one now")
        place[:] = [key]

    def make_folder(*_: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)

    sa.event.listen(engine, "do_connect", make_folder)
    sa.event.listen(engine, "connect", prepare)
    sa.event.listen(engine, "begin", begin)
    sa.event.listen(engine, "checkout", same_file)
    return engine


@contextmanager
def translate_errors(engine: sa.Engine) -> Iterator[None]:
    """Turn the driver's errors to ``ServiceError``, in one line and without a password."""
    try:
        yield
    except SQLAlchemyError as error:
        reason = first_line(getattr(error, "orig", None) or error)
        password = engine.url.password
        if password:
            reason = reason.replace(str(password), "***")
        raise ServiceError(f"the prediction log's database: {reason}") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
