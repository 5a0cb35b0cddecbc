"""The study's database in a folder of any name."""

from pathlib import Path

from rossmann.models.tuning.study import open_study
from tests.fixtures.networks import ODD_NAME


def test_study_is_in_its_folder_whatever_its_name(tmp_path: Path) -> None:
    folder = tmp_path / ODD_NAME
    with open_study(folder, "one", fresh=False) as study:
        assert study.trials == []
    assert (folder / "studies.db").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [ODD_NAME]
