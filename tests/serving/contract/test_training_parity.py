"""The warning ``in_training`` through every entry point: rows, files, command line, log, metrics.

Version 1 (Production) did not learn from the last 20 days of history, version 2 not from the last
10: both are older than the panel.
"""

import csv
import io
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

import rossmann.serving.runtime.service
from rossmann.cli import main
from rossmann.data.panel.panel import Panel
from rossmann.epoch_days import format_iso_day
from rossmann.errors import DataNotFoundError
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.inference.forecaster import Forecaster
from rossmann.prediction_log.queries.export import ExportFilter, LogReader
from rossmann.serving.experiments.experiment import hash_fraction
from rossmann.serving.runtime.service import Service
from rossmann.settings import Settings

MakeRow = Callable[..., dict[str, Any]]
MakeForecaster = Callable[[Path], Forecaster]
Run = Callable[..., AbstractContextManager[TestClient]]
UNSEEN = {1: 20, 2: 10}
DAYS_AHEAD = (-21, -20, -22, -19, -10, -9, 1)
CLOSED = 2
EXPECTED = {1: [0, 1], 2: [0, 1, 3, 4]}
"""By version, the rows that it learned from."""


@pytest.fixture
def make_forecaster(make_trained_pair: MakeForecaster, panel: Panel) -> MakeForecaster:
    def make(folder: Path) -> Forecaster:
        ensemble = make_trained_pair(folder).ensemble
        last = panel.last_day - UNSEEN[int((folder / "model.txt").read_text())]
        data = ensemble.card["data"] | {"last_day": format_iso_day(last)}
        return Forecaster(panel, Ensemble(ensemble.members, ensemble.card | {"data": data}))

    return make


@pytest.fixture
def rows(row: MakeRow) -> list[dict[str, Any]]:
    return [row(ahead, Open=int(index != CLOSED)) for index, ahead in enumerate(DAYS_AHEAD)]


def to_csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def rows_in_training(warnings: list[dict[str, Any]]) -> list[int]:
    (warning,) = (w for w in warnings if w["type"] == "in_training")
    assert warning["count"] == len(warning["rows"])
    assert "no evidence of accuracy: the backtest measures it" in warning["msg"]
    indices: list[int] = warning["rows"]
    return indices


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("options", [{}, {"intervals": [0.8]}, {"totals": ["store"]}])
def test_rows_over_http(
    api: TestClient, rows: list[dict[str, Any]], version: int, options: dict[str, Any]
) -> None:
    body = {"inputs": rows, "model_stage": version, **options}
    assert rows_in_training(api.post("/predict", json=body).json()["warnings"]) == EXPECTED[version]
    if "totals" not in options:
        explained = api.post("/explain", json=body).json()
        assert rows_in_training(explained["warnings"]) == EXPECTED[version]


def test_many_rows_over_http(api: TestClient, row: MakeRow) -> None:
    """More rows than are answered on the event loop."""
    rows = [row(ahead) for ahead in range(-40, 1)]
    response = api.post("/predict", json={"inputs": rows})
    (warning,) = response.json()["warnings"]
    assert (warning["type"], warning["count"]) == ("in_training", 21)
    assert warning["rows"] == list(range(10))


@pytest.mark.parametrize("version", [1, 2])
def test_files_over_http(api: TestClient, rows: list[dict[str, Any]], version: int) -> None:
    response = api.post(f"/predict/file?model_stage={version}", content=to_csv(rows))
    assert response.status_code == 200, response.text
    assert rows_in_training(json.loads(response.headers["X-Warnings"])) == EXPECTED[version]
    column = pl.read_csv(io.BytesIO(response.content))["warnings"].to_list()
    assert [n for n, types in enumerate(column) if "in_training" in (types or "")] == (
        EXPECTED[version]
    )


