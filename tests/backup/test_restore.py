"""``rossmann restore``: into an empty folder only, checked first; and a rehearsal of both verbs."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

from rossmann.backup.create import back_up
from rossmann.backup.manifest import MANIFEST
from rossmann.backup.restore import check_backup
from rossmann.cli import main
from rossmann.data.make_dataset import make_dataset
from rossmann.errors import BackupError
from rossmann.models.ensemble.artifact_files import CARD_FILE
from rossmann.models.publishing.register import register
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.models.registry.registry import Registry
from rossmann.prediction_log.queries.export import LogReader
from rossmann.prediction_log.records import LoggedPrediction
from rossmann.prediction_log.writing.log import PredictionLog, open_log
from rossmann.schema import Stage
from rossmann.settings import Settings, load_settings
from tests.fixtures.prediction_log import wait_until_written

MakeEntry = Callable[..., LoggedPrediction]
Capture = pytest.CaptureFixture[str]
RunningMlflow = Callable[[Path, dict[str, str]], AbstractContextManager[str]]


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder to restore into, set in the environment; it does not exist yet."""
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(tmp_path / "restored"))
    for name in ("DATABASE_URL", "MLFLOW_TRACKING_URI", "API_KEYS_FILE", "API_KEYS"):
        monkeypatch.delenv(f"ROSSMANN_{name}", raising=False)
    return tmp_path / "restored"


@pytest.fixture
def backup(tmp_path: Path, target: Path) -> Path:
    """A backup of a table, a log's database and keys."""
    settings = load_settings(data_dir=tmp_path / "data")
    settings.raw_dir.mkdir(parents=True)
    (settings.raw_dir / "train.csv").write_text("Store,Date\n1,2015-07-31\n")
    settings.keys_file.write_text("planner:0123\n")
    (settings.data_dir / "tuning").mkdir()
    with closing(sqlite3.connect(settings.data_dir / "tuning" / "study.db")) as connection:
        connection.execute("CREATE TABLE a (n INTEGER)")
        connection.commit()
    return back_up(settings, tmp_path / "first", lambda _: None).folder


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def error_line(capture: Capture) -> str:
    text = capture.readouterr().err.splitlines()[-1]
    assert text.startswith("error: "), text
    return text


def test_restore_copies_every_file(backup: Path, target: Path, capsys: Capture) -> None:
    assert main(["restore", str(backup)]) == 0
    saved = contents(backup)
    del saved[MANIFEST], saved["settings.json"]
    assert contents(target) == saved
    modes = {oct(path.stat().st_mode & 0o077) for path in (target, *target.rglob("*"))}
    assert modes == {"0o0"}
    output = capsys.readouterr().out
    assert f"ROSSMANN_DATA_DIR={target}" in output and "features\n" in output


@pytest.mark.parametrize("name", ["raw/train.csv", "tuning/study.db", "keys.txt", "params.yaml"])
def test_flipped_bit_is_found_before_anything_is_written(
    backup: Path, target: Path, name: str, capsys: Capture
) -> None:
    content = bytearray((backup / name).read_bytes())
    content[len(content) // 2] ^= 1
    (backup / name).write_bytes(content)
    for arguments in (["restore", str(backup)], ["restore", "--check", str(backup)]):
        assert main(arguments) == 1
        assert f"{name}: has other content than when it was saved" in error_line(capsys)
    assert not target.exists()


def test_missing_file_link_and_foreign_path_are_found(
    backup: Path, target: Path, tmp_path: Path, capsys: Capture
) -> None:
    manifest = json.loads((backup / MANIFEST).read_text())
    (backup / "keys.txt").unlink()
    (backup / "keys.txt").symlink_to(tmp_path / "data" / "keys.txt")
    (backup / "raw" / "train.csv").unlink()
    manifest["files"]["../data/keys.txt"] = manifest["files"]["keys.txt"]
    (backup / MANIFEST).write_text(json.dumps(manifest))
    assert main(["restore", str(backup)]) == 1
    line = error_line(capsys)
    assert "raw/train.csv: is missing" in line
    assert "keys.txt: leads out of the backup, or is a link" in line
    assert "../data/keys.txt: leads out" in line
    assert not target.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "is not a backup: it has no manifest.json"),
        ("{", "manifest.json is damaged"),
        ("[]", "manifest.json is damaged"),
        ('{"format": 1}', "manifest.json is damaged"),
        ('{"format": 2}', "has format 2, and this release reads 1"),
    ],
)
def test_folder_that_is_no_backup_is_named(
    backup: Path, target: Path, text: str | None, words: str, capsys: Capture
) -> None:
    if text is None:
        (backup / MANIFEST).unlink()
    else:
        (backup / MANIFEST).write_text(text)
    assert main(["restore", str(backup)]) == 1
    assert words in error_line(capsys)
    assert not target.exists()


