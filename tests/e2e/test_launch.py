"""From nothing to a forecast, as a user has it: the real launcher with the real services."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import psutil
import pytest

from rossmann.data.demo.write_tables import write_demo
from rossmann.serving.client.client import Client
from rossmann.settings import load_settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Home:
    """A data folder, three ports, and the command line over them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said = ""
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("ROSSMANN_")},
            "ROSSMANN_DATA_DIR": str(folder),
        }
        sockets = [socket.socket() for _ in range(3)]
        for name, probe in zip(("API", "MLFLOW", "DASHBOARD"), sockets, strict=True):
            probe.bind(("127.0.0.1", 0))
            self.environment[f"ROSSMANN_{name}_PORT"] = str(probe.getsockname()[1])
        for probe in sockets:
            probe.close()
        self.api = f"http://127.0.0.1:{self.environment['ROSSMANN_API_PORT']}"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "rossmann.cli", *arguments],
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *arguments: str, code: int = 0) -> str:
        child = self.start(*arguments)
        out, err = child.communicate(timeout=600)
        assert child.returncode == code, f"{arguments}\n{out}\n{err}"
        return out

    def left(self) -> list[str]:
        """Command lines of processes that work on this folder."""
        mine = str(self.folder)
        found = []
        for process in psutil.process_iter(["cmdline", "environ", "pid", "status"]):
            told = process.info
            names_it = mine in " ".join(told["cmdline"] or [])
            works_on_it = (told["environ"] or {}).get("ROSSMANN_DATA_DIR") == mine
            if (names_it or works_on_it) and told["status"] != psutil.STATUS_ZOMBIE:
                found.append(" ".join(told["cmdline"] or []))
        return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A launch on a small chain, left running; ended after the module's tests."""
    home = Home(tmp_path_factory.mktemp("home"))
    write_demo(load_settings(data_dir=home.folder).demo_raw_dir, seed=7, stores=40, days=620)
    try:
        home.said = home.run("up", "--demo", "--detach", "--no-browser")
        yield home
    finally:
        home.run("down")


def test_the_launch_tells_each_step_and_where_all_is(home: Home) -> None:
    said = home.said
    steps = re.findall(r"✓ +[0-9.]+ s  (.+)", said)
    order = ["tables", "as-of", "trained", "registered", "version 1 through", "version 1 promoted"]
    order += ["API healthy", "dashboard healthy"]
    places = [next(n for n, step in enumerate(steps) if step.startswith(word)) for word in order]
    assert places == sorted(places)
    assert any(step.startswith("MLflow healthy") for step in steps)
    for name in ("API", "MLFLOW", "DASHBOARD"):
        assert f":{home.environment[f'ROSSMANN_{name}_PORT']}" in said
    assert "demo data" in said
    assert str(home.folder / "logs") in said


def test_status_is_good(home: Home) -> None:
    said = home.run("up", "--status")
    assert said.count("healthy (pid") == 3
    assert "Model version 1 (Production)" in said


def test_the_service_forecasts(home: Home) -> None:
    with Client(home.api) as client:
        plan = client.plan(1, days=7)
        assert client.health().status == "healthy"
        rows = [
            {
                "Store": 1, "DayOfWeek": n + 1, "Date": f"2015-08-{n + 3:02}", "Open": 1,
                "Promo": 1, "StateHoliday": "0", "SchoolHoliday": 0,
            }
            for n in range(6)
        ]  # fmt: skip
        answer = client.predict(rows)
    assert answer.count == 6
    assert all(sales > 0 for sales in answer.predictions)
    assert answer.model_version == 1
    assert plan is not None


def test_a_file_is_forecast_as_the_service_does(home: Home, tmp_path: Path) -> None:
    table = load_settings(data_dir=home.folder).demo_raw_dir / "test.csv"
    output = tmp_path / "forecast.parquet"
    home.run("predict", str(table), "-o", str(output), "--interval", "0.8")
    forecast = pl.read_parquet(output)
    asked = pl.read_csv(table, infer_schema=False)
    assert forecast["Id"].to_list() == asked["Id"].to_list()
    closed = forecast.filter(pl.col("Open") == "0")
    assert len(closed) > 0
    assert closed["forecast"].max() == 0
    assert (forecast["lower_80"] <= forecast["forecast"]).all()
    some = forecast.filter(pl.col("Open") == "1").head(20)
    rows = [
        {
            **{name: int(row[name]) for name in ("Store", "Open", "Promo", "SchoolHoliday")},
            "DayOfWeek": int(row["DayOfWeek"]),
            "Date": row["Date"],
            "StateHoliday": row["StateHoliday"],
        }
        for row in some.to_dicts()
    ]
    with Client(home.api) as client:
        answer = client.predict(rows, as_of="2015-07-31")
    assert answer.predictions == pytest.approx(some["forecast"].to_list(), rel=1e-6)


def test_the_registry_is_told(home: Home) -> None:
    assert re.search(r"1 +Production .* quick +demo", home.run("models", "list"))
    assert "data.dataset" in home.run("models", "show", "Production")


def test_a_second_launch_uses_what_runs_and_ends_nothing(home: Home) -> None:
    said = home.run("up", "--demo", "--no-browser")
    assert said.count("runs already") == 3
    assert "trained" not in said
    assert home.run("status").count("healthy (pid") == 3


def test_stop_and_a_launch_in_the_foreground(home: Home) -> None:
    """The last test of this module: it ends the services."""
    home.run("up", "--stop")
    assert home.left() == []
    launch = home.start("up", "--demo", "--no-browser")
    assert launch.stdout is not None
    said = ""
    for line in launch.stdout:
        said += line
        if line.startswith("Ctrl-C"):
            break
    assert "version 1 is in Production" in said
    assert "trained" not in said
    launch.send_signal(signal.SIGINT)
    launch.communicate(timeout=120)
    assert launch.returncode == 130
    assert home.left() == []
