"""Selection of the dataset, and the default services of a launch."""

import http.server
import threading
import zipfile
from pathlib import Path

import httpx
import pytest

from rossmann.addresses import url_host
from rossmann.errors import DataNotFoundError
from rossmann.launcher import first_run
from rossmann.launcher.first_run import select_dataset
from rossmann.launcher.services import default_services, is_api, is_mlflow
from rossmann.models.registry.mlflow_rest import RegistryAccessError
from rossmann.models.registry.registry import Registry
from rossmann.schema import Dataset
from rossmann.settings import Settings, load_settings


def settings_with(folder: Path, *raw: str, demo: bool = False) -> Settings:
    settings = load_settings(data_dir=folder, demo=demo, mlflow_tracking_uri="")
    settings.raw_dir.mkdir(parents=True)
    for name in raw:
        (settings.raw_dir / name).touch()
    return settings


@pytest.mark.parametrize(
    ("raw", "demo", "dataset"),
    [
        ((), False, Dataset.DEMO),
        (("train.csv", "store.csv"), False, Dataset.REAL),
        (("train.csv.gz", "store.csv"), False, Dataset.REAL),
        (("train.csv", "store.csv"), True, Dataset.DEMO),
        (("train.csv",), True, Dataset.DEMO),
        (("notes.txt",), False, Dataset.DEMO),
    ],
)
def test_real_tables_are_preferred_unless_demo_is_set(
    tmp_path: Path, raw: tuple[str, ...], demo: bool, dataset: Dataset
) -> None:
    assert select_dataset(settings_with(tmp_path, *raw, demo=demo)) is dataset


@pytest.mark.parametrize(
    ("present", "missing"), [("train.csv", "store"), ("store.csv.gz", "train")]
)
def test_incomplete_real_tables_are_an_error(tmp_path: Path, present: str, missing: str) -> None:
    with pytest.raises(DataNotFoundError, match=f"{missing}.csv"):
        select_dataset(settings_with(tmp_path, present))


def test_the_demo_does_not_stand_in_for_packed_tables(tmp_path: Path) -> None:
    settings = settings_with(tmp_path)
    with zipfile.ZipFile(settings.raw_dir / "rossmann-store-sales.zip", "w") as archive:
        archive.writestr("train.csv", "Store\n")
    with pytest.raises(DataNotFoundError, match="holds the sales tables: unpack it"):
        select_dataset(settings)


def test_mlflow_is_not_started_where_another_server_is_set(tmp_path: Path) -> None:
    own = load_settings(data_dir=tmp_path, mlflow_tracking_uri="")
    assert [service.name for service in default_services(own)] == ["MLflow", "API", "dashboard"]
    other = load_settings(data_dir=tmp_path, mlflow_tracking_uri="http://elsewhere:5000")
    assert [service.name for service in default_services(other)] == ["API", "dashboard"]


def test_services_share_the_data_folder(tmp_path: Path) -> None:
    mlflow, api, dashboard = default_services(load_settings(data_dir=tmp_path, demo=True))
    assert str(tmp_path / "mlflow") in mlflow.command
    for service in (api, dashboard):
        assert service.environment["ROSSMANN_DATA_DIR"] == str(tmp_path)
        assert service.environment["ROSSMANN_DEMO"] == "1"


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "[::1]"),
        ("shop.example", "shop.example"),
    ],
)
def test_url_host_replaces_wildcards(host: str, address: str) -> None:
    assert url_host(host) == address


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"model_loaded": True, "model_stage": "Production"}, True),
        ({"model_loaded": False, "model_stage": None}, False),
        ({"status": "healthy"}, False),
        (["healthy"], False),
    ],
)
def test_api_is_healthy_with_a_model_only(body: object, expected: bool) -> None:
    assert is_api(httpx.Response(200, json=body)) is expected


def test_health_responses_identify_their_service() -> None:
    assert is_mlflow(httpx.Response(200, text="OK"))
    assert not is_mlflow(httpx.Response(200, text="<html>OK</html>"))
    assert not is_mlflow(httpx.Response(500, text="OK"))
    assert not is_api(httpx.Response(200, text="OK"))


def test_refused_credentials_end_the_preparation_at_once() -> None:
    """The registry may start late, so others than these errors are waited for."""

    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            with (
                Registry(f"http://127.0.0.1:{server.server_address[1]}") as registry,
                pytest.raises(RegistryAccessError, match="MLFLOW_TRACKING_TOKEN"),
            ):
                first_run._wait_for_registry(registry)
        finally:
            server.shutdown()
