"""The registry with a real MLflow server: stages, promotion, rollback, downloads, failures."""

import hashlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rossmann.errors import (
    CorruptModelError,
    ModelError,
    PromotionConflictError,
    ServiceError,
    VersionNotFoundError,
)
from rossmann.models.registry.mlflow_rest import MlflowRest
from rossmann.models.registry.model_cache import (
    cached_version,
    last_production,
    save_last_production,
)
from rossmann.models.registry.registry import Registry
from rossmann.schema import Stage

API = "/api/2.0/mlflow"


class RestClient:
    """Registers versions over MLflow's REST API, as another client."""

    def __init__(self, uri: str, name: str) -> None:
        self.uri, self.name = uri, name
        self.http = httpx.Client(base_url=uri, timeout=30, trust_env=False)
        self.post("registered-models/create", name=name)
        response = self.post("experiments/create", name=f"for {name}")
        self.experiment = response["experiment_id"]

    def post(self, path: str, **fields: object) -> dict:
        response = self.http.post(f"{API}/{path}", json=fields)
        response.raise_for_status()
        return response.json()

    def add(self, content: bytes = b"trees") -> int:
        run = self.post("runs/create", experiment_id=self.experiment, start_time=0)["run"]["info"]
        root = f"{run['artifact_uri'].removeprefix('mlflow-artifacts:/')}/model"
        digest = hashlib.sha256(content).hexdigest()
        card = json.dumps({"files": {"member.txt": digest}}).encode()
        self.put(f"{root}/artifacts/ensemble/member.txt", content)
        self.put(f"{root}/artifacts/ensemble/ensemble.json", card)
        tags = [{"key": "digest.card", "value": hashlib.sha256(card).hexdigest()}]
        source = f"mlflow-artifacts:/{root}"
        fields = {"name": self.name, "source": source, "run_id": run["run_id"], "tags": tags}
        return int(self.post("model-versions/create", **fields)["model_version"]["version"])

    def put(self, path: str, content: bytes) -> None:
        url = f"/api/2.0/mlflow-artifacts/artifacts/{path}"
        self.http.put(url, content=content).raise_for_status()

    def artifact_root(self, version: int) -> str:
        fields = {"name": self.name, "version": str(version)}
        response = self.http.get(f"{API}/model-versions/get-download-uri", params=fields).json()
        return str(response["artifact_uri"]).removeprefix("mlflow-artifacts:/")

    def alias(self, name: str) -> int | None:
        fields = {"name": self.name, "alias": name}
        response = self.http.get(f"{API}/registered-models/alias", params=fields)
        return int(response.json()["model_version"]["version"]) if response.is_success else None

    def tag(self, version: int, key: str) -> str | None:
        fields = {"name": self.name, "version": str(version)}
        response = self.http.get(f"{API}/model-versions/get", params=fields).json()
        tags = response["model_version"].get("tags", [])
        return next((t["value"] for t in tags if t["key"] == key), None)


@pytest.fixture
def client(each_server: str, request: pytest.FixtureRequest) -> RestClient:
    return RestClient(each_server, f"{request.node.name}-{time.time_ns()}"[:200].replace("/", "_"))


@pytest.fixture
def registry(client: RestClient) -> Iterator[Registry]:
    with Registry(client.uri, client.name) as registry:
        yield registry


def stages(registry: Registry) -> dict[int, str]:
    return {v.version: v.stage.value for v in registry.versions()}


def test_unregistered_model_has_no_versions(each_server: str) -> None:
    with Registry(each_server, "never registered") as registry:
        registry.ping()
        assert registry.versions() == []
        assert registry.history() == []
        with pytest.raises(VersionNotFoundError, match="rossmann train"):
            registry.find("Production")


