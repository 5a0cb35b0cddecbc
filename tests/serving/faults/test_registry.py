"""Failures of MLflow and of its artifact store: the service keeps serving, reports, recovers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from rossmann.schema import MODEL_NAME

Call = Callable[..., Any]


@pytest.fixture
def rows(row: Call) -> list[dict[str, Any]]:
    """More rows than are forecast on the event loop."""
    return [row(ahead) for ahead in range(1, 41)]


@pytest.mark.parametrize("mode", ["hang", pytest.param("error", marks=pytest.mark.nightly)])
def test_starts_while_mlflow_fails_and_recovers(
    mode: str, mlflow_proxy: Any, run_service: Call, registered_versions: list[int], promote: Call,
    post_predict: Call, get_health: Call, wait_until: Call, rows: list[dict[str, Any]],
) -> None:  # fmt: skip
    promote(registered_versions[0])
    mlflow_proxy.fail(mode)
    service = run_service(mlflow_tracking_uri=mlflow_proxy.url, reload_seconds=0.2)
    health = get_health(service.url)
    assert (health["status"], health["registry"]) == ("degraded", "away")
    assert health["model_version"] == 1
    assert "the registry is away" in health["reason"]
    assert post_predict(service.url, {"inputs": rows}).json()["model_version"] == 1
    mlflow_proxy.mode = ""
    wait_until("recovery", lambda: get_health(service.url)["status"] == "healthy")
    # Another version than the one of the cache is loaded while the service answers.
    body, wanted = {"inputs": rows}, registered_versions[0]
    wait_until(
        "Production", lambda: post_predict(service.url, body).json()["model_version"] == wanted
    )
    assert "Traceback" not in service.stop()


def test_mlflow_fails_while_the_service_runs(
    mlflow_proxy: Any, run_service: Call, registered_versions: list[int], promote: Call,
    post_predict: Call, get_health: Call, wait_until: Call, rows: list[dict[str, Any]],
    under_load: Call,
) -> None:  # fmt: skip
    promote(registered_versions[0])
    service = run_service(mlflow_tracking_uri=mlflow_proxy.url, reload_seconds=0.2)
    expected = post_predict(service.url, {"inputs": rows}).json()["predictions"]
    with under_load(service.url, {"inputs": rows}) as load:
        for mode in ("disconnect", "error", "truncate", "hang"):
            mlflow_proxy.fail(mode)
            wait_until(mode, lambda: get_health(service.url)["registry"] == "away")
            unknown = post_predict(service.url, {"inputs": rows, "model_stage": 10_000})
            assert unknown.status_code == 503
            assert "the registry is away" in str(unknown.json()) or "MLflow" in unknown.text
            mlflow_proxy.recover()
            wait_until("recovery", lambda: get_health(service.url)["status"] == "healthy")
    assert not load.errors and load.success_count > 20
    assert all(body["predictions"] == expected for body in load.bodies)
    assert "Traceback" not in service.stop()


def test_requests_for_an_unknown_version_do_not_delay_others(
    mlflow_proxy: Any, run_service: Call, registered_versions: list[int], promote: Call,
    get_health: Call, wait_until: Call, rows: list[dict[str, Any]], under_load: Call,
) -> None:  # fmt: skip
    """MLflow hangs while many clients request a version that only it could find."""
    promote(registered_versions[0])
    service = run_service(mlflow_tracking_uri=mlflow_proxy.url, reload_seconds=0.2)
    mlflow_proxy.fail("hang")
    with under_load(service.url, {"inputs": rows, "model_stage": 10_000}, clients=12):
        before = mlflow_proxy.request_count
        with under_load(service.url, {"inputs": rows}, clients=2) as load:
            wait_until("other responses", lambda: load.success_count >= 40)
        assert not load.errors
        assert mlflow_proxy.request_count - before < 40
        assert get_health(service.url)["model_version"] == registered_versions[0]
    mlflow_proxy.recover()
    wait_until("recovery", lambda: get_health(service.url)["status"] == "healthy")


@pytest.mark.parametrize(
    "mode",
    [*(pytest.param(mode, marks=pytest.mark.nightly) for mode in ("hang", "error")), "corrupt"],
)
def test_artifact_store_fails(
    mode: str, mlflow_proxy: Any, run_service: Call, registered_versions: list[int], promote: Call,
    post_predict: Call, get_health: Call, wait_until: Call, rows: list[dict[str, Any]],
    under_load: Call, model_cache: Path,
) -> None:  # fmt: skip
    """The files of a promoted version cannot be downloaded: the previous version keeps serving."""
    promote(registered_versions[0])
    service = run_service(mlflow_tracking_uri=mlflow_proxy.url, reload_seconds=0.2)
    mlflow_proxy.fail(mode, only="mlflow-artifacts")
    before = mlflow_proxy.request_count
    promote(registered_versions[1])
    with under_load(service.url, {"inputs": rows}, clients=2) as load:
        if mode == "hang":
            wait_until("the download", lambda: mlflow_proxy.request_count > before + 3)
        else:
            wait_until("the reason", lambda: "cannot be had" in get_health(service.url)["reason"])
            body = {"inputs": rows, "model_stage": registered_versions[1]}
            assert post_predict(service.url, body).status_code == 503
        wait_until("other responses", lambda: load.success_count >= 20)
    assert not load.errors
    assert {body["model_version"] for body in load.bodies} == {registered_versions[0]}
    assert not (model_cache / str(registered_versions[1])).exists()
    mlflow_proxy.recover()
    wait_until(
        "recovery", lambda: get_health(service.url)["model_version"] == registered_versions[1]
    )
    assert get_health(service.url)["status"] == "healthy"
    assert "Traceback" not in service.stop()


@pytest.mark.nightly
def test_version_of_a_store_that_is_not_allowed_is_503_with_the_reason(
    mlflow_server: str, run_service: Call, registered_versions: list[int], promote: Call,
    post_predict: Call, rows: list[dict[str, Any]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Anyone who reaches MLflow can register a version whose files are anywhere."""
    promote(registered_versions[0])
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    with httpx.Client(base_url=f"{mlflow_server}/api/2.0/mlflow", trust_env=False) as client:
        fields = {"name": MODEL_NAME, "source": "s3://attacker/model"}
        answer = client.post("/model-versions/create", json=fields).json()
        version = int(answer["model_version"]["version"])
        try:
            service = run_service(mlflow_tracking_uri=mlflow_server, reload_seconds=0.2)
            response = post_predict(service.url, {"inputs": rows, "model_stage": version})
            assert response.status_code == 503
            assert "s3://attacker/model" in response.text
            assert "ROSSMANN_ARTIFACT_STORES" in response.text
            assert post_predict(service.url, {"inputs": rows}).status_code == 200
            assert list(work.iterdir()) == []
            assert "Traceback" not in service.stop()
        finally:
            fields = {"name": MODEL_NAME, "version": str(version)}
            client.request("DELETE", "/model-versions/delete", json=fields)
