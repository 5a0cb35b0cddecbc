"""Run files that were copied or forged: no process is ended but those that this folder started."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rossmann.launcher import processes
from rossmann.launcher.console import LaunchConsole
from rossmann.launcher.processes import RunFolder, start_time_token
from rossmann.launcher.supervisor import down, status
from tests.fixtures.launches import TIMEOUT, LaunchHarness


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the same user that no launch has started, in a session of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True
    )
    yield process
    process.kill()
    process.communicate()


def forge(run: RunFolder, name: str, **identity: Any) -> None:
    content = {"name": name, "identity": identity, "port": 1, "address": "a", "log": "l"}
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / f"{name}.json").write_text(json.dumps(content))


def test_down_in_a_copied_folder_ends_nothing_of_the_original(
    harness: LaunchHarness, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = harness.service("one")
    harness.launch(service, detach=True).communicate(timeout=TIMEOUT)
    copy = RunFolder(tmp_path / "copy")
    shutil.copytree(harness.run.folder, copy.folder)
    down([service], copy, LaunchConsole())
    assert service.healthy()
    output = capsys.readouterr().out
    assert f"one: its run file was copied from {harness.run.folder}" in output
    down([service], harness.run, LaunchConsole())
    assert harness.leftovers() == []


def test_down_in_a_copied_folder_leaves_a_foreground_launch(
    harness: LaunchHarness, tmp_path: Path
) -> None:
    service = harness.service("one")
    launch = harness.launch(service)
    harness.wait_ready(launch)
    assert harness.run.launcher() == launch.pid
    copy = RunFolder(tmp_path / "copy")
    shutil.copytree(harness.run.folder, copy.folder)
    assert copy.launcher() is None
    down([service], copy, LaunchConsole())
    assert launch.poll() is None
    assert service.healthy()


def test_copied_record_that_is_rewritten_for_the_copy_ends_nothing(
    harness: LaunchHarness, tmp_path: Path
) -> None:
    """Everything in the file fits; the process itself was started from the other folder."""
    service = harness.service("one")
    harness.launch(service, detach=True).communicate(timeout=TIMEOUT)
    copy = RunFolder(tmp_path / "copy")
    identity = json.loads((harness.run.folder / "one.json").read_text())["identity"]
    forge(copy, "one", **{**identity, "folder": copy.identity})
    down([service], copy, LaunchConsole())
    assert service.healthy()
    down([service], harness.run, LaunchConsole())


def test_forged_record_of_a_stranger_ends_nothing(
    harness: LaunchHarness, bystander: subprocess.Popen[bytes]
) -> None:
    """Pid and start time are public, and the token may be any text."""
    service = harness.service("one")
    started = start_time_token(bystander.pid)
    forge(
        harness.run, "one",
        pid=bystander.pid, started=started, token="1" * 32, folder=harness.run.identity,
    )  # fmt: skip
    down([service], harness.run, LaunchConsole())
    assert bystander.poll() is None


def test_forged_launcher_file_ends_nothing(
    harness: LaunchHarness, bystander: subprocess.Popen[bytes]
) -> None:
    service = harness.service("one")
    with harness.run.lock("a launch"):
        pass  # leaves its lock file, as every launch does
    content = {"pid": bystander.pid, "started": start_time_token(bystander.pid), "since": 0}
    (harness.run.folder / "launcher.json").write_text(json.dumps(content))
    down([service], harness.run, LaunchConsole())
    assert bystander.poll() is None


@pytest.mark.parametrize(
    "identity",
    [
        {"pid": 0}, {"pid": -1}, {"pid": 1}, {"pid": True}, {"pid": "self"}, {"pid": 2**70},
        {"pid": None}, {"pid": os.getpid(), "token": ""}, {"pid": os.getpid(), "token": None},
        {"pid": os.getpid(), "started": ["x"]}, {"pid": os.getpid(), "folder": 1},
    ],
)  # fmt: skip
def test_nonsense_in_a_record_counts_as_none(
    identity: dict[str, Any], harness: LaunchHarness
) -> None:
    service = harness.service("one")
    whole = {"started": "x", "token": "y", "folder": harness.run.identity, **identity}
    forge(harness.run, "one", **whole)
    (harness.run.folder / "launcher.json").write_text(json.dumps(whole | {"since": "soon"}))
    assert harness.run.read("one") is None
    assert harness.run.launcher() is None
    assert not status([service], harness.run, LaunchConsole())
    down([service], harness.run, LaunchConsole())


def test_started_process_is_bound_to_folder_boot_and_token(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    process, identity = processes.start(command, {}, tmp_path / "log", run.identity)
    try:
        assert identity.alive
        assert identity.process_tree() == [process.pid]
        boot = Path("/proc/sys/kernel/random/boot_id")
        if boot.is_file():
            assert identity.started.startswith(boot.read_text().strip())
        for other in ({"folder": str(tmp_path)}, {"token": "2" * 32}, {"started": "x:1"}):
            fields = {
                name: getattr(identity, name) for name in ("pid", "started", "token", "folder")
            }
            assert not processes.LaunchedProcess(**(fields | other)).alive
    finally:
        assert processes.end(identity, 5.0)


def test_files_of_a_launch_are_for_their_owner_alone(harness: LaunchHarness) -> None:
    """Also where the umask is wide, and for what the services write."""
    service = harness.service("one")
    harness.launch(service, detach=True).communicate(timeout=TIMEOUT)
    private = [harness.run.folder, harness.logs, harness.folder / f"{service.port}.up"]
    private += [*harness.run.folder.iterdir(), *harness.logs.iterdir()]
    shown = {str(path): oct(path.stat().st_mode & 0o777) for path in private if path.exists()}
    down([service], harness.run, LaunchConsole())
    assert "one.log" in " ".join(shown)
    assert "one.json" in " ".join(shown)
    assert {mode for path, mode in shown.items() if Path(path).suffix} == {"0o600"}
    assert shown[str(harness.logs)] == shown[str(harness.run.folder)] == "0o700"
