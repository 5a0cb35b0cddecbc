"""Registered versions: files, code, signature, card, lineage; served by MLflow."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import rossmann
from rossmann.cli import main
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.evaluation.backtest import WindowScore
from rossmann.models.members import LEARNERS
from rossmann.models.members.base import TrainingInputs
from rossmann.models.publishing.mlflow_client import _EXAMPLE, input_example, pip_requirements
from rossmann.models.publishing.register import register
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.models.registry import lineage
from rossmann.models.registry.model_version import ModelVersion
from rossmann.models.registry.registry import Registry
from rossmann.models.reports.model_card import render_html, render_markdown
from rossmann.schema import (
    FEATURES,
    OFFSET_COLUMN,
    FeatureMatrix,
    FloatArray,
    Stage,
    feature_fingerprint,
)
from rossmann.settings import Settings, load_settings

NAME = "packaging-test"


def rows(count: int, seed: int) -> FeatureMatrix:
    matrix = np.random.default_rng(seed).normal(size=(count, len(FEATURES))).astype(np.float32)
    matrix[:, OFFSET_COLUMN] = 8.5 + 0.3 * matrix[:, OFFSET_COLUMN]
    return matrix


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """A tiny real ensemble of all three members."""
    matrix = rows(3000, seed=1)
    sales = np.exp(matrix[:, OFFSET_COLUMN] + 0.2 * matrix[:, 0]).astype(np.float64)
    params = {
        "lightgbm": {"rounds": 20, "num_leaves": 7, "learning_rate": 0.2},
        "xgboost": {"rounds": 20, "max_depth": 3, "eta": 0.2},
        "catboost": {"rounds": 20, "depth": 3, "learning_rate": 0.2},
    }
    inputs = TrainingInputs.of(matrix, sales)
    members = {
        name: LEARNERS[name].fit(inputs, params[name], 1, 1, lambda share: None) for name in params
    }
    windows = [
        WindowScore(date(2014, 6, 13), 48, 40208, {"ensemble": 0.105, "seasonal_naive": 0.179}),
        WindowScore(date(2015, 4, 26), 48, 43065, {"ensemble": 0.094, "seasonal_naive": 0.173}),
    ]
    card = {
        "profile": "quick",
        "release": rossmann.__version__,
        "trained": "2015-06-14T06:00:00Z",
        "libraries": {"lightgbm": "4.6.0"},
        "code": lineage.code_version(),
        "environment": lineage.environment(),
        "weights": {"lightgbm": 0.34, "xgboost": 0.33, "catboost": 0.33},
        "features": list(FEATURES),
        "fingerprint": feature_fingerprint(),
        "params": {"seed": 1, "members": {"lightgbm": {"rounds": 20}}},
        "data": {
            "dataset": "demo",
            "version": "abc123def456",
            "rows": 900,
            "stores": 3,
            "first_day": "2013-01-01",
            "last_day": "2015-06-13",
            "files": {"train.csv": "ab" * 32, "store.csv": "cd" * 32},
        },
    }
    folder = tmp_path_factory.mktemp("trained")
    ensemble = Ensemble(members, card)
    ensemble.save(folder)
    (folder / "pictures").mkdir()
    (folder / "pictures" / "windows.png").write_bytes(b"a picture")
    (folder / "report.md").write_text("a report")
    return TrainedModel(folder, ensemble.card, windows)


@pytest.fixture(scope="module")
def packaging_settings(mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("data")
    return load_settings(data_dir=folder, mlflow_tracking_uri=mlflow_server)


@pytest.fixture(scope="module")
def version(trained: TrainedModel, packaging_settings: Settings) -> ModelVersion:
    """The tiny ensemble as a registered version, in Production."""
    registered = register(trained, packaging_settings, NAME)
    with Registry(packaging_settings.tracking_uri, NAME) as registry:
        registry.promote(registered.version, "test", "me")
    return registered


@pytest.fixture
def registry(packaging_settings: Settings, version: ModelVersion) -> Iterator[Registry]:
    with Registry(packaging_settings.tracking_uri, NAME) as registry:
        yield registry


def clean_environment(settings: Settings) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ROSSMANN", "PYTHON"))}
    return {
        **kept,
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # `mlflow models serve` looks for uvicorn there, as in an active environment.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def expected(trained: TrainedModel, matrix: FeatureMatrix) -> FloatArray:
    return Ensemble.load(trained.folder).predict(matrix)


def test_new_version_has_no_stage_and_its_lineage(version: ModelVersion) -> None:
    assert version.stage is Stage.NONE
    assert version.tags["stage"] == "None"
    assert version.tags["data.dataset"] == "demo"
    assert version.tags["data.version"] == "abc123def456"
    assert version.tags["data.rows"] == "900"
    assert version.tags["features.fingerprint"] == feature_fingerprint()
    assert version.tags["profile"] == "quick"
    assert version.tags["code.release"] == rossmann.__version__
    assert version.tags["rmspe.2015-04-26"] == "0.09400"


def test_version_holds_its_windows(trained: TrainedModel, version: ModelVersion) -> None:
    windows = json.loads(version.tags["windows"])
    assert [w["origin"] for w in windows] == ["2014-06-13", "2015-04-26"]
    assert windows[1]["rmspe"] == trained.windows[1].rmspe


def test_fetched_copy_is_the_ensemble(
    trained: TrainedModel, version: ModelVersion, registry: Registry, tmp_path: Path
) -> None:
    folder = registry.fetch(version.version, tmp_path)
    matrix = rows(50, seed=2)
    assert np.array_equal(Ensemble.load(folder).predict(matrix), expected(trained, matrix))


LOAD = """
import sys, mlflow, numpy as np, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
import rossmann
from rossmann.schema import FEATURES
matrix = np.load(sys.argv[2])
np.save(sys.argv[3], model.predict(pd.DataFrame(matrix.astype(float), columns=list(FEATURES))))
upper_layers = [m for m in sys.modules if m.startswith("rossmann.") and m.split(".")[1] in
         ("serving", "dashboard", "prediction_log", "launcher", "cli", "features")]
