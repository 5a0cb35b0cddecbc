"""Trained models on disk: atomic publishing, reading, search for unregistered ones."""

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


def test_publish_folder_is_atomic(tmp_path: Path) -> None:
    for _ in range(3):  # within one second
        with publish_folder(tmp_path) as pending:
            (pending.draft / "file").touch()
            assert pending.folder == pending.draft
        assert (pending.folder / "file").is_file()
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(KeyError), publish_folder(tmp_path):
        raise KeyError
    assert len(list(tmp_path.iterdir())) == 3


def test_read_trained_returns_what_training_wrote(trained: TrainedModel) -> None:
    assert read_trained(trained.folder) == trained


def test_read_trained_raises_for_a_corrupt_folder(trained: TrainedModel, tmp_path: Path) -> None:
    copy = shutil.copytree(trained.folder, tmp_path / "copy")
    (copy / "windows.json").write_text("[{}]")
    with pytest.raises(CorruptModelError, match=r"windows\.json"):
        read_trained(copy)


@pytest.fixture
def trained_parent(trained: TrainedModel, tmp_path: Path) -> Path:
    """The parent of one trained folder whose process has ended."""
    copy = shutil.copytree(trained.folder, tmp_path / "20260101T000000")
    owner = json.loads(ProcessIdentity.current().to_json()) | {"started": "1"}
    (copy / OWNER_FILE).write_text(json.dumps(owner))
    return tmp_path


def test_unregistered_model_is_found(trained_parent: Path, trained: TrainedModel) -> None:
    fingerprint = trained.card["recipe"]
    unregistered = find_unregistered(trained_parent, fingerprint, {"another"})
    assert unregistered is not None
    assert unregistered.card == trained.card
    assert find_unregistered(trained_parent, "another fingerprint", set()) is None
    registered = sha256(unregistered.folder / CARD_FILE)
    assert find_unregistered(trained_parent, fingerprint, {registered}) is None
    assert find_unregistered(trained_parent / "none", fingerprint, set()) is None


def test_model_of_a_running_process_is_not_taken(
    trained_parent: Path, trained: TrainedModel
) -> None:
    (trained_parent / "20260101T000000" / OWNER_FILE).write_text(
        ProcessIdentity.current().to_json()
    )
    assert find_unregistered(trained_parent, trained.card["recipe"], set()) is None
    (trained_parent / "20260101T000000" / OWNER_FILE).unlink()
    assert find_unregistered(trained_parent, trained.card["recipe"], set()) is None


def test_corrupt_unregistered_model_is_skipped(trained_parent: Path, trained: TrainedModel) -> None:
    (trained_parent / "20260101T000000" / "xgboost.ubj").write_bytes(b"rot")
    assert find_unregistered(trained_parent, trained.card["recipe"], set()) is None
