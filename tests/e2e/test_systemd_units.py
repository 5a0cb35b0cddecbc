"""Unit files of ``deployment/systemd``: systemd's own checks, and their commands as processes.

No systemd runs in the containers where these tests do, so what it does with a unit is not tested,
only what it is told and what the services do.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from rossmann.cli import main
from rossmann.data.demo.write_tables import write_demo
from rossmann.launcher.services import default_services
from rossmann.models.registry.registry import Registry
from rossmann.models.training.retrain import RetrainOutcome
from rossmann.schema import Stage
from rossmann.serving.server import server_config
from rossmann.settings import load_settings
from tests.e2e.installation import small_parameters
from tests.fixtures.networks import free_port
from tests.paths import ROOT

FOLDER = ROOT / "deployment" / "systemd"
PAGE = (ROOT / "docs" / "deployment" / "systemd.md").read_text("utf-8")
PROGRAM = "/opt/rossmann/.venv/bin/rossmann"
SERVICES = ("mlflow", "api", "dashboard")
COMMON = "# From here on the three units are the same.\n"
RETRAIN_COMMON = "# From here on the lines are the same as in the units of the services.\n"
OF_LONG_RUNNING = {"Type", "Restart", "RestartSec", "SuccessExitStatus", "OOMPolicy"}
OF_STOPS = {"KillMode", "KillSignal"}
LENIENT_GATE = {
    "ROSSMANN_WINDOWS": "[30, 62]",
    "ROSSMANN_WINDOW_DAYS": "30",
    "ROSSMANN_GATE_COVERAGE": "1",
    "ROSSMANN_GATE_BIAS": "1",
    "ROSSMANN_GATE_PROMOTION": "0",
    "ROSSMANN_GATE_CHANCE": "0.5",
    "ROSSMANN_GATE_RECORD": "50",
    "ROSSMANN_GATE_ROWS_PER_SECOND": "1",
}
"""A small chain with few trees does not pass strict limits."""
CLEAN = {0, -signal.SIGTERM, 128 + signal.SIGTERM}
needs_systemd = pytest.mark.skipif(
    not shutil.which("systemd-analyze"),
    reason="systemd-analyze is not installed (Debian: apt-get install systemd)",
)


def unit(service: str) -> str:
    return (FOLDER / f"rossmann-{service}.service").read_text("utf-8")


def values(text: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units in a folder of their own, with the program of this environment."""
    folder = tmp_path / "units"
    folder.mkdir()
    for path in FOLDER.glob("rossmann*"):
        own = path.read_text("utf-8").replace(
            PROGRAM, str(Path(sys.executable).parent / "rossmann")
        )
        (folder / path.name).write_text(own, "utf-8")
    return folder


