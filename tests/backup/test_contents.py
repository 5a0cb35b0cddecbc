"""Order of the parts of a backup, and whose registry is the data folder's own."""

from pathlib import Path

import pytest

from rossmann.backup.contents import (
    LOG_DATABASE,
    REGISTRY_DATABASE,
    SPOOL,
    exclusions,
    list_parts,
    uses_embedded_registry,
)
from rossmann.settings import load_settings


def test_parts_come_in_the_order_that_loses_nothing(tmp_path: Path) -> None:
    names = [part.name for part in list_parts(load_settings(data_dir=tmp_path, database_url=""))]
    assert names.index(SPOOL) < names.index(LOG_DATABASE)
    assert names.index(REGISTRY_DATABASE) < names.index("mlflow/artifacts")


def test_registry_in_postgresql_is_said_to_be_left_out(tmp_path: Path) -> None:
    url = "postgresql://rossmann:hunter2@db.example.com/mlflow"
    settings = load_settings(data_dir=tmp_path, mlflow_database_url=url)
    assert REGISTRY_DATABASE not in [part.name for part in list_parts(settings)]
    (said,) = exclusions(settings)
    assert "registry's tables" in said and "pg_dump, before" in said and "hunter2" not in said


@pytest.mark.parametrize(
    ("uri", "embedded"),
    [
        ("", True),
        ("http://127.0.0.1:5000", True),
        ("http://localhost:5000/", True),
        ("http://127.0.0.1:5001", False),
        ("http://mlflow.example.com:5000", False),
    ],
)
def test_registry_is_the_embedded_one_by_host_and_port(uri: str, embedded: bool) -> None:
    settings = load_settings(mlflow_tracking_uri=uri, mlflow_port=5000)
    assert uses_embedded_registry(settings) is embedded
