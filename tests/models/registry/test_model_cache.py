"""Where a version's files may come from, and the record of the last Production version."""

from pathlib import Path

import httpx
import pytest

from rossmann.errors import ServiceError, SettingsError
from rossmann.models.ensemble.artifact_files import CARD_FILE
from rossmann.models.registry.mlflow_rest import Json, MlflowRest
from rossmann.models.registry.model_cache import (
    ARTIFACT_FOLDER,
    download_run_file,
    download_version,
    last_production,
    save_last_production,
)
from rossmann.models.registry.registry import Registry
from rossmann.settings import load_settings

NAME = "elsewhere"


def register_source(uri: str, name: str, source: str) -> int:
    """Register a version whose files are at ``source``, as anyone who reaches MLflow can."""
    with httpx.Client(base_url=f"{uri}/api/2.0/mlflow", timeout=30, trust_env=False) as client:
        client.post("/registered-models/create", json={"name": name})
        response = client.post("/model-versions/create", json={"name": name, "source": source})
        response.raise_for_status()
        return int(response.json()["model_version"]["version"])


@pytest.mark.parametrize(
    "source",
    ["s3://attacker/model", "gs://attacker/model", "s3://bucket-2/model", "s3://bucket/other",
     "s3://bucket/models2/x", "s3://user@bucket/models/x"],
)  # fmt: skip
def test_version_of_a_foreign_store_is_an_error_with_the_reason(
    source: str, mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    version = register_source(mlflow_server, NAME, source)
    with (
        Registry(mlflow_server, NAME, stores=["s3://bucket/models"]) as registry,
        pytest.raises(ServiceError, match="ROSSMANN_ARTIFACT_STORES") as caught,
    ):
        registry.fetch(version, tmp_path / "cache")
    assert source.split("//", maxsplit=1)[0] in str(caught.value)
    assert list(work.iterdir()) == []
    assert list((tmp_path / "cache").iterdir()) == []


def test_allowed_store_that_cannot_be_read_is_an_error_of_one_line(
    mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client is not installed, or there is no such bucket; nothing is left behind."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    version = register_source(mlflow_server, NAME, "s3://bucket/models/1")
    with (
        Registry(mlflow_server, NAME, stores=["s3://bucket"]) as registry,
        pytest.raises(ServiceError, match=r"s3://bucket/models/1/.* cannot be read") as caught,
    ):
        registry.fetch(version, tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert list(work.iterdir()) == []
    assert list((tmp_path / "cache").iterdir()) == []


class StoreRest(MlflowRest):
    """MLflow's answers where its server does not pass artifacts on."""

    def __init__(self, place: str) -> None:
        super().__init__("http://127.0.0.1:9", 1.0)
        self._place = place

    def call(self, method: str, path: str, **fields: object) -> Json:  # type: ignore[override]
        return {"artifact_uri": self._place, "run": {"info": {"artifact_uri": self._place}}}


def test_files_of_an_allowed_store_are_downloaded(tmp_path: Path) -> None:
    store = tmp_path / "a store"
    (store / ARTIFACT_FOLDER).mkdir(parents=True)
    (store / ARTIFACT_FOLDER / CARD_FILE).write_text("{}")
    target = tmp_path / "target"
    target.mkdir()
    download_version(StoreRest(store.as_uri()), NAME, 1, target, [f"file://{tmp_path}"])
    assert [path.name for path in target.iterdir()] == [CARD_FILE]


@pytest.mark.parametrize(
    "place",
    ["file:///srv/models2", "file:///srv", "file:///srv/models/../../etc", "/srv/models/1",
     "file:///srv/models/%2e%2e/%2e%2e/etc", "file:///srv/models/%252e%252e/etc",
     "FILE:///srv/models?x=1", "file://host/srv/models/1", "s3://srv/models/1",
     "runs:/abc/model", "models:/other/1", "http://127.0.0.1/srv/models/1"],
)  # fmt: skip
def test_place_outside_of_the_allowed_store_is_not_opened(place: str, tmp_path: Path) -> None:
    rest, stores = StoreRest(place), ["file:///srv/models"]
    with pytest.raises(ServiceError, match="do not allow"):
        download_version(rest, NAME, 1, tmp_path, stores)
    with pytest.raises(ServiceError, match="do not allow"):
        download_run_file(rest, "run", "predictions.npz", tmp_path, stores)


@pytest.mark.parametrize("value", ["s3:", "bucket", "s3://", "file:///", "*", "s3://key@bucket/x"])
def test_setting_that_names_no_store_is_rejected(value: str) -> None:
    with pytest.raises(SettingsError, match="ARTIFACT_STORES"):
        load_settings(artifact_stores=value)
    with Registry.from_settings(load_settings(artifact_stores="s3://a/b, file:///srv")) as registry:
        assert registry._stores == ("s3://a/b", "file:///srv")


@pytest.mark.parametrize("text", ["", "nonsense", "{}", '{"version": null}', "[1]"])
def test_corrupt_record_of_production_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "production.json").write_text(text)
    assert last_production(tmp_path) is None
    save_last_production(tmp_path, 4)
    assert last_production(tmp_path) == 4
