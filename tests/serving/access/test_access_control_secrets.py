"""Security tests: secrets in logs, client text in the file system, damaged model files."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rossmann.serving.access.api_keys import Permission, generate_key

App = Callable[..., FastAPI]
MARK = "zq9mark"
"""Part of every text that the client sends, to find it in audit events."""
_SYSTEM_EVENTS = (
    "open",
    "os.",
    "shutil.",
    "tempfile.",
    "subprocess.",
    "socket.connect",
    "socket.get",
)

fuzz = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
parts = st.sampled_from(
    ["..", "/", "\\", "%2e%2e", "%2f", "\0", "\n", "etc", "passwd", "file://", "http://", "s3:",
     "mlruns", "1", "Production", "~", "$HOME", ":", "//", ".", "models", "C:", "é", "\u202e"]
)  # fmt: skip
hostile_texts = st.lists(parts, min_size=1, max_size=6).map(
    lambda texts: "".join([*texts[:1], MARK, *texts[1:]])
)


class AuditRecorder:
    """Records file, process and network events of this process while active."""

    def __init__(self) -> None:
        self.active = False
        self.events: list[str] = []
        sys.addaudithook(self._record)

    def _record(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.active and event.startswith(_SYSTEM_EVENTS):
            self.events.append(f"{event} {arguments!r}")

    def _recording(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(*arguments: Any, **keywords: Any) -> Any:
            self._record(f"os.{name}", arguments)
            return real(*arguments, **keywords)

        return recorded

    @contextmanager
    def assert_no_mark(self) -> Iterator[None]:
        self.events.clear()
        self.active = True
        with pytest.MonkeyPatch.context() as patch:
            for name in ("stat", "lstat", "readlink", "access"):  # these raise no audit event
                patch.setattr(os, name, self._recording(name, getattr(os, name)))
            try:
                yield
            finally:
                self.active = False
        assert not [event for event in self.events if MARK in event]


@pytest.fixture(scope="module")
def audit() -> AuditRecorder:
    return AuditRecorder()


def test_audit_detects_access_to_a_marked_path(audit: AuditRecorder, tmp_path: Any) -> None:
    with pytest.raises(AssertionError), audit.assert_no_mark():
        (tmp_path / MARK).write_text("")
    with pytest.raises(AssertionError), audit.assert_no_mark():
        list((tmp_path / "x").parent.glob(f"{MARK}*/*"))
        (tmp_path / f"{MARK}2").mkdir()
    with pytest.raises(AssertionError), audit.assert_no_mark():
        (tmp_path / f"{MARK}3").exists()


@fuzz
@given(text=hostile_texts, other_text=hostile_texts)
def test_no_text_of_a_body_reaches_the_file_system(
    api: TestClient, audit: AuditRecorder, row: Any, text: str, other_text: str
) -> None:
    bodies = [
        {"inputs": [row()], "model_stage": text},
        {"inputs": [row(Store=text)], "as_of": other_text},
        {"inputs": [row(Date=text, StateHoliday=other_text)]},
        {"inputs": [row()], text: other_text, "objective": text, "totals": [other_text]},
    ]
    with audit.assert_no_mark():
        codes = [api.post("/predict", json=body).status_code for body in bodies]
        codes += [api.post("/explain", json=body).status_code for body in bodies]
        codes += [
            api.post("/model/load", json={"model_stage": text}).status_code,
            api.post("/model/load", json={text: other_text}).status_code,
            api.post("/models/3/promote", json={"reason": text}).status_code,
            api.post("/models/rollback", json={"reason": other_text}).status_code,
        ]
    assert codes[0] == codes[8] == 404
    assert set(codes) <= {200, 404, 422}


@fuzz
@given(text=hostile_texts, slashes=st.booleans())
def test_no_text_of_a_path_or_header_reaches_the_file_system(
    api: TestClient, audit: AuditRecorder, text: str, slashes: bool
) -> None:
    quoted = quote(text, safe="/" if slashes else "")
    headers = {"X-Request-Id": quote(text), "X-API-Key": quote(text), "Origin": quote(text)}
    paths = [
        f"/x{quoted}", f"/docs/assets/{quoted}", f"/docs/{quoted}", f"/stores/{quoted}",
        f"/stores/{quoted}/history", f"/stores/1/history?until={quoted}", f"/model/{quoted}",
        f"/stores/1/plan?start={quoted}&days={quoted}",
    ]  # fmt: skip
    with audit.assert_no_mark():
        codes = [api.get(path, headers=headers).status_code for path in paths]
        codes.append(api.post(f"/models/{quoted}/promote").status_code)
        file = {"file": (text, b"Store\n1\n", "text/csv")}
        codes.append(api.post("/predict/file", files=file).status_code)
    # the client resolves .. itself: such a path may lead to a page that everyone may see
    is_resolved = slashes and ".." in text.split("/")
    assert is_resolved or 200 not in codes
    assert not [code for code in codes if code >= 500]


@pytest.mark.parametrize(
    "path",
    ["../core.py", "..%2fcore.py", "%2e%2e/core.py", "..\\core.py", "../../etc/passwd",
     "/etc/passwd", "%2fetc%2fpasswd", "", "swagger-ui.css/", "./swagger-ui.css%00"],
)  # fmt: skip
def test_docs_assets_are_limited_to_the_known_files(api: TestClient, path: str) -> None:
    assert api.get(f"/docs/assets/{path}").status_code == 404
    assert api.get("/docs/assets/swagger-ui.css").status_code == 200
    assert api.post("/docs/assets/swagger-ui.css").status_code == 405


def test_damaged_version_is_not_loaded_and_fetched_again(
    api: TestClient, registry: Any, service: Any, row: Any, serving_settings: Any
) -> None:
    body = {"inputs": [row()], "model_stage": 3}
    folder = registry.fetch(3, serving_settings.model_cache_dir)
    (folder / "model.txt").write_text("1")  # the content of another version
    registry.unavailable = True
    response = api.post("/predict", json=body)
    assert response.status_code == 503, response.text
    assert 3 not in service.versions.loaded
    registry.unavailable = False
    response = api.post("/predict", json=body)  # fetched again
    assert response.status_code == 200 and response.json()["model_version"] == 3
    assert (folder / "model.txt").read_text() == "3"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_log_contains_no_secret(run_service: Callable[..., Any], row: Any, log_format: str) -> None:
    key, record = generate_key(Permission.PREDICT, "shop")
    operator_key, operator_record = generate_key(Permission.OPERATE, "boss")
    service = run_service(
        api_keys=f"{record.file_line},{operator_record.file_line}",
        api_key=key,
        rate_limit="50/second",
        rate_limit_store="redis://:hunter2@127.0.0.1:1/0",  # unreachable: a warning is logged
        log_level="debug",
        log_format=log_format,
    )
    wrong_key = "rsf_unknown-key"
    token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
    body = {"inputs": [row()]}
    with httpx.Client(base_url=service.url, trust_env=False) as client:
        for secret in (key, operator_key, wrong_key, token):
            for headers in ({"X-API-Key": secret}, {"Authorization": f"Bearer {secret}"}):
                responses = (
                    client.post("/predict", json=body, headers=headers),
                    client.post("/predict", content=b"{" + secret.encode(), headers=headers),
                    client.get("/models", headers=headers),
                    client.get("/no/such", headers={**headers, "Cookie": f"session={secret}"}),
                )
                assert not [response.url for response in responses if secret in response.text]
        client.get("/stores", params={"api_key": key})
        client.get("/stores/4444", headers={"Authorization": f"Basic {wrong_key}"})
    log = service.stop()
    secrets = (
        key,
        operator_key,
        wrong_key,
        token,
        "hunter2",
        record.digest,
        operator_record.digest,
    )
    assert [text for text in secrets if text in log] == []
    assert "key shop" in log and "key boss" in log and "Redis does not count" in log
    if log_format == "json":
        lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
        policy = next(line for line in lines if line["event"] == "callers need a key")
        assert (policy["predict_keys"], policy["operate_keys"]) == (1, 1)
