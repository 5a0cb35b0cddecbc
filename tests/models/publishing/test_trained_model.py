"""Trained folders come whole, say who made them, and are found again when left unregistered."""

import json
import shutil
from pathlib import Path

import pytest

from rossmann.errors import CorruptModelError
from rossmann.filesystem.process_identity import ProcessIdentity
from rossmann.models.ensemble.artifact_files import CARD_FILE, sha256
from rossmann.models.publishing.trained_model import (
    OWNER_FILE,
    TrainedModel,
    find_unregistered,
    publish_folder,
    read_trained,
)


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    for _ in range(3):  # within one second
        with publish_folder(tmp_path) as place:
            (place.draft / "file").touch()
            assert place.folder == place.draft
        assert (place.folder / "file").is_file()
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(KeyError), publish_folder(tmp_path):
        raise KeyError
    assert len(list(tmp_path.iterdir())) == 3


def test_what_was_trained_is_read_back(trained: TrainedModel) -> None:
    assert read_trained(trained.folder) == trained


def test_a_damaged_folder_is_told(trained: TrainedModel, tmp_path: Path) -> None:
    copy = shutil.copytree(trained.folder, tmp_path / "copy")
    (copy / "windows.json").write_text("[{}]")
    with pytest.raises(CorruptModelError, match=r"windows\.json"):
        read_trained(copy)


@pytest.fixture
def home(trained: TrainedModel, tmp_path: Path) -> Path:
    """One trained folder whose maker has ended."""
    copy = shutil.copytree(trained.folder, tmp_path / "20260101T000000")
    gone = json.loads(ProcessIdentity.current().to_json()) | {"started": "1"}
    (copy / OWNER_FILE).write_text(json.dumps(gone))
    return tmp_path


def test_what_nobody_registered_is_found(home: Path, trained: TrainedModel) -> None:
    recipe = trained.card["recipe"]
    found = find_unregistered(home, recipe, {"another"})
    assert found is not None
    assert found.card == trained.card
    assert find_unregistered(home, "another recipe", set()) is None
    registered = sha256(found.folder / CARD_FILE)
    assert find_unregistered(home, recipe, {registered}) is None
    assert find_unregistered(home / "none", recipe, set()) is None


def test_what_a_running_process_made_is_left_to_it(home: Path, trained: TrainedModel) -> None:
    (home / "20260101T000000" / OWNER_FILE).write_text(ProcessIdentity.current().to_json())
    assert find_unregistered(home, trained.card["recipe"], set()) is None
    (home / "20260101T000000" / OWNER_FILE).unlink()
    assert find_unregistered(home, trained.card["recipe"], set()) is None


def test_a_damaged_one_is_passed_over(home: Path, trained: TrainedModel) -> None:
    (home / "20260101T000000" / "xgboost.ubj").write_bytes(b"rot")
    assert find_unregistered(home, trained.card["recipe"], set()) is None
