"""``rossmann backup``: consistent while others write, whole or absent, clear errors."""

import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rossmann.backup import create
from rossmann.backup.create import back_up
from rossmann.backup.file_copy import CopyProgress
from rossmann.backup.manifest import MANIFEST, read_manifest, verify_files
from rossmann.cli import main
from rossmann.filesystem.locks import create_owned_folder
from rossmann.prediction_log.records import LoggedPrediction
from rossmann.prediction_log.writing.log import PredictionLog, open_log
from rossmann.settings import Settings, load_settings
from tests.fixtures.prediction_log import wait_until_written

MakeEntry = Callable[..., LoggedPrediction]
Capture = pytest.CaptureFixture[str]
QUIET = CopyProgress(0, lambda _: None)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a data folder with a table and keys, also set in the environment."""
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("ROSSMANN_LOG_FLUSH_SECONDS", "0.05")
    for name in ("DATABASE_URL", "MLFLOW_TRACKING_URI", "API_KEYS_FILE", "API_KEYS"):
        monkeypatch.delenv(f"ROSSMANN_{name}", raising=False)
    settings = load_settings()
    settings.raw_dir.mkdir(parents=True)
    (settings.raw_dir / "train.csv").write_text("Store,Date\n1,2015-07-31\n")
    settings.keys_file.write_text("planner:0123\n")
    return settings


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def error_line(capture: Capture) -> str:
    text = capture.readouterr().err.splitlines()[-1]
    assert text.startswith("error: "), text
    return text


def child(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "rossmann.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_backup_holds_each_part_and_digests_of_all_files(
    settings: Settings, make_entry: MakeEntry, tmp_path: Path, capsys: Capture
) -> None:
    log = open_log(settings)
    assert log is not None
    log.start()
    log.log(make_entry(1, 3))
    assert wait_until_written(log)
    # Left out: what is made again, drafts, and what SQLite keeps beside a database.
    for name in ("processed/x/history.parquet", "run/api.json", "raw/.train.csv.draft"):
        (settings.data_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (settings.data_dir / name).write_text("x")
    folder = tmp_path / "backups" / "first"
    assert main(["backup", str(folder)]) == 0
    log.close()
    output = capsys.readouterr().out
    assert "prediction_log/log.db     integrity check ok" in output
    assert "3 rows of 1 requests, 0 rows wait" in output
    expected = {"raw/train.csv", "keys.txt", "params.yaml", "prediction_log/log.db"}
    manifest = read_manifest(folder)
    assert expected | {"settings.json"} <= set(manifest.files)
    assert files(folder) == {*manifest.files, MANIFEST}
    assert not {n for n in manifest.files if "processed" in n or "draft" in n or "-wal" in n}
    verify_files(folder, manifest.files, QUIET)
    assert json.loads((folder / "settings.json").read_text()) == settings.redacted()
    modes = {oct(path.stat().st_mode & 0o077) for path in (folder, *folder.rglob("*"))}
    assert modes == {"0o0"}
    assert [path.name for path in folder.parent.iterdir()] == ["first"]


def test_database_that_is_written_meanwhile_is_copied_as_of_one_moment(
    settings: Settings, tmp_path: Path
) -> None:
    """Pairs of rows are written in one transaction each; in the copy, no pair is torn."""
    path = settings.log_dir / "log.db"
    path.parent.mkdir()
    stop = threading.Event()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE a (n INTEGER, filler TEXT)")
        connection.execute("CREATE TABLE b (n INTEGER, filler TEXT)")
        for table in "ab":
            rows = ((n, "x" * 1_000) for n in range(20_000))
            connection.executemany(f"INSERT INTO {table} VALUES (?, ?)", rows)
        connection.commit()

    def write() -> None:
        with closing(sqlite3.connect(path, timeout=30)) as writer:
            for n in range(20_000, 1_000_000):
                if stop.is_set():
                    return
                for table in "ab":
                    writer.execute(f"INSERT INTO {table} VALUES (?, 'y')", (n,))
                writer.commit()

    thread = threading.Thread(target=write)
    thread.start()
    counts = []
    try:
        for number in range(3):
            target = tmp_path / f"copy{number}.db"
            create.copy_database(path, target, QUIET)
            with closing(sqlite3.connect(target)) as copy:
                a, b = (copy.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in "ab")
            assert a == b
            counts.append(a)
    finally:
        stop.set()
        thread.join()
    assert 20_000 <= counts[0] < counts[1] < counts[2], "the writer went on meanwhile"


def test_rows_in_spool_and_database_are_restored_once(
    settings: Settings, make_entry: MakeEntry, tmp_path: Path, logged: Any
) -> None:
    """The spool is copied first: a file that reaches the database meanwhile is in both."""
    log = PredictionLog(settings.log_url, settings.log_spool_dir)
    for number in range(5):
        log.log(make_entry(number, 2))
        log.spool_writer.step()
    copy = create.copy_database

    def ship_then_copy(source: Path, target: Path, progress: CopyProgress) -> Any:
        while log.shipper.step():
            pass
        return copy(source, target, progress)

    log.shipper.step()  # makes the database
    log.log(make_entry(9, 2))
    log.spool_writer.step()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(create, "copy_database", ship_then_copy)
        done = back_up(settings, tmp_path / "first", lambda _: None)
    log.close()
    assert done.manifest.waiting == 2
    assert done.manifest.log == {"rows": 12, "requests": 6}
    restored = load_settings(data_dir=done.folder)
    again = PredictionLog(restored.log_url, restored.log_spool_dir)
    again.start()
    assert wait_until_written(again)
    again.close()
    assert len(logged(restored.log_url)) == 12


def test_lock_of_a_spool_folder_is_copied_with_it(settings: Settings, tmp_path: Path) -> None:
    owned = create_owned_folder(settings.log_spool_dir)
    (owned.path / "000000000001-3.batch").write_text("x")
    done = back_up(settings, tmp_path / "first", lambda _: None)
    owned.close()
    spool = f"prediction_log/spool/{owned.name}"
    assert {f"{spool}/000000000001-3.batch", f"{spool}.lock"} <= set(done.manifest.files)


def test_killed_backup_leaves_nothing_that_looks_whole(settings: Settings, tmp_path: Path) -> None:
    (settings.raw_dir / "train.csv").write_bytes(os.urandom(1 << 20))
    os.mkfifo(settings.raw_dir / "pipe")  # no regular file: left out
    folder = tmp_path / "backups" / "first"
    # The child stops after the first file, and is killed there.
    script = (
        "import sys, time\nfrom rossmann.backup import create\ncopy = create.copy_file\n"
        "def stuck(source, target, progress):\n"
        "    record = copy(source, target, progress)\n"
        "    if source.name == 'train.csv':\n"
        "        print('copied', flush=True)\n        time.sleep(600)\n"
        "    return record\n"
        "create.copy_file = stuck\nfrom rossmann.cli import main\nmain(sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, "backup", str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "copied\n"
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    assert not folder.exists()
    left = list(folder.parent.iterdir())
    assert len(left) == 1 and (left[0] / "raw" / "train.csv").is_file()
    assert main(["restore", "--check", str(left[0])]) == 1
    assert main(["backup", str(folder)]) == 0
    assert [path.name for path in folder.parent.iterdir()] == ["first"]
    assert main(["restore", "--check", str(folder)]) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_backup_removes_its_draft(
    settings: Settings, tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> None:
        os.kill(os.getpid(), number)
        time.sleep(5)

    monkeypatch.setattr(create, "copy_file", stopped)
    assert main(["backup", str(tmp_path / "backups" / "first")]) == 128 + number
    assert list((tmp_path / "backups").iterdir()) == []


def test_damaged_database_is_an_error(settings: Settings, tmp_path: Path, capsys: Capture) -> None:
    path = settings.log_dir / "log.db"
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE a (n INTEGER PRIMARY KEY, t TEXT)")
        connection.executemany("INSERT INTO a VALUES (?, ?)", ((n, f"t{n}") for n in range(5_000)))
        connection.commit()
    content = bytearray(path.read_bytes())
    content[-4096:] = bytes(4096)
    path.write_bytes(content)
    assert main(["backup", str(tmp_path / "first")]) == 1
    line = error_line(capsys)
    assert "log.db: SQLite's integrity check found a fault" in line
    assert not (tmp_path / "first").exists()


def test_targets_that_would_do_harm_are_refused(
    settings: Settings, tmp_path: Path, capsys: Capture
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    (tmp_path / "link").symlink_to(full)
    inside = settings.raw_dir / "backup"
    for target, words in (
        (full, "is not empty: name a new folder"),
        (tmp_path / "link", "is not empty: name a new folder"),
        (full / "mine.txt", "is a file"),
        (inside, "is in the data folder"),
        (Path("/proc"), "is not empty"),
    ):
        assert main(["backup", str(target)]) == 1, target
        assert words in error_line(capsys)
    assert files(full) == {"mine.txt"}
    assert not inside.exists()
    (tmp_path / "empty").mkdir()
    assert main(["backup", str(tmp_path / "empty")]) == 0


def test_empty_data_folder_is_an_error(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a crontab that lacks the environment of the services."""
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(tmp_path / "other"))
    assert main(["backup", str(tmp_path / "first")]) == 1
    assert "set ROSSMANN_DATA_DIR" in error_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_link_to_nothing_is_an_error_and_others_are_followed(
    settings: Settings, tmp_path: Path, capsys: Capture
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "store.csv").write_text("Store\n1\n")
    (elsewhere / "again").symlink_to(elsewhere)
    (settings.raw_dir / "linked").symlink_to(elsewhere)
    (settings.raw_dir / "test.csv").symlink_to(elsewhere / "store.csv")
    assert main(["backup", str(tmp_path / "first")]) == 0
    assert files(tmp_path / "first" / "raw") == {"train.csv", "test.csv", "linked/store.csv"}
    assert not [path for path in (tmp_path / "first").rglob("*") if path.is_symlink()]
    capsys.readouterr()
    (elsewhere / "store.csv").unlink()
    assert main(["backup", str(tmp_path / "second")]) == 1
    assert "is a link to a place that does not exist" in error_line(capsys)


