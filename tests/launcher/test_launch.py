"""Launches of real processes: order, health, use of running services, failures, leftovers."""

import json
import os
import signal
import socket
import sys
import time

import psutil
import pytest

from rossmann.launcher.console import LaunchConsole
from rossmann.launcher.services import Service, is_port_taken
from rossmann.launcher.supervisor import down, status
from tests.fixtures.launches import TIMEOUT, LaunchHarness, wait_until


def test_detached_services_run_until_down(
    harness: LaunchHarness, capsys: pytest.CaptureFixture[str]
) -> None:
    services = [harness.service("one"), harness.service("two")]
    launch = harness.launch(*services, detach=True)
    out, err = launch.communicate(timeout=TIMEOUT)
    assert launch.returncode == 0, err
    assert all(service.address in out for service in services)
    assert str(harness.logs) in out
    assert all(service.healthy() for service in services)
    assert status(services, harness.run, LaunchConsole())
    down(services, harness.run, LaunchConsole())
    assert harness.leftovers() == []
    assert harness.ended_ports() == [services[1].port, services[0].port]
    assert not status(services, harness.run, LaunchConsole())
    assert "not running" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_services_in_reverse_order(
    harness: LaunchHarness, number: int, code: int
) -> None:
    services = [harness.service(name) for name in ("one", "two", "three")]
    launch = harness.launch(*services)
    harness.wait_ready(launch)
    launch.send_signal(number)
    launch.communicate(timeout=TIMEOUT)
    assert launch.returncode == code
    assert harness.ended_ports() == [service.port for service in reversed(services)]
    assert harness.leftovers() == []
    assert harness.run.launcher() is None


def test_signal_ends_a_running_preparation(harness: LaunchHarness) -> None:
    started = harness.folder / "preparing"
    script = f"open({str(started)!r}, 'w').close(); import time; time.sleep(600)"
    service = harness.service("one")
    launch = harness.launch(
        service, harness.service("two"), early=1, preparation=(sys.executable, "-c", script)
    )
    wait_until(started.exists)
    wait_until(service.healthy)
    launch.send_signal(signal.SIGINT)
    launch.communicate(timeout=TIMEOUT)
    assert launch.returncode == 130
    assert harness.leftovers() == []


def test_early_service_starts_before_the_preparation(harness: LaunchHarness) -> None:
    early, late = harness.service("early"), harness.service("late")
    script = (
        "import sys, time, pathlib\n"
        f"folder = pathlib.Path({str(harness.folder)!r})\n"
        f"while not (folder / '{early.port}.up').exists(): time.sleep(.05)\n"
        f"sys.exit((folder / '{late.port}.up').exists())"
    )
    preparation = (sys.executable, "-c", script)
    launch = harness.launch(early, late, detach=True, early=1, preparation=preparation)
    _, err = launch.communicate(timeout=TIMEOUT)
    assert launch.returncode == 0, err
    assert late.healthy()
    down([early, late], harness.run, LaunchConsole())


def test_failed_preparation_leaves_no_process(harness: LaunchHarness) -> None:
    services = [harness.service("one"), harness.service("two")]
    launch = harness.launch(
        *services, early=1, preparation=(sys.executable, "-c", "raise SystemExit('no tables')")
    )
    _, err = launch.communicate(timeout=TIMEOUT)
    assert launch.returncode == 1
    assert "no tables" in err
    assert not (harness.folder / f"{services[1].port}.up").exists()
    assert harness.leftovers() == []


def test_running_service_is_used_and_left_running(harness: LaunchHarness) -> None:
    used, new = harness.service("used"), harness.service("new")
    harness.run_fake(used)
    launch = harness.launch(used, new)
    output = harness.wait_ready(launch)
    assert f"used runs already at {used.address}" in output
    launch.send_signal(signal.SIGINT)
    launch.communicate(timeout=TIMEOUT)
    assert harness.ended_ports() == [new.port]
    assert used.healthy()
    down([used, new], harness.run, LaunchConsole())
    assert used.healthy()


def test_port_of_another_program_is_an_error_and_starts_nothing(harness: LaunchHarness) -> None:
    first, second = harness.service("first"), harness.service("api")
    holder = harness.run_fake(Service(**{**vars(second), "command_markers": ()}))
    expected = Service(**{**vars(second), "command_markers": ("not in its command line",)})
    launch = harness.launch(first, expected)
    _, err = launch.communicate(timeout=TIMEOUT)
    assert launch.returncode == 1
    assert f"port {second.port}, which api needs" in err
    assert f"pid {holder.pid}" in err
    assert "ROSSMANN_API_PORT=" in err
    assert not (harness.folder / f"{first.port}.up").exists()
    assert holder.poll() is None
    assert harness.ended_ports() == []


def test_port_without_http_is_an_error(harness: LaunchHarness) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        service = harness.service("api", port=listener.getsockname()[1])
        launch = harness.launch(service)
        _, err = launch.communicate(timeout=TIMEOUT)
    assert launch.returncode == 1
    assert f"pid {os.getpid()}" in err


def test_death_while_starting_is_reported_with_the_log(harness: LaunchHarness) -> None:
    good, bad = harness.service("good"), harness.service("bad", "fails")
    launch = harness.launch(good, bad)
    _, err = launch.communicate(timeout=TIMEOUT)
    assert launch.returncode == 1
    assert "bad ended by itself with exit code 7" in err
    assert "the database is unavailable" in err
    assert str(harness.logs / "bad.log") in err
    assert harness.ended_ports() == [good.port]
    assert harness.leftovers() == []


