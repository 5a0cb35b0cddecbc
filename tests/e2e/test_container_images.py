"""The container images: built without a daemon, and run as they are meant to be."""

import json
import os
import re
import sqlite3
import stat
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from rossmann.data.demo.write_tables import write_demo
from rossmann.settings import load_settings
from tests.e2e.images import (
    EPOCH,
    REVISION,
    Container,
    build,
    copy_context,
    folder_for_container,
    free_port,
    image_files,
    make_base,
    missing_tools,
    podman,
)
from tests.e2e.installation import small_parameters
from tests.paths import ROOT

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(bool(missing_tools()), reason=missing_tools()),
]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
MEGABYTE = 10**6


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Names of the built images by target."""
    context = tmp_path_factory.mktemp("context")
    copy_context(context)
    base = make_base()
    return {target: build(target, context, base) for target in ("api", "all")}


@pytest.fixture(scope="module")
def installation(
    images: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator["Installation"]:
    """MLflow and a first model of a small chain, in containers of the image `all`."""
    tables = tmp_path_factory.mktemp("tables")
    settings = load_settings(data_dir=tables)
    write_demo(settings.demo_raw_dir, seed=7, stores=40, days=620)
    small_parameters(tables)
    data = folder_for_container([tables / "demo"], tmp_path_factory.mktemp("volume"))
    (data / "params.yaml").write_text((tables / "params.yaml").read_text())
    os.chown(data / "params.yaml", 1000, 1000)
    with ExitStack() as stack:
        made = Installation(images["all"], data)
        stack.callback(made.mlflow.remove)
        made.mlflow.start("mlflow")
        made.mlflow.wait_for(f"http://127.0.0.1:{made.port}/health")
        made.first_output = made.container().run("prepare")
        yield made


class Installation:
    """A data volume, its MLflow server, and containers that use both."""

    def __init__(self, image: str, data: Path) -> None:
        self.image, self.data, self.port = image, data, free_port()
        self.first_output = ""
        self.mlflow = Container(image, data, mlflow_port=self.port)

    def container(self, image: str = "", **environment: Any) -> Container:
        """A container on the volume, of the image `all` where none is named."""
        return Container(
            image or self.image,
            self.data,
            params="/var/lib/rossmann/params.yaml",
            mlflow_tracking_uri=f"http://127.0.0.1:{self.port}",
            **environment,
        )


@pytest.fixture
def serve(installation: Installation) -> Iterator[Callable[[str], tuple[Container, str]]]:
    """Starts the API of an image; returns the container and its URL."""
    with ExitStack() as stack:

        def start(image: str) -> tuple[Container, str]:
            port = free_port()
            container = installation.container(image, api_port=port, workers=2)
            stack.callback(container.remove)
            container.start()
            url = f"http://127.0.0.1:{port}"
            container.wait_for(f"{url}/health/ready")
            return container, url

        yield start


BODY = {
    "inputs": [
        {"Store": 1, "DayOfWeek": 6, "Date": "2015-08-01", "Open": 1, "Promo": 1,
         "StateHoliday": "0", "SchoolHoliday": 0},
    ],
    "intervals": [0.8],
}  # fmt: skip


def post(url: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(url, json=body, timeout=60, trust_env=False)


def forecast(url: str) -> list[Any]:
    answer = post(f"{url}/predict", BODY)
    assert answer.status_code == 200, answer.text
    return [answer.json()[name] for name in ("predictions", "intervals", "model_version")]


@pytest.mark.parametrize(("target", "megabytes"), [("api", 600), ("all", 1_500)])
def test_image_is_no_larger_than_promised(
    images: dict[str, str], target: str, megabytes: int
) -> None:
    size = int(podman("image", "inspect", "--format", "{{.Size}}", images[target]))
    assert size < megabytes * MEGABYTE


@pytest.mark.parametrize("target", ["api", "all"])
def test_image_says_how_it_is_run_and_what_it_is(images: dict[str, str], target: str) -> None:
    (image,) = json.loads(podman("image", "inspect", images[target]))
    config = image["Config"]
    assert config["User"] == "1000:1000"
    assert config["StopSignal"] == "SIGTERM"
    assert image["Healthcheck"]["Test"][:2] == ["CMD", "python"]
    assert list(config["Volumes"]) == ["/var/lib/rossmann"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"] == VERSION
    assert labels["org.opencontainers.image.revision"] == REVISION
    assert labels["org.opencontainers.image.licenses"] == "MIT"


def test_images_hold_no_compiler_no_data_and_no_secret(images: dict[str, str]) -> None:
    for image in images.values():
        with image_files(image) as root:
            programs = {path.name for path in (root / "usr/bin").iterdir()}
            assert not {"gcc", "cc", "g++", "strip", "make", "git"} & programs
            packages = next((root / "opt/rossmann/lib").glob("python3*")) / "site-packages"
            assert not (packages / "pip").exists()
            assert not [*root.rglob("*canary*"), *root.rglob("train.csv")]
    with image_files(images["api"]) as root:
        assert {path.name for path in (root / "usr/bin").iterdir()} <= {"python3", "python3.11"}
        packages = next((root / "opt/rossmann/lib").glob("python3*")) / "site-packages"
        for name in ("mlflow", "streamlit", "catboost", "lightgbm", "xgboost"):
            assert not (packages / name).exists()


@pytest.mark.parametrize("target", ["api", "all"])
def test_only_the_volume_and_tmp_belong_to_the_images_user(
    images: dict[str, str], target: str
) -> None:
    """An empty volume gets the owner of the folder in the image."""
    with image_files(images[target]) as root:
        data = (root / "var/lib/rossmann").stat()
        assert (data.st_uid, data.st_gid, stat.S_IMODE(data.st_mode)) == (1000, 1000, 0o700)
        assert stat.S_IMODE((root / "tmp").stat().st_mode) == 0o1777
        owned = {path for path in root.rglob("*") if path.lstat().st_uid}
        assert owned == {root / "var/lib/rossmann"}


@pytest.mark.parametrize("target", ["api", "all"])
def test_times_in_the_image_are_those_of_the_source(images: dict[str, str], target: str) -> None:
    with image_files(images[target]) as root:
        files = (root / "opt/rossmann").rglob("*")
        assert {int(path.lstat().st_mtime) for path in files} == {EPOCH}


@pytest.mark.parametrize("target", ["api", "all"])
def test_bill_of_materials_lists_every_package(images: dict[str, str], target: str) -> None:
    with image_files(images[target]) as root:
        bill = json.loads((root / "opt/rossmann/sbom.cdx.json").read_text())
        listed = {normal(f"{one['name']}-{one['version']}") for one in bill["components"]}
        folders = (root / "opt/rossmann/lib").rglob("*.dist-info")
        installed = {normal(folder.name.removesuffix(".dist-info")) for folder in folders}
    assert bill["bomFormat"] == "CycloneDX"
    assert installed == listed
    assert len(listed) >= 50


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_first_model_is_made_once(installation: Installation) -> None:
    assert "version 1 promoted to Production" in installation.first_output
    again = installation.container().run("prepare")
    assert "version 1 is in Production" in again
    assert "trained" not in again


def test_both_images_serve_the_same_forecast_and_survive_a_kill(
    installation: Installation,
    images: dict[str, str],
    serve: Callable[[str], tuple[Container, str]],
) -> None:
    answers = []
    for target in ("api", "all"):
        container, url = serve(images[target])
        answers.append(forecast(url))
        # A second at most may be lost, and none here.
        time.sleep(2.5)
        before = logged_rows(installation)
        assert before >= len(answers)
        container.signal("KILL")
        container.restart()
        container.wait_for(f"{url}/health/ready")
        answers.append(forecast(url))
        time.sleep(2.5)
        assert logged_rows(installation) == before + 1
        container.signal("TERM")
        assert container.exit_code() == 0
    assert all(answer == answers[0] for answer in answers)
    versions = installation.container().run("models", "list")
    assert versions.count("Production") == 1


def logged_rows(installation: Installation) -> int:
    """Rows in the log's database on the volume."""
    with closing(sqlite3.connect(installation.data / "prediction_log" / "log.db")) as database:
        (count,) = database.execute("SELECT COUNT(*) FROM predictions").fetchone()
    return int(count)


