"""Files of registered versions, with a real server: no route and no spelling changes them."""

import http.client
import itertools
import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

API = "/api/2.0/mlflow"
ROUTES = ("/api/2.0/mlflow-artifacts", "/ajax-api/2.0/mlflow-artifacts")
WRITES = [
    *((method, f"{root}/artifacts/") for method in ("PUT", "DELETE") for root in ROUTES),
    *(("POST", f"{root}/mpu/{step}/") for step in ("create", "complete", "abort")
      for root in ROUTES),
]  # fmt: skip
OTHER_WRITES = {
    ("POST", "/ajax-api/2.0/mlflow/upload-artifact"),
    ("POST", "/api/2.0/mlflow/artifacts/presigned-upload-url"),
    ("POST", "/ajax-api/2.0/mlflow/artifacts/presigned-upload-url"),
    ("POST", "/api/2.0/mlflow/artifacts/presigned-download-url"),
    ("POST", "/ajax-api/2.0/mlflow/artifacts/presigned-download-url"),
}
MULTIPART = b'{"path": "a.py", "upload_id": "1", "parts": [{"part_number": 1, "etag": "a"}]}'
ORIGINAL, OTHER = b"as registered", b"import os"


class Client:
    """Sends paths as they are; others make ``..`` and escapes plain."""

    def __init__(self, uri: str) -> None:
        self.address = urlsplit(uri).netloc
        self.names = (f"model {number} of {id(self)}" for number in itertools.count())

    def send(self, method: str, path: str, body: bytes = b"") -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.address, timeout=30)
        try:
            headers = {"Content-Type": "application/json"} if body[:1] == b"{" else {}
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        finally:
            connection.close()

    def call(self, path: str, method: str = "POST", **fields: object) -> dict[str, Any]:
        status, text = self.send(method, f"{API}/{path}", json.dumps(fields).encode())
        assert status == 200, text
        return dict(json.loads(text))

    def run(self, **experiment: str) -> dict[str, Any]:
        number = self.call("experiments/create", name=next(self.names), **experiment)
        run = self.call("runs/create", experiment_id=number["experiment_id"], start_time=0)
        return dict(run["run"]["info"])

    def put(self, path: str, content: bytes = ORIGINAL) -> int:
        return self.send("PUT", f"{ROUTES[0]}/artifacts/{path}", content)[0]

    def register(self, **fields: str) -> dict[str, str]:
        name = next(self.names)
        self.call("registered-models/create", name=name)
        version = self.call("model-versions/create", name=name, **fields)["model_version"]
        return {"name": name, "version": str(version["version"])}


def inner(uri: str) -> str:
    return uri.removeprefix("mlflow-artifacts:/").lstrip("/")


@dataclass(frozen=True)
class Version:
    """A version whose source is a logged model, and one whose source is a folder of a run."""

    client: Client
    run: dict[str, Any]
    files: tuple[str, ...]
    root: Path

    def content(self) -> dict[str, bytes]:
        roots = {file.partition("/artifacts/")[0] for file in self.files}
        folders = [self.root / root / "artifacts" for root in roots]
        paths = [path for folder in folders for path in folder.rglob("*")]
        return {str(path): path.read_bytes() for path in paths if path.is_file()}


@pytest.fixture(scope="module")
def version(mlflow_server: str, stored_artifact: Callable[[str], Path]) -> Version:
    client = Client(mlflow_server)
    run = client.run()
    fields = {"experiment_id": run["experiment_id"], "source_run_id": run["run_id"]}
    model = client.call("logged-models", name="model", **fields)["model"]["info"]
    files = (
        f"{inner(model['artifact_uri'])}/pyfunc.py",
        f"{inner(model['artifact_uri'])}/artifacts/ensemble/ensemble.json",
        f"{inner(run['artifact_uri'])}/card.html",
    )
    other = client.run()
    files = (*files, f"{inner(other['artifact_uri'])}/model/pyfunc.py")
    assert [client.put(file) for file in files] == [200] * 4
    client.register(source=f"models:/{model['model_id']}", model_id=model["model_id"])
    client.register(source=f"{other['artifact_uri']}/model", run_id=other["run_id"])
    folder = stored_artifact(inner(run["artifact_uri"])).parents[2]
    return Version(client, run, files, folder)


