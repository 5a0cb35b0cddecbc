"""Launches of real processes: order, health, use of running services, failures, leftovers."""

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

from rossmann.launcher.console import LaunchConsole
from rossmann.launcher.processes import is_port_taken
from rossmann.launcher.run_files import RunFolder
from rossmann.launcher.services import Service
from rossmann.launcher.supervisor import down, status

HERE = Path(__file__).parent
TIMEOUT = 60


def eventually(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.05)
    raise AssertionError("the condition stayed false")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class LaunchLab:
    """Fake services, a data folder, and launches of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = RunFolder(folder / "run")
        self.logs = folder / "logs"
        self.children: list[subprocess.Popen[str]] = []

    def service(self, name: str, behaviour: str = "good", **options: Any) -> Service:
        port = options.pop("port", None) or free_port()
        script = str(HERE / "fake_service.py")
        return Service(
            name=name,
            command=[sys.executable, script, str(port), str(self.folder), behaviour],
            host="127.0.0.1",
            port=port,
            health_url=f"http://127.0.0.1:{port}/health",
            address=f"http://127.0.0.1:{port}",
            setting=f"ROSSMANN_{name.upper()}_PORT",
            **options,
        )

    def launch(
        self,
        *services: Service,
        detach: bool = False,
        early: int = 0,
        preparation: tuple[str, ...] = (),
    ) -> subprocess.Popen[str]:
        records = [asdict(service) for service in services]
        for record in records:
            del record["accepts"]
        plan = self.folder / f"plan{len(self.children)}.json"
        plan.write_text(
            json.dumps(
                {
                    "services": records,
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

    def run_fake(self, service: Service) -> subprocess.Popen[str]:
        child = self.spawn(list(service.command))
        eventually(service.healthy)
        return child

    def wait_ready(self, launch: subprocess.Popen[str]) -> str:
        assert launch.stdout is not None
        output = ""
        for line in launch.stdout:
            output += line
            if line.startswith("Ready"):
                return output
        assert launch.stderr is not None
        raise AssertionError(f"not ready:\n{output}{launch.stderr.read()}")

    def leftovers(self) -> list[psutil.Process]:
        folder = str(self.folder)
        children = {child.pid for child in self.children}
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if folder in " ".join(process.info["cmdline"] or []) and process.pid not in children
        ]

    def ended_ports(self) -> list[int]:
        file = self.folder / "ended"
        return [int(line) for line in file.read_text().split()] if file.exists() else []


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[LaunchLab]:
    lab = LaunchLab(tmp_path)
    yield lab
    for child in lab.children:
        child.kill()
        child.communicate()
    for process in lab.leftovers():
        process.kill()


def test_detached_services_run_until_down(
    lab: LaunchLab, capsys: pytest.CaptureFixture[str]
) -> None:
    services = [lab.service("one"), lab.service("two")]
    launch = lab.launch(*services, detach=True)
    out, err = launch.communicate(timeout=TIMEOUT)
    assert launch.returncode == 0, err
    assert all(service.address in out for service in services)
    assert str(lab.logs) in out
    assert all(service.healthy() for service in services)
    assert status(services, lab.run, LaunchConsole())
    down(services, lab.run, LaunchConsole())
    assert lab.leftovers() == []
    assert lab.ended_ports() == [services[1].port, services[0].port]
    assert not status(services, lab.run, LaunchConsole())
    assert "not running" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_services_in_reverse_order(lab: LaunchLab, number: int, code: int) -> None:
    services = [lab.service(name) for name in ("one", "two", "three")]
    launch = lab.launch(*services)
    lab.wait_ready(launch)
    launch.send_signal(number)
    launch.communicate(timeout=TIMEOUT)
    assert launch.returncode == code
    assert lab.ended_ports() == [service.port for service in reversed(services)]
    assert lab.leftovers() == []
    assert lab.run.launcher() is None


def test_signal_ends_a_running_preparation(lab: LaunchLab) -> None:
    started = lab.folder / "preparing"
    script = f"open({str(started)!r}, 'w').close(); import time; time.sleep(600)"
    service = lab.service("one")
    launch = lab.launch(
        service, lab.service("two"), early=1, preparation=(sys.executable, "-c", script)
    )
    eventually(started.exists)
    eventually(service.healthy)
    launch.send_signal(signal.SIGINT)
    launch.communicate(timeout=TIMEOUT)
    assert launch.returncode == 130
    assert lab.leftovers() == []


def test_early_service_starts_before_the_preparation(lab: LaunchLab) -> None:
    early, late = lab.service("early"), lab.service("late")
    script = (
        "import sys, time, pathlib\n"
        f"folder = pathlib.Path({str(lab.folder)!r})\n"
        f"while not (folder / '{early.port}.up').exists(): time.sleep(.05)\n"
        f"sys.exit((folder / '{late.port}.up').exists())"
    )
    preparation = (sys.executable, "-c", script)
    launch = lab.launch(early, late, detach=True, early=1, preparation=preparation)
    _, err = launch.communicate(timeout=TIMEOUT)
    assert launch.returncode == 0, err
    assert late.healthy()
    down([early, late], lab.run, LaunchConsole())


def test_failed_preparation_leaves_no_process(lab: LaunchLab) -> None:
    services = [lab.service("one"), lab.service("two")]
    launch = lab.launch(
        *services, early=1, preparation=(sys.executable, "-c", "raise SystemExit('no tables')")
    )
    _, err = launch.communicate(timeout=TIMEOUT)
    assert launch.returncode == 1
    assert "no tables" in err
    assert not (lab.folder / f"{services[1].port}.up").exists()
    assert lab.leftovers() == []


def test_running_service_is_used_and_left_running(lab: LaunchLab) -> None:
    used, new = lab.service("used"), lab.service("new")
    lab.run_fake(used)
    launch = lab.launch(used, new)
    output = lab.wait_ready(launch)
    assert f"used runs already at {used.address}" in output
    launch.send_signal(signal.SIGINT)
    launch.communicate(timeout=TIMEOUT)
    assert lab.ended_ports() == [new.port]
    assert used.healthy()
    down([used, new], lab.run, LaunchConsole())
    assert used.healthy()


def test_port_of_another_program_is_an_error_and_starts_nothing(lab: LaunchLab) -> None:
    first, second = lab.service("first"), lab.service("api")
    holder = lab.run_fake(Service(**{**vars(second), "command_markers": ()}))
    expected = Service(**{**vars(second), "command_markers": ("not in its command line",)})
    launch = lab.launch(first, expected)
    _, err = launch.communicate(timeout=TIMEOUT)
    assert launch.returncode == 1
    assert f"port {second.port}, which api needs" in err
    assert f"pid {holder.pid}" in err
    assert "ROSSMANN_API_PORT=" in err
    assert not (lab.folder / f"{first.port}.up").exists()
    assert holder.poll() is None
    assert lab.ended_ports() == []


def test_port_without_http_is_an_error(lab: LaunchLab) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        service = lab.service("api", port=listener.getsockname()[1])
        launch = lab.launch(service)
        _, err = launch.communicate(timeout=TIMEOUT)
    assert launch.returncode == 1
    assert f"pid {os.getpid()}" in err


def test_death_while_starting_is_reported_with_the_log(lab: LaunchLab) -> None:
    good, bad = lab.service("good"), lab.service("bad", "fails")
    launch = lab.launch(good, bad)
    _, err = launch.communicate(timeout=TIMEOUT)
    assert launch.returncode == 1
    assert "bad ended by itself with exit code 7" in err
    assert "the database is on fire" in err
    assert str(lab.logs / "bad.log") in err
    assert lab.ended_ports() == [good.port]
    assert lab.leftovers() == []


def test_command_that_cannot_be_run_is_an_error(lab: LaunchLab) -> None:
    good = lab.service("good")
    bad = Service(**{**vars(lab.service("bad")), "command": ["/no/such/program"]})
    launch = lab.launch(good, bad)
    _, err = launch.communicate(timeout=TIMEOUT)
    assert launch.returncode == 1
    assert "bad cannot be started" in err
    assert lab.leftovers() == []


def test_death_after_start_is_reported_and_ends_the_others(lab: LaunchLab) -> None:
    services = [lab.service("one"), lab.service("two")]
    launch = lab.launch(*services)
    lab.wait_ready(launch)
    os.kill(int((lab.folder / f"{services[0].port}.up").read_text()), signal.SIGKILL)
    _, err = launch.communicate(timeout=TIMEOUT)
    assert launch.returncode == 1
    assert "one ended by itself by signal 9" in err
    assert f"stand-in on {services[0].port}" in err
    assert lab.ended_ports() == [services[1].port]
    assert lab.leftovers() == []


def test_silent_service_times_out(lab: LaunchLab) -> None:
    launch = lab.launch(lab.service("silent", "mute", startup_timeout=1.0))
    _, err = launch.communicate(timeout=TIMEOUT)
    assert launch.returncode == 1
    assert "silent does not answer" in err
    assert lab.leftovers() == []


def test_second_launch_reports_the_first_and_succeeds(lab: LaunchLab) -> None:
    service = lab.service("one")
    first = lab.launch(service)
    lab.wait_ready(first)
    second = lab.launch(service)
    out, _ = second.communicate(timeout=TIMEOUT)
    assert second.returncode == 0
    assert f"pid {first.pid}" in out
    assert service.address in out
    assert first.poll() is None
    assert service.healthy()


def test_down_ends_a_foreground_launch(lab: LaunchLab) -> None:
    services = [lab.service("one"), lab.service("two")]
    launch = lab.launch(*services)
    lab.wait_ready(launch)
    down(services, lab.run, LaunchConsole())
    launch.communicate(timeout=TIMEOUT)
    assert launch.returncode == 143
    assert lab.leftovers() == []


def test_launch_uses_a_detached_one(lab: LaunchLab) -> None:
    service = lab.service("one")
    lab.launch(service, detach=True).communicate(timeout=TIMEOUT)
    again = lab.launch(service)
    out, _ = again.communicate(timeout=TIMEOUT)
    assert again.returncode == 0
    assert "ran already" in out
    assert service.healthy()
    down([service], lab.run, LaunchConsole())
    assert lab.leftovers() == []


def test_children_in_other_sessions_are_ended(lab: LaunchLab) -> None:
    service = lab.service("one", "parent")
    lab.launch(service, detach=True).communicate(timeout=TIMEOUT)
    child = psutil.Process(int((lab.folder / f"{service.port}.child").read_text()))
    assert child.is_running()
    down([service], lab.run, LaunchConsole())
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_children_of_a_dead_parent_are_ended(lab: LaunchLab) -> None:
    service = lab.service("one", "parent")
    lab.launch(service, detach=True).communicate(timeout=TIMEOUT)
    child = psutil.Process(int((lab.folder / f"{service.port}.child").read_text()))
    os.kill(int((lab.folder / f"{service.port}.up").read_text()), signal.SIGKILL)
    down([service], lab.run, LaunchConsole())
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_service_that_ignores_sigterm_is_killed_after_the_grace(
    lab: LaunchLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = lab.service("one", "stubborn")
    lab.launch(service, detach=True).communicate(timeout=TIMEOUT)
    monkeypatch.setattr("rossmann.launcher.supervisor.GRACE_SECONDS", 0.5)
    down([service], lab.run, LaunchConsole())
    assert lab.ended_ports() == [service.port]
    assert lab.leftovers() == []


def test_second_ctrl_c_kills_without_grace(lab: LaunchLab) -> None:
    service = lab.service("one", "stubborn")
    launch = lab.launch(service)
    lab.wait_ready(launch)
    launch.send_signal(signal.SIGINT)
    eventually(lab.ended_ports)
    started = time.monotonic()
    launch.send_signal(signal.SIGINT)
    launch.communicate(timeout=TIMEOUT)
    assert launch.returncode == 130
    assert lab.leftovers() == []
    assert time.monotonic() - started < 8  # the grace is 10


def test_reused_pid_is_not_signalled(lab: LaunchLab) -> None:
    service = lab.service("one")
    lab.launch(service, detach=True).communicate(timeout=TIMEOUT)
    record = lab.run.read("one")
    assert record is not None
    file = lab.run.folder / "one.json"
    content = json.loads(file.read_text())
    content["identity"] |= {"started": "another time", "token": "another launch"}
    file.write_text(json.dumps(content))
    down([service], lab.run, LaunchConsole())
    assert service.healthy()
    psutil.Process(record.identity.pid).kill()


def test_status_reports_a_dead_service(lab: LaunchLab, capsys: pytest.CaptureFixture[str]) -> None:
    service = lab.service("one")
    lab.launch(service, detach=True).communicate(timeout=TIMEOUT)
    os.kill(int((lab.folder / f"{service.port}.up").read_text()), signal.SIGKILL)
    eventually(lambda: not is_port_taken(service.host, service.port))
    assert not status([service], lab.run, LaunchConsole())
    output = capsys.readouterr().out
    assert "has ended by itself" in output
    assert f"stand-in on {service.port}" in output


def test_dead_service_is_started_again(lab: LaunchLab) -> None:
    service = lab.service("one")
    lab.launch(service, detach=True).communicate(timeout=TIMEOUT)
    os.kill(int((lab.folder / f"{service.port}.up").read_text()), signal.SIGKILL)
    eventually(lambda: not is_port_taken(service.host, service.port))
    again = lab.launch(service, detach=True)
    again.communicate(timeout=TIMEOUT)
    assert again.returncode == 0
    assert service.healthy()
    down([service], lab.run, LaunchConsole())


def test_down_reports_that_nothing_runs(lab: LaunchLab, capsys: pytest.CaptureFixture[str]) -> None:
    down([lab.service("one")], lab.run, LaunchConsole())
    assert "Nothing" in capsys.readouterr().out
