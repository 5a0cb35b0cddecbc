"""Parts that tests of several folders share."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from rossmann.data.demo import write_demo
from rossmann.data.make_dataset import make_dataset
from rossmann.data.panel import Panel, build_panel, open_panel
from rossmann.models.mlflow_server import server_command, server_environment
from rossmann.models.train import Trained, train
from rossmann.settings import Settings, load_settings

FOUND = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
BIN = FOUND[-1].parent if FOUND else Path("none")
RUNUSER = shutil.which("runuser")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="session")
def chain_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A small demo chain, made ready: 40 stores, 620 days, a schedule for 48 more. Read only.

    Its ``quick`` profile takes a second: a few small trees of each member.
    """
    profile = {
        "members": {
            "lightgbm": {"rounds": 25, "learning_rate": 0.1, "num_leaves": 15},
            "xgboost": {"rounds": 20, "max_depth": 4, "eta": 0.2},
            "catboost": {"rounds": 25, "depth": 4, "learning_rate": 0.2},
        },
        "weights": {"lightgbm": 0.4, "xgboost": 0.3, "catboost": 0.3},
    }
    settings = load_settings(
        data_dir=tmp_path_factory.mktemp("chain"), threads=1, profiles={"quick": profile}
    )
    write_demo(settings.demo_raw_dir, seed=7, stores=40, days=620)
    build_panel(make_dataset(settings), threads=2)
    return settings


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's chromium, driven by playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def panel(chain_settings: Settings) -> Panel:
    """The panel of the small demo chain, memory-mapped."""
    return open_panel(make_dataset(chain_settings))


@pytest.fixture(scope="session")
def trained(chain_settings: Settings) -> Trained:
    """A small but real version, trained on the small demo chain."""
    return train(chain_settings, "quick")


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Tracking URI of a real MLflow server on SQLite in a temporary folder.

    It is shared: a test that promotes takes a model name of its own.
    """
    with _running_mlflow(tmp_path_factory.mktemp("mlflow"), {}) as uri:
        yield uri


@pytest.fixture(scope="session")
def running_mlflow() -> Callable[[Path, dict[str, str]], AbstractContextManager[str]]:
    """Starts a server in a folder, with more in its environment; gives its tracking URI."""
    return _running_mlflow


@contextmanager
def _running_mlflow(folder: Path, more: dict[str, str]) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = load_settings(data_dir=folder, mlflow_port=port, mlflow_tracking_uri="")
    log = folder / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            server_command(settings),
            env={**os.environ, **server_environment(settings), **more},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_healthy(settings.tracking_uri, server)
        yield settings.tracking_uri
    except TimeoutError as error:
        raise AssertionError(f"{error}; its log:\n{log.read_text()}") from error
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGTERM)
        server.wait(30)


def _wait_until_healthy(uri: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise TimeoutError(f"the MLflow server ended with code {server.returncode}")
        try:
            if httpx.get(f"{uri}/health", timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise TimeoutError("the MLflow server did not become healthy")


def _lacking() -> str:
    """Why there can be no PostgreSQL here; empty where there can."""
    if not FOUND:
        return "PostgreSQL's programs are not installed"
    if importlib.util.find_spec("psycopg2") is None:
        return "psycopg2 is not installed"
    return "PostgreSQL does not run as root" if os.getuid() == 0 and RUNUSER is None else ""


def _as_a_user(*command: str) -> list[str]:
    """PostgreSQL refuses to run as root."""
    return [str(RUNUSER), "-u", "nobody", "--", *command] if os.getuid() == 0 else list(command)


def _quietly(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")


@pytest.fixture(scope="session")
def database() -> Iterator[str]:
    """Address of an empty PostgreSQL database, in a folder that its user may enter."""
    if _lacking():
        pytest.skip(_lacking())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(subprocess.check_output(_as_a_user("mktemp", "-d"), text=True).strip())
    data = folder / "data"
    options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder} -c fsync=off"
    control = [str(BIN / "pg_ctl"), "-D", str(data), "-w"]
    _quietly(_as_a_user(str(BIN / "initdb"), "-D", str(data), "-A", "trust", "-U", "mlflow"))
    _quietly(_as_a_user(*control, "-l", str(folder / "log"), "-o", options, "start"))
    try:
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
    finally:
        _quietly(_as_a_user(*control, "-m", "immediate", "stop"))
        shutil.rmtree(folder, ignore_errors=True)