@pytest.fixture
def unregistered(version: Version) -> dict[str, Any]:
    return version.client.run()


def test_writes_of_all_routes_are_refused(version: Version) -> None:
    before = version.content()
    assert len(before) == 4
    for (method, route), file in itertools.product(WRITES, version.files):
        body = {"PUT": OTHER, "POST": MULTIPART}.get(method, b"")
        status, text = version.client.send(method, route + file, body)
        assert status == (501 if "mpu" in route else 403), (method, route, text)
        new, _ = version.client.send(method, f"{route}{Path(file).parent}/new/file.py", body)
        assert new == status
    assert version.content() == before


def test_answer_says_what_why_and_how(version: Version) -> None:
    path = f"{ROUTES[0]}/artifacts/{version.files[0]}"
    status, text = version.client.send("PUT", path, OTHER * 1_000_000)
    message = json.loads(text)["message"]
    assert status == 403
    for words in ("cannot be changed", version.files[0], "version 1", "register a new version"):
        assert words in message


SPELLINGS: list[Callable[[str], str]] = [
    lambda part: part,
    lambda part: "".join(f"%{byte:02x}" for byte in part.encode()),
    lambda part: quote("".join(f"%{byte:02X}" for byte in part.encode())),
    lambda part: f"./{part}",
    lambda part: f"/{part}",
    lambda part: f"%2f{part}",
    lambda part: f"x/../{part}",
    lambda part: f"x/%2e%2e/{part}",
    lambda part: f"x%252f..%252f{part}",
    lambda part: f"{part};a",
    lambda part: f"{part}%00",
    lambda part: part.upper(),
]


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(spelling=[1] * 8, write=("PUT", f"{ROUTES[0]}/artifacts/"), file=0)
@example(spelling=[2] * 8, write=("DELETE", f"{ROUTES[1]}/artifacts/"), file=1)
@example(spelling=[3] * 8, write=("PUT", f"{ROUTES[1]}/artifacts/"), file=3)
@given(
    spelling=st.lists(st.integers(0, len(SPELLINGS) - 1), min_size=8, max_size=8),
    write=st.sampled_from(WRITES),
    file=st.integers(0, 3),
)
def test_no_spelling_of_a_path_passes(
    version: Version, spelling: list[int], write: tuple[str, str], file: int
) -> None:
    before = version.content()
    method, route = write
    parts = zip(version.files[file].split("/"), spelling, strict=False)
    path = "/".join(SPELLINGS[number](part) for part, number in parts)
    version.client.send(method, route + path, OTHER if method == "PUT" else b"")
    assert version.content() == before


@pytest.mark.parametrize("path", [".", "./", "%2e", "../x", "{0}", "{0}/models", "{0}/"])
def test_folders_that_hold_a_version_cannot_be_deleted(version: Version, path: str) -> None:
    before = version.content()
    shown = path.format(version.run["experiment_id"])
    for route in ROUTES:
        status, _ = version.client.send("DELETE", f"{route}/artifacts/{shown}")
        assert status >= 400
    assert version.content() == before


def upload(client: Client, run: dict[str, Any], path: str) -> tuple[int, str]:
    fields = urlencode({"run_uuid": run["run_id"], "path": path})
    return client.send("POST", f"/ajax-api/2.0/mlflow/upload-artifact?{fields}", OTHER)


def test_uploads_of_pages_are_refused(version: Version, unregistered: dict[str, Any]) -> None:
    before = version.content()
    for path in ("card.html", "new.html", "new/file.py"):
        assert upload(version.client, version.run, path)[0] == 403
    assert version.content() == before
    assert upload(version.client, unregistered, "new/file.py")[0] == 200


