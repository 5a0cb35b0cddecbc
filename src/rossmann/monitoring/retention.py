"""Old rows out of the prediction log, in steps that nobody has to wait for."""

from datetime import UTC, date, datetime
from typing import Any, Final

import sqlalchemy as sa

from rossmann.monitoring.tables import forecasts, meta, requests

_PRUNED: Final = "pruned_on"
_REQUESTS: Final = 500
_PAGES: Final = 2_000


def claim_day(connection: sa.Connection, today: date) -> bool:
    """True for the first who asks on that day, whichever process or machine it is on."""
    other = meta.update().where(meta.c.name == _PRUNED, meta.c.value != today.isoformat())
    if connection.execute(other.values(value=today.isoformat())).rowcount:
        return True
    if connection.scalar(sa.select(meta.c.value).where(meta.c.name == _PRUNED)) is not None:
        return False
    connection.execute(meta.insert().values(name=_PRUNED, value=today.isoformat()))
    return True


def prune_some(engine: sa.Engine, before: datetime, most_rows: int) -> int:
    """Delete about ``most_rows`` rows, the oldest first, in one transaction; how many it were."""
    with engine.begin() as connection:
        oldest = (
            sa.select(requests.c.id, requests.c.rows)
            .where(requests.c.answered_at < before.astimezone(UTC))
            .order_by(requests.c.answered_at)
            .limit(_REQUESTS)
        )
        ids: list[int] = []
        rows = 0
        for request, count in connection.execute(oldest):
            if ids and rows + count > most_rows:
                break
            ids.append(request)
            rows += count
        if ids:
            connection.execute(forecasts.delete().where(forecasts.c.request.in_(ids)))
            connection.execute(requests.delete().where(requests.c.id.in_(ids)))
    if ids and engine.dialect.name == "sqlite":
        _give_back(engine)
    return rows


def count_before(connection: sa.Connection, before: datetime) -> int:
    """Rows that were answered before then."""
    rows = sa.func.coalesce(sa.func.sum(requests.c.rows), 0)
    found = sa.select(rows).where(requests.c.answered_at < before.astimezone(UTC))
    return int(connection.scalar(found) or 0)


def _give_back(engine: sa.Engine) -> None:
    """SQLite keeps free pages in its file: return some of them to the disk."""
    connection = engine.raw_connection()
    try:
        driver: Any = connection.driver_connection
        # As a script: the usual call takes one page and thinks that it is done.
        driver.executescript(f"PRAGMA incremental_vacuum({_PAGES})")
    except driver.OperationalError:
        pass  # somebody else writes: the next step does it
    finally:
        connection.close()