def test_what_lies_elsewhere_is_named_without_passwords(
    settings: Settings, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROSSMANN_DATABASE_URL", "postgresql://u:secret@db.example.com/log")
    monkeypatch.setenv("ROSSMANN_MLFLOW_TRACKING_URI", "http://u:secret@mlflow.example.com:5000")
    monkeypatch.setenv("ROSSMANN_ARTIFACT_STORES", "s3://bucket/folder")
    assert main(["backup", str(tmp_path / "first")]) == 0
    output = capsys.readouterr().out
    missing = [line for line in output.splitlines() if line.startswith("NOT in the backup: ")]
    assert len(missing) == 3
    for text in ("db.example.com/log: save it with pg_dump", "mlflow.example.com", "s3://bucket"):
        assert any(text in line for line in missing), text
    manifest = (tmp_path / "first" / MANIFEST).read_text() + output
    assert "secret" not in manifest + (tmp_path / "first" / "settings.json").read_text()


def test_log_in_another_sqlite_file_is_saved(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_entry: MakeEntry
) -> None:
    monkeypatch.setenv("ROSSMANN_DATABASE_URL", f"sqlite:///{tmp_path}/other/my%20log.db")
    moved = load_settings()
    log = open_log(moved)
    assert log is not None
    log.start()
    log.log(make_entry(1, 4))
    assert wait_until_written(log)
    log.close()
    done = back_up(moved, tmp_path / "first", lambda _: None)
    assert done.manifest.log == {"rows": 4, "requests": 1}
    assert done.manifest.not_included == []


def test_file_that_cannot_be_written_is_one_line(settings: Settings, tmp_path: Path) -> None:
    (settings.raw_dir / "train.csv").write_bytes(os.urandom(1 << 20))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    process = child("backup", str(tmp_path / "b" / "first"), preexec_fn=limit)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 1
    assert text.splitlines()[-1].startswith("error: the disk of "), text
    assert list((tmp_path / "b").iterdir()) == []


@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not installed")
def test_disk_without_room_is_refused_before_anything_is_copied(
    settings: Settings, tmp_path: Path
) -> None:
    (settings.raw_dir / "train.csv").write_bytes(os.urandom(3 << 20))
    small = tmp_path / "small"
    small.mkdir()
    probe = ["unshare", "--mount", "--map-root-user"]
    if subprocess.run([*probe, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mount namespace can be made here")
    command = (
        f"mount -t tmpfs -o size=2m tmpfs {small} || exit 99\n"
        f"{sys.executable} -m rossmann.cli backup {small} ; echo $?\n"
        f"{sys.executable} -m rossmann.cli backup {small}/first ; echo $? ; ls -A {small}"
    )
    done = subprocess.run(
        [*probe, "sh", "-c", command], capture_output=True, text=True, check=False
    )
    if done.returncode == 99:
        pytest.skip("no file system can be mounted here")
    assert done.stdout == "1\n1\n"
    mounted, full = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "is a mounted disk: name a new folder on it" in mounted
    assert "is too small: 3.2 MB are to be copied, and 2.1 MB are free" in full
