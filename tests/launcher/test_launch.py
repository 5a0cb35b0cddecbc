"""Launches of real processes: order, health, use of what runs, failures, and what is left."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from rossmann.launcher import processes as ports
from rossmann.launcher.console import LaunchConsole
from rossmann.launcher.run_files import RunFolder
from rossmann.launcher.services import Service
from rossmann.launcher.shutdown import down, status

HERE = Path(__file__).parent
PATIENCE = 60


def eventually(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Bench:
    """Stand-ins, a data folder, and launches of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = RunFolder(folder / "run")
        self.logs = folder / "logs"
        self.children: list[subprocess.Popen[str]] = []

    def service(self, name: str, manner: str = "good", **more: Any) -> Service:
        port = more.pop("port", None) or free_port()
        script = str(HERE / "fake_service.py")
        return Service(
            name=name,
            command=[sys.executable, script, str(port), str(self.folder), manner],
            host="127.0.0.1",
            port=port,
            health_url=f"http://127.0.0.1:{port}/health",
            address=f"http://127.0.0.1:{port}",
            setting=f"ROSSMANN_{name.upper()}_PORT",
            **more,
        )

    def launch(
        self,
        *services: Service,
        detach: bool = False,
        early: int = 0,
        preparation: tuple[str, ...] = (),
    ) -> subprocess.Popen[str]:
        told = [asdict(service) for service in services]
        for one in told:
            del one["accepts"]
        plan = self.folder / f"plan{len(self.children)}.json"
        plan.write_text(
            json.dumps(
                {
                    "services": told,
                    "logs": str(self.logs),
                    "run": str(self.run.folder),
                    "early": early,
                    "preparation": preparation,
                    "detach": detach,
                }
            )
        )
        return self.spawn([sys.executable, str(HERE / "launch_driver.py"), str(plan)])

    def spawn(self, command: list[str]) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=self.folder
        )
        self.children.append(child)
        return child

    def stand_in(self, service: Service) -> subprocess.Popen[str]:
        child = self.spawn(list(service.command))
        eventually(service.healthy)
        return child

    def ready(self, launch: subprocess.Popen[str]) -> str:
        assert launch.stdout is not None
        said = ""
        for line in launch.stdout:
            said += line
            if line.startswith("Ready"):
                return said
        assert launch.stderr is not None
        raise AssertionError(f"not ready:\n{said}{launch.stderr.read()}")

    def left(self) -> list[psutil.Process]:
        mine = str(self.folder)
        outside = {child.pid for child in self.children}
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if mine in " ".join(process.info["cmdline"] or []) and process.pid not in outside
        ]

    def ended(self) -> list[int]:
        file = self.folder / "ended"
        return [int(line) for line in file.read_text().split()] if file.exists() else []


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    for child in bench.children:
        child.kill()
        child.communicate()
    left = bench.left()
    for process in left:
        process.kill()


