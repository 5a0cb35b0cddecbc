"""The lines of the model card that load a version, against a real server."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rossmann.errors import CorruptModelError
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.publishing.mlflow_client import input_example
from rossmann.models.publishing.register import register
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.models.registry.registry import Registry
from rossmann.models.reports.model_card import render_markdown
from rossmann.settings import load_settings

NAME = "loading-test"


def test_card_names_a_loader_that_checks_the_files_and_runs_none(
    trained: TrainedModel,
    mlflow_server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stored_artifact: Callable[[str], Path],
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("ROSSMANN_MLFLOW_TRACKING_URI", mlflow_server)
    monkeypatch.chdir(tmp_path)
    register(trained, load_settings(), NAME)
    with Registry(mlflow_server, NAME) as registry:
        registry.promote(1, "test", "me")
    uri = MlflowClient(mlflow_server).get_model_version_download_uri(NAME, "1")
    root = stored_artifact(uri.removeprefix("mlflow-artifacts:/"))
    assert "Ensemble" in (root / "pyfunc_model.py").read_text()
    (root / "pyfunc_model.py").write_text("raise SystemExit('was run')")
    safe, unsafe = render_markdown(trained.card, [], NAME).split("```python\n")[1:]
    assert "runs code that comes from the registry" in unsafe
    features = input_example().to_numpy(dtype=np.float32)
    values: dict[str, Any] = {"features": features}
    lines = safe.split("```")[0]
    exec(lines, values)
    assert np.array_equal(values["sales"], Ensemble.load(trained.folder).predict(features))
    ensemble = root / "artifacts" / "ensemble"
    for file in (ensemble / "ensemble.json", min(ensemble.glob("*.npz"))):
        content = file.read_bytes()
        file.write_bytes(content + b" ")
        shutil.rmtree("versions")
        with pytest.raises(CorruptModelError, match=file.name):
            exec(lines, values)
        file.write_bytes(content)