print(rossmann.__file__, upper_layers)
"""


def test_pyfunc_loads_in_a_clean_process_with_its_own_code(
    trained: TrainedModel, version: ModelVersion, packaging_settings: Settings, tmp_path: Path
) -> None:
    np.save(tmp_path / "rows.npy", rows(200, seed=3))
    uri = f"models:/{NAME}@production"
    process = subprocess.run(
        [sys.executable, "-c", LOAD, uri, str(tmp_path / "rows.npy"), str(tmp_path / "out.npy")],
        env=clean_environment(packaging_settings),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    forecasts = np.load(tmp_path / "out.npy")
    assert np.array_equal(forecasts, expected(trained, rows(200, seed=3)))
    file, upper_layers = process.stdout.strip().split(" ", 1)
    assert Path(file) != Path(rossmann.__file__)
    assert upper_layers == "[]"


def test_mlflow_serves_the_same_forecasts(
    trained: TrainedModel, version: ModelVersion, packaging_settings: Settings, tmp_path: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    command += ["-m", f"models:/{NAME}/{version.version}", "-p", str(port), "-h", "127.0.0.1"]
    log = tmp_path / "serve.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*command, "--workers", "1"],
            env=clean_environment(packaging_settings),
            cwd=tmp_path,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(f"{url}/ping", server, log)
        unknown = rows(3, seed=5)
        unknown[:, FEATURES.index("last_year_day")] = np.nan
        for matrix in (rows(64, seed=4), unknown, unknown[:1]):
            np.testing.assert_allclose(
                predict_over_http(url, matrix),
                expected(trained, matrix),
                rtol=1e-9,
                err_msg=log.read_text(),
            )
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def predict_over_http(url: str, matrix: FeatureMatrix) -> list[float]:
    """JSON has no NaN: null stands for an unknown value."""
    data = [[None if np.isnan(v) else v for v in row] for row in matrix.astype(float).tolist()]
    split = {"dataframe_split": {"columns": list(FEATURES), "data": data}}
    response = httpx.post(f"{url}/invocations", json=split, timeout=60, trust_env=False)
    assert response.status_code == 200, response.text
    return list(response.json()["predictions"])


def wait_until_ready(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(url, timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise AssertionError(f"no response from {url}: {log.read_text()}")


def download_files(settings: Settings, version: ModelVersion, tmp_path: Path) -> Path:
    import mlflow.artifacts

    uri = f"models:/{NAME}/{version.version}"
    return Path(
        mlflow.artifacts.download_artifacts(
            artifact_uri=uri, dst_path=str(tmp_path), tracking_uri=settings.tracking_uri
        )
    )


def test_version_has_no_pickle_and_pins_its_requirements(
    version: ModelVersion, packaging_settings: Settings, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("MLFLOW_TRACKING_URI", packaging_settings.tracking_uri)
    folder = download_files(packaging_settings, version, tmp_path)
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert not [n for n in names if n.endswith((".pkl", ".pickle", ".joblib"))]
    text = (folder / "MLmodel").read_text()
    assert "code_model" in text
    assert "python_model:" not in text
    assert "pyfunc_model.py" in names
    assert {n for n in names if n.startswith("artifacts/")} == {
        f"artifacts/ensemble/{n}"
        for n in ("ensemble.json", *(name for m in LEARNERS.values() for name in m.files()))
    }
    for trees in folder.glob("artifacts/ensemble/*.npz"):
        with np.load(trees, allow_pickle=False) as arrays:
            assert all(arrays[name].dtype.kind in "fiu" for name in arrays.files)
    assert "code/rossmann/models/ensemble/ensemble.py" in names
    templates = "code/rossmann/models/reports/templates"
    assert {f"{templates}/report.html.j2", f"{templates}/card.html.j2"} <= names
    assert not [n for n in names if n.startswith(("code/rossmann/serving", "code/rossmann/cli"))]
    requirements = (folder / "requirements.txt").read_text().split()
    assert set(pip_requirements()) <= set(requirements)
    assert all("==" in line and "://" not in line for line in requirements)


def test_signature_is_46_doubles_in_order(
    version: ModelVersion, packaging_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.models
    from mlflow.types import DataType

    monkeypatch.setenv("MLFLOW_TRACKING_URI", packaging_settings.tracking_uri)
    info = mlflow.models.get_model_info(f"models:/{NAME}/{version.version}")
    assert info.signature is not None
    assert info.signature.inputs.input_names() == list(FEATURES)
    assert set(info.signature.inputs.input_types()) == {DataType.double}
    assert info.signature.outputs.input_types() == [DataType.double]
    assert info.saved_input_example_info is not None


def test_input_example_is_a_complete_row() -> None:
    row = input_example()
    assert list(row.columns) == list(FEATURES)
    assert row.notna().all(axis=None)
    assert set(_EXAMPLE) <= set(FEATURES)


def test_run_holds_params_metrics_and_pictures(
    version: ModelVersion, packaging_settings: Settings, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(packaging_settings.tracking_uri)
    run = client.get_run(version.run_id)
    assert run.data.params["members.lightgbm.rounds"] == "20"
    assert run.data.metrics["rmspe/2015-04-26/ensemble"] == 0.094
    assert run.info.status == "FINISHED"
    experiment = client.get_experiment(run.info.experiment_id)
    assert experiment.name == "rossmann"
    names = {f.path for f in client.list_artifacts(version.run_id)}
    assert {"card.md", "card.html", "report.md", "pictures"} <= names
    assert "lightgbm.txt" not in names


def test_card_is_the_description_of_the_version(
    version: ModelVersion, trained: TrainedModel
) -> None:
    card = render_markdown(trained.card, trained.windows, NAME)
    assert version.description == card
    for words in ("demo chain", "abc123def456", "0.1050", "0.0940", "0.1730", "LightGBM 34 %",
                  f"models:/{NAME}@production", feature_fingerprint()):  # fmt: skip
        assert words in card


def test_card_page_contains_its_pictures(
    version: ModelVersion, registry: Registry, trained: TrainedModel, tmp_path: Path
) -> None:
    page = registry.run_file(version, "card.html", tmp_path).read_text()
    for words in ("<h1>packaging-test</h1>", "<table>", "0.1050", "ab" * 32, "python 3."):
        assert words in page
    picture = base64.b64encode((trained.folder / "pictures" / "windows.png").read_bytes()).decode()
    assert f'src="data:image/png;base64,{picture}"' in page
    assert not re.search(r"(src|href)=.(https?:|/)", page)  # one file: nothing is fetched


def test_card_page_contains_the_figures_of_the_report(tmp_path: Path) -> None:
    sections = [f'<h2>Part {n}</h2><p>text</p><svg id="{n}"></svg><br>' for n in range(5)]
    (tmp_path / "report.html").write_text("<h1>Backtest</h1><p>no figure</p>" + "".join(sections))
    page = render_html("# Card", "name", tmp_path)
    assert re.findall(r'<h2>(.*?)</h2><svg id="(\d)">', page) == [
        ("Part 0", "0"), ("Part 1", "1"), ("Part 2", "2"),
    ]  # fmt: skip


def test_cli_shows_lineage_and_filters_versions_by_it(
    version: ModelVersion, packaging_settings: Settings,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def open_registry(settings: Settings | None = None) -> Registry:
        return Registry(packaging_settings.tracking_uri, NAME)

    monkeypatch.setattr("rossmann.cli.models._registry", open_registry)
    assert main(["models", "show", str(version.version)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"data.raw.train.csv {'ab' * 32}" in shown
    assert f"code.digest {version.tags['code.digest']}" in shown
    for options in (
        ["--file", "abab"],
        ["--data", "abc123"],
        ["--code", version.tags["code.digest"]],
    ):
        assert main(["models", "list", *options]) == 0
        assert "abc123def456" in capsys.readouterr().out
    assert main(["models", "list", "--file", "ffff"]) == 0
    assert "was made from that" in capsys.readouterr().out


@pytest.mark.browser
def test_mlflow_shows_the_card_page(
    version: ModelVersion, packaging_settings: Settings, browser: Any
) -> None:
    """MLflow's artifact view renders the page with its picture."""
    from mlflow import MlflowClient

    run = MlflowClient(packaging_settings.tracking_uri).get_run(version.run_id)
    path = f"experiments/{run.info.experiment_id}/runs/{version.run_id}/artifacts/card.html"
    page = browser.new_page()
    page.goto(f"{packaging_settings.tracking_uri}/#/{path}")
    frame = page.frame_locator("iframe")
    frame.get_by_role("heading", name=NAME).wait_for(timeout=120_000)
    assert frame.locator("img").count() == 1
    assert frame.get_by_role("heading", name="Comes from").is_visible()
    page.close()