def test_data_folder_with_content_is_refused_and_listed(
    backup: Path, target: Path, capsys: Capture
) -> None:
    (target / "mlflow").mkdir(parents=True)
    (target / "keys.txt").write_text("old")
    assert main(["restore", str(backup)]) == 1
    assert "is not empty (keys.txt, mlflow): nothing was changed" in error_line(capsys)
    assert contents(target) == {"keys.txt": b"old"}


def test_data_folder_that_is_a_file_or_in_the_backup_is_refused(
    backup: Path, target: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.write_text("x")
    assert main(["restore", str(backup)]) == 1
    assert "which is a file" in error_line(capsys)
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(backup / "data"))
    assert main(["restore", str(backup)]) == 1
    assert "is in the backup: set ROSSMANN_DATA_DIR" in error_line(capsys)


def test_service_that_still_runs_on_removed_files_is_named(
    backup: Path, target: Path, capsys: Capture
) -> None:
    """The content of the folder was deleted under a running service."""
    target.mkdir()
    script = "import sys; f = open(sys.argv[1], 'w'); print('open', flush=True); sys.stdin.read()"
    path = target / "log.db"
    service = subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert service.stdout is not None
    assert service.stdout.readline() == "open\n"
    path.unlink()
    assert main(["restore", str(backup)]) == 1
    line = error_line(capsys)
    assert f"process {service.pid} still has {path}" in line and "stop the services" in line
    service.communicate()
    assert main(["restore", str(backup)]) == 0


def test_killed_restore_leaves_an_empty_folder_to_the_next(backup: Path, target: Path) -> None:
    script = (
        "import os, signal, sys\nfrom rossmann.backup import restore\ncopy = restore.copy_file\n"
        "def killed(source, target, progress):\n"
        "    record = copy(source, target, progress)\n"
        "    if source.name == 'train.csv':\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return record\n"
        "restore.copy_file = killed\nfrom rossmann.cli import main\nmain(sys.argv[1:])"
    )
    process = subprocess.run([sys.executable, "-c", script, "restore", str(backup)], check=False)
    assert process.returncode == -signal.SIGKILL
    left = list(target.iterdir())
    assert len(left) == 1 and left[0].name.startswith(".draft-")
    assert (left[0] / "raw" / "train.csv").is_file()
    assert main(["restore", str(backup)]) == 0
    assert set(contents(target)) == set(contents(backup)) - {MANIFEST, "settings.json"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_restores_for_the_owner_of_the_data_folder(backup: Path, target: Path) -> None:
    target.mkdir()
    os.chown(target, 1234, 1235)
    assert main(["restore", str(backup)]) == 0
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in target.rglob("*")}
    assert owners == {(1234, 1235)}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_backup_of_another_user_names_its_owner(backup: Path) -> None:
    os.seteuid(65534)
    try:
        with pytest.raises(BackupError, match=r"cannot be read .*: run the command as root"):
            check_backup(backup, lambda _: None)
    finally:
        os.seteuid(0)


