"""The services of ``deployment/compose.yaml`` in the order that it says, and the site that results.

They run as processes with Debian's PostgreSQL, nginx and Prometheus (``compose_project.py``).
Grafana is in no registry of packages that is used here: its files have a test of their own.
"""

import base64
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rossmann.data.demo.write_tables import write_demo
from rossmann.documentation.build import build_site
from tests.e2e.compose_project import Project, missing, own_network
from tests.e2e.installation import small_parameters
from tests.paths import ROOT

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(bool(missing()), reason=missing() or "everything is there"),
    pytest.mark.timeout(600),
]

SITE = "https://localhost:8443"
VARIABLES = {
    "ROSSMANN_HTTPS_PORT": "8443",
    "ROSSMANN_MAX_BODY_MB": "1",
    "ROSSMANN_MAX_FILE_MB": "3",
    "ROSSMANN_RATE_LIMIT": "1000/hour",
}
SECOND_PREPARE = 30.0
"""Seconds; it takes some five on an idle machine."""


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout's ``deployment`` with secrets, by the script, and with tables of a small chain."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "deployment", folder / "deployment")
    (folder / "scripts").mkdir()
    script = shutil.copy(ROOT / "scripts" / "compose.sh", folder / "scripts")
    told = subprocess.check_output(["bash", script, "secrets"], text=True)
    (folder / "password").write_text(told.splitlines()[0].rpartition(": ")[2])
    tables = folder / "deployment" / "tables"
    write_demo(tables, seed=7, stores=60, days=620)
    subprocess.run(["chmod", "-R", "a+rX", str(tables)], check=True)
    return folder / "deployment"