def test_detached_services_run_until_down(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    services = [bench.service("one"), bench.service("two")]
    launch = bench.launch(*services, detach=True)
    out, err = launch.communicate(timeout=PATIENCE)
    assert launch.returncode == 0, err
    assert all(service.address in out for service in services)
    assert str(bench.logs) in out
    assert all(service.healthy() for service in services)
    assert status(services, bench.run, LaunchConsole())
    down(services, bench.run, LaunchConsole())
    assert bench.left() == []
    assert bench.ended() == [services[1].port, services[0].port]
    assert not status(services, bench.run, LaunchConsole())
    assert "not running" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_all_in_reverse_order(bench: Bench, number: int, code: int) -> None:
    services = [bench.service(name) for name in ("one", "two", "three")]
    launch = bench.launch(*services)
    bench.ready(launch)
    launch.send_signal(number)
    launch.communicate(timeout=PATIENCE)
    assert launch.returncode == code
    assert bench.ended() == [service.port for service in reversed(services)]
    assert bench.left() == []
    assert bench.run.launcher() is None


def test_a_signal_while_preparing_ends_the_preparation(bench: Bench) -> None:
    started = bench.folder / "preparing"
    script = f"open({str(started)!r}, 'w').close(); import time; time.sleep(600)"
    service = bench.service("one")
    launch = bench.launch(
        service, bench.service("two"), early=1, preparation=(sys.executable, "-c", script)
    )
    eventually(started.exists)
    eventually(service.healthy)
    launch.send_signal(signal.SIGINT)
    launch.communicate(timeout=PATIENCE)
    assert launch.returncode == 130
    assert bench.left() == []


def test_the_early_service_starts_before_the_preparation(bench: Bench) -> None:
    early, late = bench.service("early"), bench.service("late")
    script = (
        "import sys, time, pathlib\n"
        f"folder = pathlib.Path({str(bench.folder)!r})\n"
        f"while not (folder / '{early.port}.up').exists(): time.sleep(.05)\n"
        f"sys.exit((folder / '{late.port}.up').exists())"
    )
    preparation = (sys.executable, "-c", script)
    launch = bench.launch(early, late, detach=True, early=1, preparation=preparation)
    _, err = launch.communicate(timeout=PATIENCE)
    assert launch.returncode == 0, err
    assert late.healthy()
    down([early, late], bench.run, LaunchConsole())


def test_a_preparation_that_fails_leaves_nothing(bench: Bench) -> None:
    services = [bench.service("one"), bench.service("two")]
    launch = bench.launch(
        *services, early=1, preparation=(sys.executable, "-c", "raise SystemExit('no tables')")
    )
    _, err = launch.communicate(timeout=PATIENCE)
    assert launch.returncode == 1
    assert "no tables" in err
    assert not (bench.folder / f"{services[1].port}.up").exists()
    assert bench.left() == []


def test_what_runs_already_is_used_and_left_running(bench: Bench) -> None:
    used, new = bench.service("used"), bench.service("new")
    bench.stand_in(used)
    launch = bench.launch(used, new)
    said = bench.ready(launch)
    assert f"used runs already at {used.address}" in said
    launch.send_signal(signal.SIGINT)
    launch.communicate(timeout=PATIENCE)
    assert bench.ended() == [new.port]
    assert used.healthy()
    down([used, new], bench.run, LaunchConsole())
    assert used.healthy()


def test_a_strangers_port_is_named_and_nothing_started(bench: Bench) -> None:
    first, second = bench.service("first"), bench.service("api")
    stranger = bench.stand_in(Service(**{**vars(second), "marks": ()}))
    foreign = Service(**{**vars(second), "marks": ("not in its command line",)})
    launch = bench.launch(first, foreign)
    _, err = launch.communicate(timeout=PATIENCE)
    assert launch.returncode == 1
    assert f"port {second.port}, which api needs" in err
    assert f"pid {stranger.pid}" in err
    assert "ROSSMANN_API_PORT=" in err
    assert not (bench.folder / f"{first.port}.up").exists()
    assert stranger.poll() is None
    assert bench.ended() == []


def test_a_port_that_does_not_speak_http_is_a_strangers(bench: Bench) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        service = bench.service("api", port=listener.getsockname()[1])
        launch = bench.launch(service)
        _, err = launch.communicate(timeout=PATIENCE)
    assert launch.returncode == 1
    assert f"pid {os.getpid()}" in err


def test_a_service_that_dies_while_starting_is_said_with_its_log(bench: Bench) -> None:
    good, bad = bench.service("good"), bench.service("bad", "fails")
    launch = bench.launch(good, bad)
    _, err = launch.communicate(timeout=PATIENCE)
    assert launch.returncode == 1
    assert "bad ended by itself with exit code 7" in err
    assert "the database is on fire" in err
    assert str(bench.logs / "bad.log") in err
    assert bench.ended() == [good.port]
    assert bench.left() == []


def test_a_command_that_cannot_be_run_is_said(bench: Bench) -> None:
    good = bench.service("good")
    bad = Service(**{**vars(bench.service("bad")), "command": ["/no/such/program"]})
    launch = bench.launch(good, bad)
    _, err = launch.communicate(timeout=PATIENCE)
    assert launch.returncode == 1
    assert "bad cannot be started" in err
    assert bench.left() == []


def test_a_service_that_dies_later_is_said_and_the_others_ended(bench: Bench) -> None:
    services = [bench.service("one"), bench.service("two")]
    launch = bench.launch(*services)
    bench.ready(launch)
    os.kill(int((bench.folder / f"{services[0].port}.up").read_text()), signal.SIGKILL)
    _, err = launch.communicate(timeout=PATIENCE)
    assert launch.returncode == 1
    assert "one ended by itself by signal 9" in err
    assert f"stand-in on {services[0].port}" in err
    assert bench.ended() == [services[1].port]
    assert bench.left() == []


def test_a_service_that_never_answers_is_given_up(bench: Bench) -> None:
    launch = bench.launch(bench.service("silent", "mute", patience=1.0))
    _, err = launch.communicate(timeout=PATIENCE)
    assert launch.returncode == 1
    assert "silent does not answer" in err
    assert bench.left() == []


def test_a_second_launch_says_so_and_succeeds(bench: Bench) -> None:
    service = bench.service("one")
    first = bench.launch(service)
    bench.ready(first)
    second = bench.launch(service)
    out, _ = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0
    assert f"pid {first.pid}" in out
    assert service.address in out
    assert first.poll() is None
    assert service.healthy()


def test_down_ends_a_launch_in_the_foreground(bench: Bench) -> None:
    services = [bench.service("one"), bench.service("two")]
    launch = bench.launch(*services)
    bench.ready(launch)
    down(services, bench.run, LaunchConsole())
    launch.communicate(timeout=PATIENCE)
    assert launch.returncode == 143
    assert bench.left() == []


def test_a_launch_after_a_detached_one_uses_it(bench: Bench) -> None:
    service = bench.service("one")
    bench.launch(service, detach=True).communicate(timeout=PATIENCE)
    again = bench.launch(service)
    out, _ = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0
    assert "ran already" in out
    assert service.healthy()
    down([service], bench.run, LaunchConsole())
    assert bench.left() == []


def test_children_in_other_sessions_are_ended_too(bench: Bench) -> None:
    service = bench.service("one", "parent")
    bench.launch(service, detach=True).communicate(timeout=PATIENCE)
    child = psutil.Process(int((bench.folder / f"{service.port}.child").read_text()))
    assert child.is_running()
    down([service], bench.run, LaunchConsole())
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_children_are_ended_even_when_their_parent_has_died(bench: Bench) -> None:
    service = bench.service("one", "parent")
    bench.launch(service, detach=True).communicate(timeout=PATIENCE)
    child = psutil.Process(int((bench.folder / f"{service.port}.child").read_text()))
    os.kill(int((bench.folder / f"{service.port}.up").read_text()), signal.SIGKILL)
    down([service], bench.run, LaunchConsole())
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_a_stubborn_service_is_ended_after_the_grace(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = bench.service("one", "stubborn")
    bench.launch(service, detach=True).communicate(timeout=PATIENCE)
    monkeypatch.setattr("rossmann.launcher.shutdown.GRACE_SECONDS", 0.5)
    down([service], bench.run, LaunchConsole())
    assert bench.ended() == [service.port]
    assert bench.left() == []


def test_a_second_ctrl_c_cuts_the_grace_short(bench: Bench) -> None:
    service = bench.service("one", "stubborn")
    launch = bench.launch(service)
    bench.ready(launch)
    launch.send_signal(signal.SIGINT)
    eventually(bench.ended)
    began = time.monotonic()
    launch.send_signal(signal.SIGINT)
    launch.communicate(timeout=PATIENCE)
    assert launch.returncode == 130
    assert bench.left() == []
    assert time.monotonic() - began < 8  # the grace is 10


def test_a_reused_pid_is_never_ended(bench: Bench) -> None:
    service = bench.service("one")
    bench.launch(service, detach=True).communicate(timeout=PATIENCE)
    record = bench.run.read("one")
    assert record is not None
    file = bench.run.folder / "one.json"
    told = json.loads(file.read_text())
    told["identity"] |= {"started": "another time", "token": "another launch"}
    file.write_text(json.dumps(told))
    down([service], bench.run, LaunchConsole())
    assert service.healthy()
    psutil.Process(record.identity.pid).kill()


def test_status_tells_a_service_that_died(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    service = bench.service("one")
    bench.launch(service, detach=True).communicate(timeout=PATIENCE)
    os.kill(int((bench.folder / f"{service.port}.up").read_text()), signal.SIGKILL)
    eventually(lambda: not ports.is_taken(service.host, service.port))
    assert not status([service], bench.run, LaunchConsole())
    said = capsys.readouterr().out
    assert "has ended by itself" in said
    assert f"stand-in on {service.port}" in said


def test_a_service_that_died_is_started_anew(bench: Bench) -> None:
    service = bench.service("one")
    bench.launch(service, detach=True).communicate(timeout=PATIENCE)
    os.kill(int((bench.folder / f"{service.port}.up").read_text()), signal.SIGKILL)
    eventually(lambda: not ports.is_taken(service.host, service.port))
    again = bench.launch(service, detach=True)
    again.communicate(timeout=PATIENCE)
    assert again.returncode == 0
    assert service.healthy()
    down([service], bench.run, LaunchConsole())


def test_down_with_nothing_running_says_so(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    down([bench.service("one")], bench.run, LaunchConsole())
    assert "Nothing" in capsys.readouterr().out