def analyze(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@needs_systemd
def test_systemd_accepts_every_line_of_the_units(installed: Path) -> None:
    units = sorted(map(str, installed.iterdir()))
    assert len(units) == 6
    verdict = analyze(installed, "verify", "--man=no", *units)
    assert (verdict.returncode, verdict.stderr, verdict.stdout) == (0, "", "")


@needs_systemd
@pytest.mark.parametrize("service", [*SERVICES, "retrain"])
def test_exposure_by_systemds_own_measure(service: str, installed: Path) -> None:
    """A unit without hardening has 9.6 of 10; these have less than 2."""
    path = str(installed / f"rossmann-{service}.service")
    verdict = analyze(installed, "security", "--offline=true", "--threshold=20", path)
    assert verdict.returncode == 0, verdict.stdout


def test_the_units_differ_only_in_what_is_the_services_own() -> None:
    common = {unit(service).partition(COMMON)[2] for service in SERVICES}
    assert len(common) == 1 and len(common.pop()) > 1000


@pytest.mark.parametrize("service", SERVICES)
def test_units_restart_always_and_never_give_up(service: str) -> None:
    text = unit(service)
    assert values(text, "Restart") == ["always"]
    assert values(text, "StartLimitIntervalSec") == ["0"]
    assert values(text, "OOMPolicy") == ["continue"]  # else a dead worker ends the service
    assert values(text, "KillMode") == ["mixed"]  # else reading children die before their requests
    assert values(text, "User") == ["rossmann"]


def directives(text: str) -> list[str]:
    """The lines that systemd reads, up to the next section."""
    lines = text.partition("\n[Install]")[0].splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_retraining_has_place_environment_and_hardening_of_the_services() -> None:
    of_services = [
        line
        for line in directives(unit("api").partition(COMMON)[2])
        if line.partition("=")[0] not in OF_LONG_RUNNING | OF_STOPS
    ]
    assert directives(unit("retrain").partition(RETRAIN_COMMON)[2]) == of_services
    assert {"NoNewPrivileges=yes", "User=rossmann", "ProtectSystem=strict"} <= set(of_services)


def test_retraining_fails_only_where_a_person_should_look() -> None:
    text = unit("retrain")
    assert values(text, "Type") == ["oneshot"]
    assert values(text, "Restart") == ["no"]
    successes = values(text, "SuccessExitStatus")[0].split()
    stopped = 128 + signal.SIGTERM
    assert successes == [str(int(RetrainOutcome.NOTHING_NEW)), str(stopped), "SIGTERM"]
    for key in OF_STOPS:
        assert values(text, key) == values(unit("api"), key)


def test_the_timer_starts_the_retraining_and_stops_with_the_services() -> None:
    timer = (FOLDER / "rossmann-retrain.timer").read_text("utf-8")
    assert values(timer, "Unit") == []  # so it starts the service of its own name
    assert (FOLDER / "rossmann-retrain.service").is_file()
    for text in (timer, unit("retrain")):
        assert values(text, "PartOf") == ["rossmann.target"]
    assert values(timer, "WantedBy") == ["rossmann.target"]
    assert values(timer, "Persistent") == ["true"]


@needs_systemd
def test_retrainings_are_as_far_apart_as_the_gate_needs(tmp_path: Path) -> None:
    timer = (FOLDER / "rossmann-retrain.timer").read_text("utf-8")
    times = values(timer, "OnCalendar")
    verdict = analyze(tmp_path, "calendar", "--iterations=50", *times)
    days = [
        date.fromisoformat(day) for day in re.findall(r"\w{3} (\d{4}-\d\d-\d\d)", verdict.stdout)
    ]
    gaps = {(later - earlier).days for earlier, later in pairwise(days)}
    assert len(days) == 50
    assert min(gaps) >= load_settings().gate_days


def test_a_stop_waits_longer_than_the_service_for_its_requests() -> None:
    graceful = server_config("app", load_settings()).timeout_graceful_shutdown
    assert graceful is not None
    assert int(values(unit("api"), "TimeoutStopSec")[0]) > 2 * graceful


def test_files_and_verbs_of_the_page_exist() -> None:
    verbs = set(re.findall(r"/bin/rossmann (data [a-z]+|[a-z]+)", PAGE))
    started = {values(unit(s), "ExecStart")[0].split()[1] for s in (*SERVICES, "retrain")}
    assert {"data demo", "features", "train", "validate", "promote"} <= verbs
    for verb in verbs | started:
        assert main([*verb.split(), "--help"]) == 0
    for name in re.findall(r"deployment/systemd/([\w.*-]+)", PAGE):
        assert list(FOLDER.glob(name)), name


@pytest.mark.nightly
def test_the_second_run_of_the_retraining_finds_nothing_new(
    tmp_path: Path, running_mlflow: Callable[[Path, dict[str, str]], AbstractContextManager[str]]
) -> None:
    """The unit's command as a process: a first version in Production, then exit code 10."""
    parameters = small_parameters(tmp_path)
    cache = tmp_path / "cache"
    write_demo(load_settings(data_dir=tmp_path).demo_raw_dir, seed=5, stores=14, days=330)
    with running_mlflow(tmp_path, {}) as uri:
        variables = {
            "ROSSMANN_MLFLOW_TRACKING_URI": uri,
            "ROSSMANN_PARAMS": str(parameters),
            **LENIENT_GATE,
        }
        codes = [start("retrain", tmp_path, cache, variables).wait(240) for _ in range(2)]
        with Registry(uri) as registry:
            stages = [version.stage for version in registry.versions()]
    log = (tmp_path / "retrain.log").read_text("utf-8")
    assert codes == [0, int(RetrainOutcome.NOTHING_NEW)], log
    assert stages == [Stage.PRODUCTION]
    assert list(cache.glob("kernels-*")), "the code is read-only under systemd"


@pytest.mark.nightly
@pytest.mark.usefixtures("run_service")
def test_commands_of_the_units_serve_and_end_as_systemd_expects(tmp_path: Path) -> None:
    """With the units' own variables; a kill is no clean end, and a stop is."""
    settings = load_settings(
        data_dir=tmp_path,
        mlflow_port=free_port(),
        api_port=free_port(),
        dashboard_port=free_port(),
        mlflow_tracking_uri="",
    )
    ports = {
        f"ROSSMANN_{name.upper()}_PORT": str(getattr(settings, f"{name}_port")) for name in SERVICES
    }
    cache = tmp_path / "cache"
    cache.mkdir()
    healthy = dict(zip(SERVICES, default_services(settings), strict=True))
    for name in SERVICES:
        for how in (signal.SIGKILL, signal.SIGTERM):
            process = start(name, tmp_path, cache, ports)
            wait_until(healthy[name].healthy, process)
            process.send_signal(how)
            stop_seconds = int(values(unit(name), "TimeoutStopSec")[0])
            code = process.wait(stop_seconds)
            assert (code in CLEAN) == (how == signal.SIGTERM), (name, code)
    assert list(cache.glob("kernels-*")), "the code is read-only under systemd"


def start(name: str, data: Path, cache: Path, ports: dict[str, str]) -> subprocess.Popen[bytes]:
    """The unit's command with its variables, in folders of the test."""
    text = unit(name).replace("/var/lib/rossmann", str(data))
    text = text.replace("/var/cache/rossmann", str(cache))
    command = values(text, "ExecStart")[0].split()
    assert command[0] == PROGRAM
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("ROSSMANN_")}
    own = dict(pair.split("=", 1) for pair in values(text, "Environment"))
    with (data / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "rossmann.cli", *command[1:]],
            env={**inherited, **own, **ports},
            cwd=data,
            stdout=log,
            stderr=log,
        )


def wait_until(condition: Callable[[], Any], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