def test_with_timeout_limits_the_wait() -> None:
    """The server accepts connections and never responds."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        # longer than a test may take
        registry = Registry(url, timeout=3_600)
        with registry.with_timeout(0.2), pytest.raises(ServiceError):
            registry.versions()


def test_versions_are_numbers_newest_first(client: RestClient, registry: Registry) -> None:
    added = [client.add() for _ in range(3)]
    versions = registry.versions()
    assert [v.version for v in versions] == added[::-1] == [3, 2, 1]
    assert {v.stage for v in versions} == {Stage.NONE}
    assert all(v.run_id and v.created.tzinfo for v in versions)


def test_versions_of_several_pages(
    client: RestClient, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        client.add()
    monkeypatch.setattr("rossmann.models.registry.model_version._PAGE_SIZE", 2)
    assert [v.version for v in registry.versions()] == [3, 2, 1]


@pytest.mark.parametrize("requested", ["Production", "production", " PRODUCTION ", 2, "2"])
def test_find_by_stage_or_number(
    client: RestClient, registry: Registry, requested: str | int
) -> None:
    client.add(), client.add()
    registry.promote(2, "first", "me")
    assert registry.find(requested).version == 2


def test_find_error_names_the_versions(client: RestClient, registry: Registry) -> None:
    client.add(), client.add()
    registry.promote(1, "first", "me")
    for requested in ("Staging", 9, "Archived", "nonsense"):
        with pytest.raises(VersionNotFoundError, match=r"there are: 2 \(None\), 1 \(Production\)"):
            registry.find(requested)


def test_stages_from_none_to_archived(client: RestClient, registry: Registry) -> None:
    client.add(), client.add()
    assert registry.stage(1).stage is Stage.STAGING
    assert registry.promote("1", "first", "me").stage is Stage.PRODUCTION
    assert client.alias("staging") is None
    registry.stage(2)
    assert stages(registry) == {1: "Production", 2: "Staging"}
    registry.promote(2, "better", "me")
    assert stages(registry) == {1: "Archived", 2: "Production"}
    assert (client.tag(1, "stage"), client.tag(2, "stage")) == ("Archived", "Production")


def test_version_replaced_in_staging_is_archived(client: RestClient, registry: Registry) -> None:
    client.add(), client.add()
    registry.stage(1)
    registry.stage(2)
    assert stages(registry) == {1: "Archived", 2: "Staging"}


def test_production_cannot_become_staging(client: RestClient, registry: Registry) -> None:
    client.add()
    registry.promote(1, "first", "me")
    with pytest.raises(ModelError, match="promote another"):
        registry.stage(1)
    assert registry.find("Production").version == 1


def test_promoting_the_production_version_changes_nothing(
    client: RestClient, registry: Registry
) -> None:
    client.add()
    registry.promote(1, "first", "me")
    before = registry.history()
    registry.promote(1, "again", "me")
    assert registry.history() == before


def test_promoting_a_missing_version_fails(client: RestClient, registry: Registry) -> None:
    client.add()
    with pytest.raises(VersionNotFoundError):
        registry.promote(7, "typo", "me")
    assert client.alias("production") is None


@pytest.mark.parametrize(
    ("expected", "succeeds"), [(1, True), (2, False), (None, False), ("any", True)]
)
def test_promotion_requires_the_expected_production_version(
    client: RestClient, registry: Registry, expected: int | None, succeeds: bool
) -> None:
    for _ in range(3):
        client.add()
    registry.promote(1, "first", "me", expected=None)
    if succeeds:
        assert registry.promote(3, "why", "me", expected).version == 3
        return
    with pytest.raises(PromotionConflictError, match=r"version 1 serves.*rossmann validate 3"):
        registry.promote(3, "why", "me", expected)
    assert stages(registry) == {3: "None", 2: "None", 1: "Production"}
    assert len(registry.history()) == 1


def test_promotion_fails_if_the_expected_version_is_gone(
    client: RestClient, registry: Registry
) -> None:
    client.add()
    with pytest.raises(PromotionConflictError, match="now none serves"):
        registry.promote(1, "why", "me", expected=7)
    assert client.alias("production") is None


def test_history_records_author_time_and_reason(client: RestClient, registry: Registry) -> None:
    client.add(), client.add()
    registry.promote(1, "the first", "anna")
    registry.promote(2, "better on both windows", "ben")
    registry.rollback("complaints", "anna")
    promotions = registry.history()
    assert [(p.action, p.version, p.replaced, p.who, p.why) for p in promotions] == [
        ("rollback", 1, 2, "anna", "complaints"),
        ("promote", 2, 1, "ben", "better on both windows"),
        ("promote", 1, None, "anna", "the first"),
    ]
    assert all(promotion.at for promotion in promotions)


def test_rollback_without_a_previous_version_fails(client: RestClient, registry: Registry) -> None:
    client.add()
    with pytest.raises(VersionNotFoundError, match="nothing to roll back"):
        registry.rollback("?", "me")
    registry.promote(1, "first", "me")
    with pytest.raises(VersionNotFoundError, match="nothing served before"):
        registry.rollback("?", "me")
    assert registry.find("Production").version == 1


@settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(moves=st.lists(st.sampled_from([0, 1, 2, 3]), min_size=1, max_size=8))
@example(moves=[1, 2, 1, 0, 0])
def test_rollback_undoes_promotions_like_a_stack(each_server: str, moves: list[int]) -> None:
    client = RestClient(each_server, f"stack-{time.time_ns()}")
    for _ in range(3):
        client.add()
    served: list[int] = []
    with Registry(client.uri, client.name) as registry:
        for move in moves:
            if move:
                registry.promote(move, "why", "me")
                served += [move] if served[-1:] != [move] else []
            elif len(served) > 1:
                served.pop()
                assert registry.rollback("why", "me").version == served[-1]
            else:
                with pytest.raises(VersionNotFoundError):
                    registry.rollback("why", "me")
            assert client.alias("production") == (served[-1] if served else None)
            assert list(stages(registry).values()).count("Production") == bool(served)


def test_rollback_skips_deleted_versions(client: RestClient, registry: Registry) -> None:
    for _ in range(3):
        registry.promote(client.add(), "next", "me")
    fields = {"name": client.name, "version": "2"}
    client.http.request("DELETE", f"{API}/model-versions/delete", json=fields).raise_for_status()
    assert registry.rollback("bad", "me").version == 1


class Killed(BaseException):
    """Ends a promotion in the middle, as SIGKILL would: no handler catches it."""


def kill_after(calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this many writes pass, then raise ``Killed``."""
    real, writes = MlflowRest.call, [0]

    def call(self: MlflowRest, method: str, path: str, **fields: object) -> object:
        if method != "GET":
            if writes[0] == calls:
                raise Killed
            writes[0] += 1
        return real(self, method, path, **fields)  # type: ignore[arg-type]

    monkeypatch.setattr(MlflowRest, "call", call)


