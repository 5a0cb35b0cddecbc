"""Opening the database of the prediction log: SQLite or PostgreSQL, by URL."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from rossmann.errors import ServiceError, SettingsError

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
def worded(engine: sa.Engine) -> Iterator[None]:
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
