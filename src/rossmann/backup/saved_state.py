"""State that a backup holds, read from its copies: versions, stages, logged rows, data version."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from rossmann.addresses import sqlite_url
from rossmann.data.make_dataset import current_dataset
from rossmann.errors import DataError, DataNotFoundError
from rossmann.models.registry.model_version import STAGE_TAG, stage_of
from rossmann.prediction_log.queries.export import LogReader
from rossmann.schema import MODEL_NAME
from rossmann.settings import Settings


def data_version(settings: Settings) -> dict[str, str] | None:
    """Dataset, version and last day of the tables in use; None where none are prepared."""
    try:
        info = current_dataset(settings)
    except DataError:
        return None
    return {
        "dataset": info.dataset.value,
        "version": info.version,
        "last_day": info.last_day.isoformat(),
    }


def registered_versions(database: Path) -> list[dict[str, Any]] | None:
    """Number and stage of each version in a copy of MLflow's database, newest first.

    None where there is no such database, or its tables are not those that are known.
    """
    if not database.is_file():
        return None
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            numbers = connection.execute(
                "SELECT version FROM model_versions WHERE name = ?"
                " AND coalesce(current_stage, '') <> 'Deleted_Internal' ORDER BY version DESC",
                (MODEL_NAME,),
            ).fetchall()
            aliases = connection.execute(
                "SELECT alias, version FROM registered_model_aliases WHERE name = ?", (MODEL_NAME,)
            ).fetchall()
            tags = connection.execute(
                "SELECT version, value FROM model_version_tags WHERE name = ? AND key = ?",
                (MODEL_NAME, STAGE_TAG),
            ).fetchall()
    except sqlite3.OperationalError:
        return None
    places = {str(alias): int(version) for alias, version in aliases}
    stages = {int(version): str(value) for version, value in tags}
    return [
        {"version": int(number), "stage": stage_of(int(number), stages.get(number), places).value}
        for (number,) in numbers
    ]


def logged_rows(database: Path) -> dict[str, int] | None:
    """Rows and requests in a copy of the log's database; None where there is none.

    Raises ``ServiceError`` where it cannot be read.
    """
    reader = LogReader(sqlite_url(database))
    try:
        totals = reader.totals()
    except DataNotFoundError:
        return None
    finally:
        reader.close()
    return {"rows": totals.rows, "requests": totals.requests}