@pytest.mark.parametrize("place", ["version", "outside", "link"])
def test_experiments_with_a_place_of_their_own_are_no_way_round(
    version: Version, place: str, tmp_path: Path
) -> None:
    """Whoever reaches MLflow chooses where an experiment's artifacts are."""
    folder = {"version": version.root / Path(version.files[0]).parent, "outside": tmp_path}
    (tmp_path / "link").symlink_to(folder["version"])
    location = folder.get(place, tmp_path / "link")
    before = version.content()
    run = version.client.run(artifact_location=location.as_uri())
    status, text = upload(version.client, run, "new.py")
    assert status == 403, text
    assert version.content() == before
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_without_a_version_files_can_be_changed(
    version: Version, unregistered: dict[str, Any]
) -> None:
    client, root = version.client, inner(unregistered["artifact_uri"])
    for route in ROUTES:
        path = f"{route}/artifacts/{root}/model/%6Fne.txt"
        assert [client.send("PUT", path, body)[0] for body in (ORIGINAL, OTHER)] == [200, 200]
        assert client.send("DELETE", path)[0] == 200
    assert client.put(f"{root}/model/two.txt") == 200
    source = f"{unregistered['artifact_uri']}/model"
    registered = client.register(source=source, run_id=unregistered["run_id"])
    assert client.put(f"{root}/model/two.txt") == 403
    client.call("model-versions/delete", method="DELETE", **registered)
    assert client.put(f"{root}/model/two.txt") == 200


@pytest.mark.parametrize("source", ["{uri}/a%20b", "{uri}/%2561 b//", "{uri}", "models:/{id}"])
def test_no_spelling_of_a_source_passes(source: str, version: Version) -> None:
    client = version.client
    model = client.call("logged-models", experiment_id="0", name="model")["model"]["info"]
    uri, model_id = model["artifact_uri"], model["model_id"]
    file = f"{inner(uri)}/a%20b/pyfunc.py"
    assert client.put(file) == 200
    client.register(source=source.format(uri=uri, id=model_id), model_id=model_id)
    assert client.put(file, OTHER) == 403


@pytest.fixture(
    params=["mlflow_server", pytest.param("postgres_server", marks=pytest.mark.nightly)]
)
def any_client(request: pytest.FixtureRequest) -> Iterator[Client]:
    yield Client(str(request.getfixturevalue(request.param)))


def test_upload_that_began_before_the_registration_is_refused(
    any_client: Client, stored_artifact: Callable[[str], Path]
) -> None:
    run = any_client.run()
    path = f"{inner(run['artifact_uri'])}/model/pyfunc.py"
    assert any_client.put(path) == 200
    host, port = any_client.address.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        line = f"PUT {ROUTES[0]}/artifacts/{path} HTTP/1.1\r\nHost: {any_client.address}\r\n"
        connection.sendall(f"{line}Content-Length: {len(OTHER)}\r\n\r\n".encode() + OTHER[:3])
        folder = stored_artifact(path).parent
        while len(list(folder.iterdir())) < 2:  # until MLflow has its temporary file
            time.sleep(0.01)
        any_client.register(source=f"{run['artifact_uri']}/model", run_id=run["run_id"])
        connection.sendall(OTHER[3:])
        assert connection.recv(1000).split()[1] == b"403"
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {"pyfunc.py": ORIGINAL}


def test_routes_that_write_artifacts_are_those_that_are_tested_here() -> None:
    """A new route of a later MLflow would be missing above."""
    from mlflow.server import app
    from mlflow.server.artifact_router import artifact_router

    found = {
        (method, rule.rule.removesuffix("<path:artifact_path>"))
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
        if method not in {"GET", "HEAD", "OPTIONS"} and "artifact" in rule.rule
    }
    assert found == {*WRITES, *OTHER_WRITES}
    native: list[Any] = list(artifact_router.routes)
    assert {
        (method, route.path.removesuffix("{artifact_path:path}"))
        for route in native
        for method in route.methods - {"GET"}
    } == {write for write in WRITES if write[0] == "PUT"}