def test_command_line(
    rows: list[dict[str, Any]],
    service: Service,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(rossmann.serving.runtime.service, "build_service", lambda _: service)
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(tmp_path))
    (tmp_path / "rows.csv").write_bytes(to_csv(rows))
    output = tmp_path / "out.csv"
    assert main(["predict", str(tmp_path / "rows.csv"), "-o", str(output)]) == 0
    column = pl.read_csv(output)["warnings"].to_list()
    assert [n for n, types in enumerate(column) if types == "in_training"] == EXPECTED[1]
    assert "no evidence of accuracy" in capsys.readouterr().err


def logged_marks(settings: Settings, folder: Path, rows: int) -> dict[tuple[str, str], list[int]]:
    """By door and role, the numbers of the rows that the log marks, once it has all ``rows``."""
    deadline = time.monotonic() + 60
    while True:
        reader = LogReader(settings.log_url)
        try:
            reader.export(ExportFilter(), folder / "log.parquet", lambda _: None)
            log = pl.read_parquet(folder / "log.parquet")
        except DataNotFoundError:
            log = pl.DataFrame()
        finally:
            reader.close()
        if log.height >= rows:
            break
        assert time.monotonic() < deadline, log
        time.sleep(0.02)
    marks: dict[tuple[str, str], list[int]] = {}
    for door, role, number, mark in log.select("door", "role", "row", "in_training").iter_rows():
        marks.setdefault((door, role), []).extend([number] if mark else [])
    return {key: sorted(numbers) for key, numbers in marks.items()}


def test_log_and_metrics(
    make_app: Callable[..., FastAPI],
    serving_settings: Settings,
    rows: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    with TestClient(make_app(log_flush_seconds=0.05)) as api:
        api.post("/predict", json={"inputs": rows})
        api.post("/explain", json={"inputs": rows})
        api.post("/predict/file", content=to_csv(rows))
        marks = logged_marks(serving_settings, tmp_path, 3 * len(rows))
        metrics = api.get("/metrics").text
    doors = ("predict", "explain", "file")
    assert marks == {(door, "answer"): EXPECTED[1] for door in doors}
    assert 'rossmann_warnings_total{type="in_training"} 6.0' in metrics


def test_rows_of_a_challenger_by_its_own_training(
    experiment: Run, row: MakeRow, panel: Panel, serving_settings: Settings, tmp_path: Path
) -> None:
    """Of two versions that answer one request, each is asked what it learned from."""
    rows = [row(ahead, Store=int(s)) for s in panel.store_numbers[:6] for ahead in (-21, -15, -9)]
    learned = [
        n
        for n, one in enumerate(rows)
        if n % 3 == 0 or (n % 3 == 1 and hash_fraction("1", one["Store"]) < 0.4)
    ]
    assert 6 < len(learned) < 10
    with experiment(log_flush_seconds=0.05) as api:
        response = api.post("/predict", json={"inputs": rows}).json()
        explained = api.post("/explain", json={"inputs": rows}).json()
        marks = logged_marks(serving_settings, tmp_path, 2 * len(rows))
    assert response["challenger"]["model_version"] == 2
    assert rows_in_training(response["warnings"]) == learned
    assert rows_in_training(explained["warnings"]) == learned
    for door in ("predict", "explain"):
        assert sorted(marks[door, "answer"] + marks[door, "challenger"]) == learned


def test_rows_of_a_shadow_are_marked_by_its_own_training(
    experiment: Run, rows: list[dict[str, Any]], serving_settings: Settings, tmp_path: Path
) -> None:
    with experiment(experiment="shadow", log_flush_seconds=0.05) as api:
        api.post("/predict", json={"inputs": rows})
        marks = logged_marks(serving_settings, tmp_path, 2 * len(rows))
    assert marks == {("predict", "answer"): EXPECTED[1], ("predict", "shadow"): EXPECTED[2]}


def test_api_documents_name_the_warning(api: TestClient) -> None:
    warning = api.get("/openapi.json").json()["components"]["schemas"]["Notice"]
    assert "in_training" in warning["properties"]["type"]["description"]
    assert "evidence of accuracy" in " ".join(warning["description"].split())