def test_registry_survives_a_kill(installation: Installation) -> None:
    before = installation.container().run("models", "list")
    installation.mlflow.signal("KILL")
    installation.mlflow.restart()
    installation.mlflow.wait_for(f"http://127.0.0.1:{installation.port}/health")
    assert installation.container().run("models", "list") == before


@pytest.mark.parametrize("target", ["api", "all"])
def test_no_kernel_is_compiled_in_a_container(
    images: dict[str, str], serve: Callable[[str], tuple[Container, str]], target: str
) -> None:
    container, url = serve(images[target])
    forecast(url)
    many = {**BODY, "inputs": BODY["inputs"] * 400, "intervals": [0.8, 0.95]}
    assert post(f"{url}/predict", many).status_code == 200
    rows = "Store,DayOfWeek,Date,Open,Promo,StateHoliday,SchoolHoliday\n1,6,2015-08-01,1,1,0,0\n"
    answer = httpx.post(
        f"{url}/predict/file", content=rows, headers={"content-type": "text/csv"}, timeout=60
    )
    assert answer.status_code == 200, answer.text
    script = "import pathlib,sys;print(sum(1 for _ in pathlib.Path(sys.argv[1]).rglob('*.nbc')))"
    used = container.execute("python", "-c", script, "/tmp/numba")
    shipped = container.execute("python", "-c", script, "/opt/rossmann/lib")
    assert int(used) == int(shipped) > 20


def test_drivers_need_the_image_with_all_packages(
    images: dict[str, str], serve: Callable[[str], tuple[Container, str]]
) -> None:
    body = {"inputs": BODY["inputs"]}
    _, url = serve(images["api"])
    refused = post(f"{url}/explain", body)
    assert (refused.status_code, refused.json()["detail"][0]["type"]) == (501, "not_installed")
    _, url = serve(images["all"])
    assert post(f"{url}/explain", body).status_code == 200


@pytest.mark.parametrize("service", ["mlflow", "dashboard", "api"])
def test_health_check_tells_a_running_service_from_none(
    installation: Installation, service: str
) -> None:
    if service == "mlflow":
        container = installation.mlflow
        check = ("python", "/opt/rossmann/healthcheck.py", "mlflow")
        container.execute(*check)
        return
    port = free_port()
    container = installation.container(**{f"{service}_port": port}, api_url="http://127.0.0.1:1")
    try:
        container.start("serve" if service == "api" else service)
        path = "/health/ready" if service == "api" else "/_stcore/health"
        container.wait_for(f"http://127.0.0.1:{port}{path}")
        container.execute("python", "/opt/rossmann/healthcheck.py", service)
        other = "dashboard" if service == "api" else "api"
        text = podman(
            *("exec", f"--env=ROSSMANN_{other.upper()}_PORT={free_port()}", container.name),
            *("python", "/opt/rossmann/healthcheck.py", other),
            check=False,
        )
        assert "Connection refused" in text
    finally:
        container.remove()