@pytest.mark.parametrize(
    "calls", [pytest.param(n, marks=[pytest.mark.nightly] if n % 2 else []) for n in range(9)]
)
@pytest.mark.parametrize("action", ["promote", "rollback"])
def test_kill_at_any_write_leaves_one_production_version(
    client: RestClient, registry: Registry, action: str, calls: int
) -> None:
    def change_production(version: int) -> int:
        if action == "promote":
            return registry.promote(version, "next", "me").version
        return registry.rollback("back", "me").version

    for _ in range(3):
        client.add()
    registry.promote(1, "first", "me")
    registry.promote(2, "second", "me")
    registry.stage(3)
    target = 3 if action == "promote" else 1
    with pytest.MonkeyPatch.context() as monkeypatch:
        kill_after(calls, monkeypatch)
        with suppress(Killed):
            change_production(target)
    production = registry.find("Production").version
    assert production in {2, target}
    assert list(stages(registry).values()).count("Production") == 1
    # After any kill, the next change starts from a consistent registry and history is complete.
    if production == 2:
        change_production(target)
    registry.promote(2, "on", "me")
    assert stages(registry)[target] == "Archived"
    assert registry.rollback("back", "me").version == target
    history = [(p.action, p.version) for p in registry.history()[::-1]]
    assert history == [
        ("promote", 1),
        ("promote", 2),
        (action, target),
        ("promote", 2),
        ("rollback", target),
    ]