@pytest.fixture(scope="module")
def project(deployment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """All services but Grafana, healthy."""
    folder = tmp_path_factory.mktemp("project")
    parameters = small_parameters(folder)
    # One thread: the boosters' threads wait for each other where other programs run.
    parameters.write_text(f"{parameters.read_text()}\nthreads: 1\n")
    parameters.chmod(0o644)
    build_site(folder / "documentation")
    image = {
        "/etc/parameters.yaml": parameters,
        "/opt/rossmann/documentation": folder / "documentation",
        "/opt/rossmann/healthcheck.py": ROOT / "deployment" / "docker" / "healthcheck.py",
    }
    with own_network():
        project = Project(folder, deployment, VARIABLES, image)
        try:
            project.up(left_out=["grafana"])
            yield project
        finally:
            project.down()


@pytest.fixture
def client(project: Project, deployment: Path) -> Iterator[httpx.Client]:
    """A client that trusts the site's own certificate."""
    context = ssl.create_default_context(cafile=deployment / "secrets" / "tls_certificate.pem")
    with httpx.Client(base_url=SITE, verify=context, trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
def key(deployment: Path) -> dict[str, str]:
    """The header with the key that the script made."""
    return {"X-API-Key": (deployment / "secrets" / "rossmann_api_key").read_text()}


@pytest.fixture
def password(deployment: Path) -> tuple[str, str]:
    """User and password of the dashboard, as the script told them."""
    return ("planner", (deployment.parent / "password").read_text())


def forecast(client: httpx.Client, row: dict[str, Any], headers: dict[str, str]) -> httpx.Response:
    return client.post("/api/predict", json={"inputs": [row]}, headers=headers)


def logged_rows(project: Project) -> int:
    """Rows of the prediction log in PostgreSQL."""
    query = ("psql", "-U", "postgres", "-d", "rossmann", "-Atc", "SELECT count(*) FROM predictions")
    done = project.run_inside("database", *query)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_forecasts_need_the_key(
    client: httpx.Client, key: dict[str, str], row: Callable[..., dict[str, Any]]
) -> None:
    answer = forecast(client, row(), key)
    assert answer.status_code == 200 and answer.json()["predictions"][0] > 0
    names = [name.lower() for name, _ in answer.headers.multi_items()]
    assert len(names) == len(set(names)), names
    assert answer.headers["Strict-Transport-Security"] and "1." not in answer.headers["Server"]
    for path in ("/api/stores", "/api/models", "/api/model/info"):
        assert client.get(path).status_code == 401, path
    assert forecast(client, row(), {}).status_code == 401
    assert forecast(client, row(), {"X-API-Key": "rsf_wrong"}).status_code == 401
    assert client.get("/api/models", headers=key).status_code == 403
    assert client.get("/api/docs").status_code == 200


def test_dashboard_needs_the_password(client: httpx.Client, password: tuple[str, str]) -> None:
    assert client.get("/").headers["Location"] == "/dashboard/"
    assert client.get("/dashboard/").status_code == 401
    assert client.get("/dashboard/", auth=("planner", "guess")).status_code == 401
    page = client.get("/dashboard/", auth=password)
    assert page.status_code == 200 and "streamlit" in page.text.lower()
    assert len(page.headers.get_list("Content-Security-Policy")) == 1
    assert len(page.headers.get_list("Strict-Transport-Security")) == 1
    guide = client.get("/dashboard/documentation/", auth=password)
    assert guide.status_code == 200 and "Rossmann" in guide.text


@pytest.mark.parametrize("origin, code", [(SITE, 101), ("https://other.example", 403)])
def test_websocket_of_the_dashboard(
    origin: str, code: int, client: httpx.Client, password: tuple[str, str], deployment: Path
) -> None:
    context = ssl.create_default_context(cafile=deployment / "secrets" / "tls_certificate.pem")
    login = base64.b64encode(":".join(password).encode()).decode()
    head = (
        "GET /dashboard/_stcore/stream HTTP/1.1\r\nHost: localhost:8443\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n"
        f"Origin: {origin}\r\nAuthorization: Basic {login}\r\n\r\n"
    )
    with (
        socket.create_connection(("localhost", 8443), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        tls.sendall(head.encode())
        assert tls.recv(4096).startswith(f"HTTP/1.1 {code} ".encode())


def test_bodies_and_files_have_the_limits_of_the_settings(
    client: httpx.Client, key: dict[str, str], project: Project
) -> None:
    for path, limit in (("/api/predict", 1 << 20), ("/api/predict/file", 3 << 20)):
        answer = client.post(path, content=b" " * (limit + 1), headers=key)
        assert answer.status_code == 413, path
        assert answer.json()["detail"][0]["type"] == "too_many_bytes"
    shown = json.loads(project.run_inside("api", "rossmann", "settings").stdout)
    assert (shown["max_body_mb"], shown["max_file_mb"]) == (1, 3)


def test_an_address_has_a_rate_limit(client: httpx.Client, deployment: Path) -> None:
    context = ssl.create_default_context(cafile=deployment / "secrets" / "tls_certificate.pem")
    other = httpx.HTTPTransport(verify=context, local_address="127.0.0.77")
    with httpx.Client(base_url=SITE, transport=other, timeout=30) as flood:
        answers = [flood.get("/api/health/live") for _ in range(400)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert answers[0].status_code == 200 and refused
    assert refused[0].json()["detail"][0]["type"] == "over_rate"
    assert refused[0].headers["Retry-After"]
    assert client.get("/api/health/live").status_code == 200, "another address"


@pytest.mark.parametrize(
    "path", ["metrics", "metrics/", "./metrics", "%6detrics", "/metrics", "x/../metrics"]
)
def test_metrics_stay_inside(client: httpx.Client, path: str) -> None:
    target = httpx.URL(SITE).copy_with(raw_path=f"/api/{path}".encode())
    answer = client.get(target)
    assert answer.status_code == 404 and "rossmann_" not in answer.text


def test_plain_http_leads_to_tls_and_other_names_to_nothing(client: httpx.Client) -> None:
    answer = httpx.get("http://localhost:8080/api/docs?a=1", trust_env=False)
    assert answer.status_code == 301
    assert answer.headers["Location"] == f"{SITE}/api/docs?a=1"
    assert client.get("/", headers={"Host": "other.example"}).status_code == 421
    assert client.get("/unknown").status_code == 404


def test_the_api_counts_callers_by_their_own_addresses(
    client: httpx.Client, deployment: Path
) -> None:
    context = ssl.create_default_context(cafile=deployment / "secrets" / "tls_certificate.pem")
    left = []
    for address in ("127.0.0.88", "127.0.0.88", "127.0.0.89"):
        transport = httpx.HTTPTransport(verify=context, local_address=address)
        with httpx.Client(base_url=SITE, transport=transport, timeout=30) as caller:
            forged = {"X-Forwarded-For": "203.0.113.7"}
            answer = caller.get("/api/stores", headers=forged)
            left.append(int(answer.headers["RateLimit-Remaining"]))
    assert left == [999, 998, 999]


def test_services_see_their_own_secrets_only_and_change_nothing_else(project: Project) -> None:
    for name, secrets in (
        ("api", "rossmann_api_keys rossmann_database_password"),
        ("mlflow", "rossmann_database_password"),
        ("dashboard", "rossmann_api_key"),
    ):
        seen = project.run_inside(name, "ls", "/run/secrets").stdout.decode().split()
        assert seen == secrets.split(), name
        assert project.run_inside(name, "id", "-u").stdout == b"1000\n"
        assert project.run_inside(name, "touch", "/var/new").returncode, name
    assert project.run_inside("api", "touch", "/var/lib/rossmann/raw/new").returncode


def test_the_services_user_has_no_rights_in_the_database(project: Project) -> None:
    query = "SELECT rolsuper, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = 'rossmann'"
    shown = project.run_inside("database", "psql", "-U", "postgres", "-Atc", query)
    assert shown.stdout == b"f|f|f\n", shown


def test_a_second_prepare_does_nothing(
    project: Project, client: httpx.Client, key: dict[str, str]
) -> None:
    before = client.get("/api/model/info", headers=key).json()
    files = sorted(project.volume("data", 1000).rglob("*.npy"))
    changed = [file.stat().st_mtime_ns for file in files]
    project.start("prepare")
    project.wait("prepare")
    assert [file.stat().st_mtime_ns for file in files] == changed and files
    assert client.get("/api/model/info", headers=key).json() == before
    assert project.log("prepare").read_text().count("promoted to Production") == 2  # begun, done
    assert project.seconds["prepare"] < SECOND_PREPARE


def test_a_retraining_without_news_makes_nothing(project: Project) -> None:
    process = project.start("retrain", "retrain", "--profile", "quick")
    assert process.wait(120) == 10, project.log("retrain").read_text()
    assert "nothing new: version 1" in project.log("retrain").read_text()


def test_prometheus_scrapes_the_api_and_knows_the_alerts(project: Project) -> None:
    deadline = time.monotonic() + 60
    found: list[Any] = []
    while not found and time.monotonic() < deadline:
        with httpx.Client(base_url="http://127.0.0.1:9090", trust_env=False) as prometheus:
            query = {"query": 'up{job="rossmann",instance="api:8000"} == 1'}
            found = prometheus.get("/api/v1/query", params=query).json()["data"]["result"]
            rules = prometheus.get("/api/v1/rules").json()["data"]["groups"]
        time.sleep(0.2)
    assert found and len(rules[0]["rules"]) > 8


def test_a_killed_api_comes_back_with_registry_and_log(
    project: Project,
    client: httpx.Client,
    key: dict[str, str],
    row: Callable[..., dict[str, Any]],
    wait_until: Callable[..., None],
) -> None:
    before = forecast(client, row(), key).json()
    rows = logged_rows(project)
    wait_until("the log", lambda: logged_rows(project) > rows, 60)
    rows = logged_rows(project)
    assert forecast(client, row(), key).status_code == 200
    time.sleep(1.5)  # log_flush_seconds is 1: the row is on disk, and likely not in the database
    assert project.end("api", signal.SIGKILL)
    away = forecast(client, row(), key)
    assert away.status_code == 503 and away.json()["detail"][0]["type"] == "away"
    project.move("api")
    project.start("api")
    project.wait("api")
    wait_until("nginx", lambda: client.get("/api/health/ready").status_code == 200, 60)
    after = forecast(client, row(), key).json()
    same = ("predictions", "model_version", "as_of")
    assert [after[name] for name in same] == [before[name] for name in same]
    wait_until("the log", lambda: logged_rows(project) >= rows + 2, 60)
    assert logged_rows(project) == rows + 2


def test_a_backup_is_restored_into_empty_volumes(
    project: Project,
    deployment: Path,
    client: httpx.Client,
    key: dict[str, str],
    row: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    before = forecast(client, row(), key).json()
    rows = logged_rows(project)
    run_script(project, deployment, tmp_path, "backup", str(tmp_path / "kept"))
    with own_network():
        folder = tmp_path / "restored"
        folder.mkdir()
        other = Project(folder, deployment, VARIABLES, project.image)
        try:
            other.up(left_out=[name for name in other.services if name != "database"])
            run_script(other, deployment, tmp_path, "restore", str(tmp_path / "kept"))
            other.up(left_out=["database", "grafana", "prometheus"])
            assert "Production, made from" in other.log("prepare").read_text()
            assert "trained" not in other.log("prepare").read_text()
            with httpx.Client(base_url=SITE, verify=False, trust_env=False, timeout=30) as again:
                after = forecast(again, row(), key).json()
            assert after["predictions"] == before["predictions"]
            assert logged_rows(other) >= rows
        finally:
            other.down()


DOCKER = """#!{python}
import json, os, sys
words = sys.argv[2:]
places = json.load(open({places!r}))
if words[0] == "exec":
    place = places[words[2]]
    os.execvpe("nsenter", place["inside"] + words[3:], place["environment"])
if words[0] == "run":
    service, rest = words[6], words[7:]
    os.execvp("unshare", places[service]["isolated"] + [words[5]] + rest)
"""


def run_script(project: Project, deployment: Path, folder: Path, *arguments: str) -> None:
    """``scripts/compose.sh`` with a ``docker`` that knows the project's processes."""
    places = folder / "places.json"
    places.write_text(json.dumps(project.places()))
    docker = folder / "bin" / "docker"
    docker.parent.mkdir(exist_ok=True)
    docker.write_text(DOCKER.format(python=sys.executable, places=str(places)))
    docker.chmod(0o755)
    script = deployment.parent / "scripts" / "compose.sh"
    environment = {**os.environ, "PATH": f"{docker.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", str(script), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
