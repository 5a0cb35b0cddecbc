"""The prediction log's tables, and how they are made.

``logged_requests`` has a line for each answered request, ``logged_forecasts`` one for each of its
rows; the view ``predictions`` joins them, for people. So what is the same for 41,088 rows is kept
once, and what a person queries is one flat table. ``log_writers`` remembers the last batch of each
process that logged: what makes each row arrive exactly once. ``log_meta`` holds the schema version.
"""

from typing import Final

import sqlalchemy as sa

from rossmann.errors import DataError

SCHEMA: Final = 1
ENTRY_BITS: Final = 40
"""A request's id is its writer's id, and in the lower bits its number among the writer's."""

_BIG: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TEXT: Final = sa.Text()
_REAL: Final[sa.Double[float]] = sa.Double()
_SMALL: Final = sa.SmallInteger()
_ADVISORY_LOCK: Final = 7_405_136


class NewerSchema(DataError):
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
joined: Final = (
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


def make_tables(connection: sa.Connection) -> None:
    """Make what is missing; raises ``NewerSchema``. To be called within a transaction."""
    if connection.dialect.name == "postgresql":
        # Several processes begin at once: one makes the tables, the others wait here for a moment.
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
    if schema_of(connection) is None:
        metadata.create_all(connection)
        text = joined.compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"CREATE VIEW predictions AS {text}")
        connection.execute(meta.insert().values(name="schema", value=str(SCHEMA)))


def schema_of(connection: sa.Connection) -> int | None:
    """The version of the tables there; None where there are none. Raises ``NewerSchema``."""
    if not sa.inspect(connection).has_table(meta.name):
        return None
    found = connection.scalar(sa.select(meta.c.value).where(meta.c.name == "schema"))
    if found is not None and int(found) > SCHEMA:
        raise NewerSchema(
            f"the prediction log has tables of version {found}, and this release knows {SCHEMA}:"
            " update the program, or name another database in ROSSMANN_DATABASE_URL"
        )
    return None if found is None else int(found)
