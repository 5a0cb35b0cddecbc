"""The log's database in a data folder of any name."""

from pathlib import Path

from rossmann.prediction_log.database.sql_store import SqlLogStore
from rossmann.settings import load_settings
from tests.fixtures.networks import ODD_NAME
from tests.fixtures.prediction_log import MakeEntry, make_batch


def test_database_is_in_the_data_folder_whatever_its_name(
    tmp_path: Path, make_entry: MakeEntry
) -> None:
    settings = load_settings(data_dir=tmp_path / ODD_NAME, database_url="")
    store = SqlLogStore(settings.log_url)
    store.write("writer", [(1, make_batch([make_entry(1)], 1))])
    store.close()
    assert (settings.log_dir / "log.db").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [ODD_NAME]
