"""A launch in an unusual environment: IPv6, proxies, base paths, folder, libraries' variables."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rossmann.data.demo.write_tables import write_demo
from rossmann.serving.client.client import Client
from rossmann.settings import load_settings
from tests.e2e.installation import Installation
from tests.fixtures.networks import ODD_NAME, mlflow_variables

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def installation(tmp_path: Path, forward_proxy: Any, ipv6: None) -> Iterator[Installation]:
    """All of it in one, because a launch takes half a minute; each has a test of its own too."""
    variables = {
        "ROSSMANN_HOST": "::1",
        "ROSSMANN_API_BASE_PATH": "/forecasts",
        "ROSSMANN_DASHBOARD_BASE_PATH": "/dashboard",
        "SSL_CERT_FILE": "/nowhere/authorities.pem",
        "WEB_CONCURRENCY": "auto",
        "NUMBA_DISABLE_JIT": "1",
        "STREAMLIT_GLOBAL_DEVELOPMENT_MODE": "true",
        "STREAMLIT_SERVER_SSL_CERT_FILE": "/nowhere/certificate.pem",
        "STREAMLIT_SERVER_SSL_KEY_FILE": "/nowhere/key.pem",
        **mlflow_variables(),
    }
    # the fixture's proxy is in the environment, without NO_PROXY
    installation = Installation(tmp_path / ODD_NAME, variables)
    tables = load_settings(data_dir=installation.folder).demo_raw_dir
    write_demo(tables, seed=7, stores=40, days=620)
    try:
        yield installation
    finally:
        installation.run("down")


@pytest.mark.nightly
def test_launch_in_an_unusual_environment_and_the_printed_command_that_ends_it(
    installation: Installation, forward_proxy: Any, tmp_path: Path
) -> None:
    output = installation.run("up", "--demo", "--detach", "--no-browser")
    assert output.count("healthy at http://[::1]:") == 3
    api = re.search(r"API +(http://\[::1\]:[0-9]+/forecasts)\n", output)
    dashboard = re.search(r"dashboard +(http://\[::1\]:[0-9]+/dashboard)\n", output)
    assert api and dashboard
    assert installation.run("status").count("healthy (pid") == 3
    with Client(api[1]) as client:
        assert client.health().status == "healthy"
        assert client.model_info().production_version == 1
    assert httpx.get(f"{dashboard[1]}/", trust_env=False).status_code == 200
    assert forward_proxy.requests == []
    others = {path.name for path in tmp_path.iterdir()} - {ODD_NAME}
    assert others <= {"proxy.log"}
    folders = {path.name for path in installation.folder.iterdir()}
    assert {"mlflow", "models", "prediction_log", "processed", "run"} <= folders

    _stop_as_printed(installation, output, tmp_path)


def _stop_as_printed(installation: Installation, output: str, folder: Path) -> None:
    """In a new shell without this program's PATH or variables, from another folder."""
    command = re.search(r"Stop it with: (.+)\n", output)
    assert command
    stopped = subprocess.run(
        ["bash", "-c", command[1]],
        env={"PATH": "/usr/bin:/bin"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert stopped.returncode == 0, stopped.stderr
    assert stopped.stdout.count("stopped") == 3
    assert installation.running_commands() == []