def test_notes_name_what_differs_and_what_lies_elsewhere(
    backup: Path, target: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parameters = tmp_path / "other.yaml"
    parameters.write_text((backup / "params.yaml").read_text() + "\nworkers: 2\n")
    monkeypatch.setenv("ROSSMANN_PARAMS", str(parameters))
    monkeypatch.setenv("ROSSMANN_API_KEYS_FILE", str(tmp_path / "keys"))
    monkeypatch.setenv("ROSSMANN_MLFLOW_TRACKING_URI", "http://mlflow.example.com:5000")
    (backup / "log.dump").write_text("made by pg_dump")
    manifest = json.loads((backup / MANIFEST).read_text())
    manifest["code"] = {"digest": "0", "commit": "abc123"}
    manifest["not_included"] = ["the prediction log in postgresql://db/log"]
    (backup / MANIFEST).write_text(json.dumps(manifest))
    assert main(["restore", str(backup)]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    for words in (
        "not in this backup: the prediction log in postgresql://db/log",
        f"ROSSMANN_API_KEYS_FILE names another place: move {target / 'keys.txt'} there",
        "ROSSMANN_MLFLOW_TRACKING_URI names another registry",
        f"ROSSMANN_PARAMS={target / 'params.yaml'}",
        "settings that differ from settings.json of the backup: api_keys_file, mlflow_tracking_uri,"
        " workers",
        "another release made the backup (abc123)",
        "log.dump",
    ):
        assert any(words in note for note in notes), words
    assert len(notes) == 7
    assert not (target / "log.dump").exists()


def write_log(settings: Settings, make_entry: MakeEntry) -> None:
    """Six rows in the database, and two that wait in the spool."""
    log = open_log(settings)
    assert log is not None
    log.start()
    log.log(make_entry(1, 4))
    log.log(make_entry(2, 2))
    assert wait_until_written(log)
    log.close()
    waiting = PredictionLog(settings.log_url, settings.log_spool_dir)
    waiting.log(make_entry(3, 2))
    waiting.spool_writer.step()
    waiting.close(0)


def versions(uri: str) -> dict[int, Stage]:
    with Registry(uri) as registry:
        return {version.version: version.stage for version in registry.versions()}


@pytest.mark.nightly
def test_rehearsal_of_an_installation(
    chain_settings: Settings, trained: TrainedModel, running_mlflow: RunningMlflow,
    make_entry: MakeEntry, target: Path, tmp_path: Path, capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Versions, stages, artifacts, logged rows, keys and data version are the same afterwards."""
    data = tmp_path / "data"
    shutil.copytree(chain_settings.demo_raw_dir, data / "demo" / "raw")
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(data))
    monkeypatch.setenv("ROSSMANN_LOG_FLUSH_SECONDS", "0.05")
    settings = load_settings()
    info = make_dataset(settings)
    write_log(settings, make_entry)
    settings.keys_file.write_text("planner:0123\n")
    with running_mlflow(data, {}) as uri:
        monkeypatch.setenv("ROSSMANN_MLFLOW_TRACKING_URI", uri)
        monkeypatch.setenv("ROSSMANN_MLFLOW_PORT", uri.rpartition(":")[2])
        for _ in range(2):
            register(trained, load_settings())
        with Registry(uri) as registry:
            registry.promote(1, "first", "me")
            registry.stage(2)
        saved = versions(uri)
        assert saved == {1: Stage.PRODUCTION, 2: Stage.STAGING}
        # The services run, and the registry is open.
        assert main(["backup", str(tmp_path / "first")]) == 0
    output = capsys.readouterr().out
    assert "versions    2 Staging, 1 Production" in output
    assert f"data        {info.version} (demo), last day {info.last_day}" in output
    assert "NOT in the backup" not in output

    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(target))
    assert main(["restore", str(tmp_path / "first")]) == 0
    restored = load_settings()
    assert restored.keys_file.read_bytes() == settings.keys_file.read_bytes()
    assert set(contents(target)) == set(contents(tmp_path / "first")) - {MANIFEST, "settings.json"}
    assert make_dataset(restored).version == info.version
    again = PredictionLog(restored.log_url, restored.log_spool_dir)
    again.start()
    assert wait_until_written(again)
    again.close()
    reader = LogReader(restored.log_url)
    assert (reader.totals().rows, reader.totals().requests) == (8, 3)
    reader.close()
    with running_mlflow(target, {}) as uri:
        assert versions(uri) == saved
        with Registry(uri) as registry:
            fetched = registry.fetch(1, tmp_path / "cache")  # digests are verified
    assert (fetched / CARD_FILE).read_bytes() == (trained.folder / CARD_FILE).read_bytes()
