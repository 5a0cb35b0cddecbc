"""Services that end by themselves are started again, by the launch or by the guard it left."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from rossmann.launcher.console import LaunchConsole
from rossmann.launcher.processes import GUARD
from rossmann.launcher.restarts import Backoff
from rossmann.launcher.services import Service
from rossmann.launcher.supervisor import down, status
from tests.fixtures.launches import TIMEOUT, LaunchHarness, wait_until


def kill(harness: LaunchHarness, service: Service) -> int:
    """Kill the service as the system does when memory runs out; returns its pid."""
    pid = pid_of(harness, service)
    os.kill(pid, signal.SIGKILL)
    return pid


def pid_of(harness: LaunchHarness, service: Service) -> int:
    return int((harness.folder / f"{service.port}.up").read_text())


def wait_restarted(harness: LaunchHarness, service: Service, before: int) -> None:
    wait_until(lambda: pid_of(harness, service) != before and service.healthy())


def test_launch_restarts_a_service_and_leaves_the_others_alone(harness: LaunchHarness) -> None:
    services = [harness.service("one"), harness.service("two")]
    launch = harness.launch(*services)
    harness.wait_ready(launch)
    other = pid_of(harness, services[1])
    wait_restarted(harness, services[0], kill(harness, services[0]))
    assert pid_of(harness, services[1]) == other
    launch.send_signal(signal.SIGINT)
    out, _ = launch.communicate(timeout=TIMEOUT)
    assert launch.returncode == 130
    assert "one ended by itself by signal 9: it is started again in 1 s" in out
    assert f"one was started again at {services[0].address}" in out
    assert harness.ended_ports() == [services[1].port, services[0].port]
    assert harness.leftovers() == []


def test_guard_of_a_detached_launch_restarts_a_service(
    harness: LaunchHarness, capsys: pytest.CaptureFixture[str]
) -> None:
    services = [harness.service("one"), harness.service("two")]
    launch = harness.launch(*services, detach=True, guard=True)
    launch.communicate(timeout=TIMEOUT)
    assert launch.returncode == 0
    wait_restarted(harness, services[1], kill(harness, services[1]))
    assert status(services, harness.run, LaunchConsole())
    assert "A guard restarts services" in capsys.readouterr().out
    assert "two was started again" in (harness.logs / "guard.log").read_text()
    second = harness.launch(*services, detach=True, guard=True)
    out, _ = second.communicate(timeout=TIMEOUT)
    assert "All of it ran already" in out
    down(services, harness.run, LaunchConsole())
    assert harness.ended_ports() == [services[1].port, services[0].port]
    assert harness.leftovers() == []
    assert harness.run.launcher(GUARD) is None


@pytest.mark.nightly
def test_children_of_a_dead_service_are_ended_before_its_restart(harness: LaunchHarness) -> None:
    service = harness.service("one", "parent")
    launch = harness.launch(service)
    harness.wait_ready(launch)
    child = psutil.Process(int((harness.folder / f"{service.port}.child").read_text()))
    wait_restarted(harness, service, kill(harness, service))
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_down_during_the_pause_ends_the_guard_and_starts_nothing(harness: LaunchHarness) -> None:
    service = harness.service("one")
    harness.launch(service, detach=True, guard=True).communicate(timeout=TIMEOUT)
    kill(harness, service)
    wait_until(lambda: "it is started again in" in guard_log(harness))
    down([service], harness.run, LaunchConsole())
    assert harness.leftovers() == []
    time.sleep(1.5)  # longer than the pause
    assert not service.healthy(timeout=1)


@pytest.mark.nightly
def test_guard_ends_when_nothing_is_left_to_watch(harness: LaunchHarness) -> None:
    service = harness.service("one")
    harness.launch(service, detach=True, guard=True).communicate(timeout=TIMEOUT)
    record = harness.run.read("one")
    assert record is not None
    harness.run.remove("one")
    wait_until(lambda: harness.run.launcher(GUARD) is None)
    assert service.healthy()
    os.kill(record.identity.pid, signal.SIGKILL)


def guard_log(harness: LaunchHarness) -> str:
    path: Path = harness.logs / "guard.log"
    return path.read_text() if path.exists() else ""


def test_pauses_grow_to_a_minute_and_begin_anew_after_recovery() -> None:
    now = [1000.0]
    backoff = Backoff(lambda: now[0])
    pauses = []
    for _ in range(9):
        pause = backoff.note_death("one")
        assert pause is not None
        assert backoff.note_death("one") is None
        assert not backoff.is_due("one")
        now[0] += pause
        assert backoff.is_due("one")
        backoff.note_start("one")
        now[0] += 5  # it dies soon after each start
        pauses.append(pause)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    now[0] += 60
    assert backoff.note_death("one") == 1
    assert backoff.note_death("two") == 1