def test_fetch_downloads_only_once(client: RestClient, registry: Registry, tmp_path: Path) -> None:
    client.add(b"one"), client.add(b"two")
    folder = registry.fetch("2", tmp_path)
    assert folder == tmp_path / "2"
    assert (folder / "member.txt").read_bytes() == b"two"
    stamp = (folder / "member.txt").stat().st_mtime_ns
    assert registry.fetch(2, tmp_path) == folder
    assert (folder / "member.txt").stat().st_mtime_ns == stamp
    assert [p.name for p in tmp_path.iterdir()] == ["2"]


@pytest.mark.parametrize("name", ["member.txt", "ensemble.json"])
def test_fetch_raises_for_altered_files(
    client: RestClient, registry: Registry, tmp_path: Path, name: str,
    stored_artifact: Callable[[str], Path],
) -> None:  # fmt: skip
    version = client.add()
    content = b'{"files": {"member.txt": "00"}}' if name.endswith("json") else b"other trees"
    file = stored_artifact(f"{client.artifact_root(version)}/artifacts/ensemble/{name}")
    file.write_bytes(content)
    with pytest.raises(CorruptModelError, match=name):
        registry.fetch(version, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_fetch_replaces_a_damaged_copy(
    client: RestClient, registry: Registry, tmp_path: Path
) -> None:
    folder = registry.fetch(client.add(), tmp_path)
    (folder / "member.txt").write_bytes(b"rot")
    assert cached_version(tmp_path, 1) is None
    assert (registry.fetch(1, tmp_path) / "member.txt").read_bytes() == b"trees"


def test_fetch_replaces_a_copy_of_another_registry(
    each_server: str, client: RestClient, registry: Registry, tmp_path: Path
) -> None:
    other = RestClient(each_server, f"{client.name}-other")
    other.add(b"of the other")
    client.add(b"of this")
    with Registry(each_server, other.name) as before:
        before.fetch(1, tmp_path)
    assert (registry.fetch(1, tmp_path) / "member.txt").read_bytes() == b"of this"


def test_cached_version_needs_no_registry(
    client: RestClient, registry: Registry, tmp_path: Path
) -> None:
    assert last_production(tmp_path) is None
    folder = registry.fetch(client.add(), tmp_path)
    save_last_production(tmp_path, 1)
    assert last_production(tmp_path) == 1
    assert cached_version(tmp_path, 1) == folder
    assert cached_version(tmp_path, 2) is None


CALLS: list[Callable[[Registry, Path], object]] = [
    lambda r, _: r.ping(),
    lambda r, _: r.versions(),
    lambda r, _: r.find("Production"),
    lambda r, cache: r.fetch(1, cache),
    lambda r, _: r.promote(1, "why", "me"),
    lambda r, _: r.rollback("why", "me"),
]


@pytest.mark.parametrize("call", CALLS)
def test_unreachable_server_is_reported_in_one_line(
    tmp_path: Path, call: Callable[[Registry, Path], object]
) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        uri = f"http://127.0.0.1:{held.getsockname()[1]}"
        unreachable = pytest.raises(ServiceError, match="rossmann mlflow")
        with Registry(uri) as registry, unreachable as error:
            call(registry, tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("call", CALLS)
def test_unresponsive_server_times_out(
    tmp_path: Path, call: Callable[[Registry, Path], object]
) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        timeout = pytest.raises(ServiceError, match="does not answer")
        with Registry(uri, timeout=0.2) as registry, timeout:
            call(registry, tmp_path)


@pytest.mark.parametrize("uri", ["sqlite:///mlflow.db", "mlruns", "http://", "http://a:b:c/"])
def test_invalid_tracking_uri_is_rejected(uri: str) -> None:
    with pytest.raises(ServiceError):
        Registry(uri)


def test_errors_do_not_show_passwords() -> None:
    with (
        Registry("http://user:secret@127.0.0.1:9") as registry,
        pytest.raises(ServiceError) as error,
    ):
        registry.ping()
    assert "secret" not in str(error.value)
