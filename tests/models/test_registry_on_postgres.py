"""The registry's moves on an MLflow server with PostgreSQL, where that is installed."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from rossmann.errors import LostRace
from rossmann.models.gate import validate
from rossmann.models.mlflow_server import server_command, server_environment
from rossmann.models.packaging import register
from rossmann.models.registry import Registry
from rossmann.models.train import Trained
from rossmann.serving.gate_probe import answer
from rossmann.settings import Settings, load_settings

FOUND = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
BIN = FOUND[-1].parent if FOUND else None
RUNUSER = shutil.which("runuser")

pytestmark = [
    pytest.mark.skipif(BIN is None, reason="PostgreSQL's programs are not installed"),
    pytest.mark.skipif(
        importlib.util.find_spec("psycopg2") is None, reason="psycopg2 is not installed"
    ),
    pytest.mark.skipif(
        os.getuid() == 0 and RUNUSER is None, reason="PostgreSQL does not run as root"
    ),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def as_a_user(*command: str) -> list[str]:
    """PostgreSQL refuses to run as root."""
    return [str(RUNUSER), "-u", "nobody", "--", *command] if os.getuid() == 0 else list(command)


def quietly(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """Address of an empty database, in a folder that its user may enter."""
    folder = Path(subprocess.check_output(as_a_user("mktemp", "-d"), text=True).strip())
    data, port = folder / "data", free_port()
    options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder} -c fsync=off"
    control = [str(BIN / "pg_ctl"), "-D", str(data), "-w"]  # type: ignore[operator]
    setup = [str(BIN / "initdb"), "-D", str(data), "-A", "trust", "-U", "mlflow"]  # type: ignore[operator]
    quietly(as_a_user(*setup))
    start = [*control, "-l", str(folder / "log"), "-o", options, "start"]
    quietly(as_a_user(*start))
    try:
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
    finally:
        quietly(as_a_user(*control, "-m", "immediate", "stop"))
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def server(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow-postgres")
    settings = load_settings(data_dir=folder, mlflow_port=free_port(), mlflow_tracking_uri="")
    environment = {**os.environ, **server_environment(settings)}
    environment["_MLFLOW_SERVER_FILE_STORE"] = database
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            server_command(settings), env=environment, stdout=log, stderr=log
        )
    try:
        for _ in range(900):
            assert process.poll() is None, (folder / "log").read_text()
            try:
                httpx.get(f"{settings.tracking_uri}/health", timeout=5, trust_env=False)
                break
            except httpx.HTTPError:
                time.sleep(0.2)
        yield settings.tracking_uri
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def test_a_version_is_registered_judged_promoted_and_rolled_back(
    server: str, chain_settings: Settings, trained: Trained, tmp_path: Path
) -> None:
    changed = {"mlflow_tracking_uri": server, "gate_coverage": 0.2}
    settings = chain_settings.model_copy(update=changed)
    for _ in range(2):
        register(trained, settings, "whole")
    with Registry(server, "whole") as registry:
        verdict = validate(registry, 1, settings, answer)
        assert verdict.passed, verdict.table()
        registry.promote(1, "first", "anna")
        again = validate(registry, 2, settings, answer)
        assert not again.passed
        assert again.against == 1
        registry.promote(2, "in spite of it", "ben")
        assert registry.rollback("back", "anna").version == 1
        assert [(s.action, s.version, s.who) for s in registry.history()] == [
            ("rollback", 1, "anna"),
            ("promote", 2, "ben"),
            ("promote", 1, "anna"),
        ]
        assert {v.version: v.stage.value for v in registry.versions()} == {
            1: "Production",
            2: "Archived",
        }
        assert (registry.fetch(1, tmp_path) / "ensemble.json").is_file()


HOLD = """
import sys, time
from rossmann.models.mlflow_rest import MlflowRest
from rossmann.models.registry import Registry
real = MlflowRest.call
def call(self, method, path, **fields):
    if (method, path) == ("POST", "registered-models/alias"):
        print("holds", flush=True)
        sys.stdin.readline()
    return real(self, method, path, **fields)
MlflowRest.call = call
Registry(sys.argv[1], sys.argv[2], timeout=30).promote(1, "slow", "one")
"""


def test_one_of_two_promotions_wins(server: str) -> None:
    with httpx.Client(base_url=f"{server}/api/2.0/mlflow", trust_env=False) as client:
        client.post("/registered-models/create", json={"name": "race"}).raise_for_status()
        for _ in range(2):
            fields = {"name": "race", "source": "s3://none/model"}
            client.post("/model-versions/create", json=fields).raise_for_status()
    slow = subprocess.Popen(
        [sys.executable, "-c", HOLD, server, "race"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert slow.stdout is not None
    assert slow.stdout.readline() == "holds\n"
    with Registry(server, "race", timeout=30) as registry:
        with pytest.raises(LostRace, match=f"process {slow.pid} on"):
            registry.promote(2, "quick", "two")
        slow.communicate("go on\n", timeout=60)
        assert slow.returncode == 0
        assert registry.find("Production").version == 1
        registry.promote(2, "now", "two")
        assert [s.version for s in registry.history()] == [2, 1]