def test_command_that_cannot_be_run_is_an_error(harness: LaunchHarness) -> None:
    good = harness.service("good")
    bad = Service(**{**vars(harness.service("bad")), "command": ["/no/such/program"]})
    launch = harness.launch(good, bad)
    _, err = launch.communicate(timeout=TIMEOUT)
    assert launch.returncode == 1
    assert "bad cannot be started" in err
    assert harness.leftovers() == []


def test_unhealthy_service_times_out(harness: LaunchHarness) -> None:
    launch = harness.launch(harness.service("slow", "unhealthy", startup_timeout=1.0))
    _, err = launch.communicate(timeout=TIMEOUT)
    assert launch.returncode == 1
    assert "slow does not answer" in err
    assert harness.leftovers() == []


def test_second_launch_reports_the_first_and_succeeds(harness: LaunchHarness) -> None:
    service = harness.service("one")
    first = harness.launch(service)
    harness.wait_ready(first)
    second = harness.launch(service)
    out, _ = second.communicate(timeout=TIMEOUT)
    assert second.returncode == 0
    assert f"pid {first.pid}" in out
    assert service.address in out
    assert first.poll() is None
    assert service.healthy()


def test_down_ends_a_foreground_launch(harness: LaunchHarness) -> None:
    services = [harness.service("one"), harness.service("two")]
    launch = harness.launch(*services)
    harness.wait_ready(launch)
    down(services, harness.run, LaunchConsole())
    launch.communicate(timeout=TIMEOUT)
    assert launch.returncode == 143
    assert harness.leftovers() == []


def test_launch_uses_a_detached_one(harness: LaunchHarness) -> None:
    service = harness.service("one")
    harness.launch(service, detach=True).communicate(timeout=TIMEOUT)
    second = harness.launch(service)
    out, _ = second.communicate(timeout=TIMEOUT)
    assert second.returncode == 0
    assert "ran already" in out
    assert service.healthy()
    down([service], harness.run, LaunchConsole())
    assert harness.leftovers() == []


def test_children_in_other_sessions_are_ended(harness: LaunchHarness) -> None:
    service = harness.service("one", "parent")
    harness.launch(service, detach=True).communicate(timeout=TIMEOUT)
    child = psutil.Process(int((harness.folder / f"{service.port}.child").read_text()))
    assert child.is_running()
    down([service], harness.run, LaunchConsole())
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_children_of_a_dead_parent_are_ended(harness: LaunchHarness) -> None:
    service = harness.service("one", "parent")
    harness.launch(service, detach=True).communicate(timeout=TIMEOUT)
    child = psutil.Process(int((harness.folder / f"{service.port}.child").read_text()))
    os.kill(int((harness.folder / f"{service.port}.up").read_text()), signal.SIGKILL)
    down([service], harness.run, LaunchConsole())
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_service_that_ignores_sigterm_is_killed_after_the_grace(
    harness: LaunchHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = harness.service("one", "ignores_sigterm")
    harness.launch(service, detach=True).communicate(timeout=TIMEOUT)
    monkeypatch.setattr("rossmann.launcher.supervisor.GRACE_SECONDS", 0.5)
    down([service], harness.run, LaunchConsole())
    assert harness.ended_ports() == [service.port]
    assert harness.leftovers() == []


def test_second_ctrl_c_kills_without_grace(harness: LaunchHarness) -> None:
    service = harness.service("one", "ignores_sigterm")
    launch = harness.launch(service)
    harness.wait_ready(launch)
    launch.send_signal(signal.SIGINT)
    wait_until(harness.ended_ports)
    started = time.monotonic()
    launch.send_signal(signal.SIGINT)
    launch.communicate(timeout=TIMEOUT)
    assert launch.returncode == 130
    assert harness.leftovers() == []
    assert time.monotonic() - started < 8  # the grace is 10


def test_reused_pid_is_not_signalled(harness: LaunchHarness) -> None:
    service = harness.service("one")
    harness.launch(service, detach=True).communicate(timeout=TIMEOUT)
    record = harness.run.read("one")
    assert record is not None
    file = harness.run.folder / "one.json"
    content = json.loads(file.read_text())
    content["identity"] |= {"started": "another time", "token": "another launch"}
    file.write_text(json.dumps(content))
    down([service], harness.run, LaunchConsole())
    assert service.healthy()
    psutil.Process(record.identity.pid).kill()


def test_status_reports_a_dead_service(
    harness: LaunchHarness, capsys: pytest.CaptureFixture[str]
) -> None:
    service = harness.service("one")
    harness.launch(service, detach=True).communicate(timeout=TIMEOUT)
    os.kill(int((harness.folder / f"{service.port}.up").read_text()), signal.SIGKILL)
    wait_until(lambda: not is_port_taken(service.host, service.port))
    assert not status([service], harness.run, LaunchConsole())
    output = capsys.readouterr().out
    assert "has ended by itself" in output
    assert f"fake service on {service.port}" in output


def test_dead_service_is_started_again(harness: LaunchHarness) -> None:
    service = harness.service("one")
    harness.launch(service, detach=True).communicate(timeout=TIMEOUT)
    os.kill(int((harness.folder / f"{service.port}.up").read_text()), signal.SIGKILL)
    wait_until(lambda: not is_port_taken(service.host, service.port))
    second = harness.launch(service, detach=True)
    second.communicate(timeout=TIMEOUT)
    assert second.returncode == 0
    assert service.healthy()
    down([service], harness.run, LaunchConsole())


def test_down_reports_that_nothing_runs(
    harness: LaunchHarness, capsys: pytest.CaptureFixture[str]
) -> None:
    down([harness.service("one")], harness.run, LaunchConsole())
    assert "Nothing" in capsys.readouterr().out
