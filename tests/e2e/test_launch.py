"""End to end: the launcher with the real services, from an empty folder to forecasts."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from rossmann.data.demo.write_tables import write_demo
from rossmann.serving.client.client import Client
from rossmann.settings import load_settings
from tests.e2e.installation import Installation, small_parameters

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A launch on a small chain, left running; ended after the module's tests."""
    parameters = small_parameters(tmp_path_factory.mktemp("parameters"))
    installation = Installation(
        tmp_path_factory.mktemp("home"), {"ROSSMANN_PARAMS": str(parameters)}
    )
    write_demo(
        load_settings(data_dir=installation.folder).demo_raw_dir, seed=7, stores=40, days=620
    )
    try:
        installation.launch_output = installation.run("up", "--demo", "--detach", "--no-browser")
        yield installation
    finally:
        installation.run("down")


def test_launch_prints_each_step_and_every_address(installation: Installation) -> None:
    output = installation.launch_output
    steps = re.findall(r"✓ +[0-9.]+ s  (.+)", output)
    order = ["tables", "as-of", "trained", "registered", "version 1 through", "version 1 promoted"]
    order += ["API healthy", "dashboard healthy"]
    indices = [next(n for n, step in enumerate(steps) if step.startswith(word)) for word in order]
    assert indices == sorted(indices)
    assert any(step.startswith("MLflow healthy") for step in steps)
    for name in ("API", "MLFLOW", "DASHBOARD"):
        assert f":{installation.environment[f'ROSSMANN_{name}_PORT']}" in output
    assert "demo data" in output
    assert str(installation.folder / "logs") in output


def test_status_reports_three_healthy_services(installation: Installation) -> None:
    output = installation.run("up", "--status")
    assert output.count("healthy (pid") == 3
    assert "Model version 1 (Production)" in output


def test_service_returns_forecasts(installation: Installation) -> None:
    with Client(installation.api) as client:
        plan = client.plan(1, days=7)
        assert client.health().status == "healthy"
        rows = [
            {
                "Store": 1, "DayOfWeek": n + 1, "Date": f"2015-08-{n + 3:02}", "Open": 1,
                "Promo": 1, "StateHoliday": "0", "SchoolHoliday": 0,
            }
            for n in range(6)
        ]  # fmt: skip
        response = client.predict(rows)
    assert response.count == 6
    assert all(sales > 0 for sales in response.predictions)
    assert response.model_version == 1
    assert plan is not None


def test_forecasts_of_a_file_equal_those_of_the_service(
    installation: Installation, tmp_path: Path
) -> None:
    table = load_settings(data_dir=installation.folder).demo_raw_dir / "test.csv"
    output = tmp_path / "forecast.parquet"
    installation.run("predict", str(table), "-o", str(output), "--interval", "0.8")
    forecast = pl.read_parquet(output)
    uploaded = pl.read_csv(table, infer_schema=False)
    assert forecast["Id"].to_list() == uploaded["Id"].to_list()
    closed = forecast.filter(pl.col("Open") == 0)
    assert len(closed) > 0
    assert closed["forecast"].max() == 0
    assert (forecast["lower_80"] <= forecast["forecast"]).all()
    sample = forecast.filter(pl.col("Open") == 1).head(20)
    rows = [
        {
            **{name: int(row[name]) for name in ("Store", "Open", "Promo", "SchoolHoliday")},
            "DayOfWeek": int(row["DayOfWeek"]),
            "Date": row["Date"].isoformat(),
            "StateHoliday": row["StateHoliday"],
        }
        for row in sample.to_dicts()
    ]
    with Client(installation.api) as client:
        response = client.predict(rows, as_of="2015-07-31")
    assert response.predictions == pytest.approx(sample["forecast"].to_list(), rel=1e-6)


def test_registry_has_the_promoted_version(installation: Installation) -> None:
    assert re.search(r"1 +Production .* quick +demo", installation.run("models", "list"))
    assert "data.dataset" in installation.run("models", "show", "Production")


def test_second_launch_uses_the_running_services(installation: Installation) -> None:
    output = installation.run("up", "--demo", "--no-browser")
    assert output.count("runs already") == 3
    assert "trained" not in output
    assert installation.run("status").count("healthy (pid") == 3


def test_stop_and_ctrl_c_end_all_processes(installation: Installation) -> None:
    """The last test of this module: it ends the services."""
    installation.run("up", "--stop")
    assert installation.running_commands() == []
    launch = installation.start("up", "--demo", "--no-browser")
    assert launch.stdout is not None
    output = ""
    for line in launch.stdout:
        output += line
        if line.startswith("Ctrl-C"):
            break
    assert "version 1 is in Production" in output
    assert "trained" not in output
    launch.send_signal(signal.SIGINT)
    launch.communicate(timeout=120)
    assert launch.returncode == 130
    assert installation.running_commands() == []
