"""No secret in a log, no text of a client on the disk, no damaged file into memory."""

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
"""In all that a client sends, so that it is found wherever it comes out."""
_TOUCHES = ("open", "os.", "shutil.", "tempfile.", "subprocess.", "socket.connect", "socket.get")

fuzz = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
parts = st.sampled_from(
    ["..", "/", "\\", "%2e%2e", "%2f", "\0", "\n", "etc", "passwd", "file://", "http://", "s3:",
     "mlruns", "1", "Production", "~", "$HOME", ":", "//", ".", "models", "C:", "é", "\u202e"]
)  # fmt: skip
nasty = st.lists(parts, min_size=1, max_size=6).map(
    lambda found: "".join([*found[:1], MARK, *found[1:]])
)


class Witness:
    """Sees every touch of the disk, of a process or of the network while it watches."""

    def __init__(self) -> None:
        self.watching = False
        self.seen: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.watching and event.startswith(_TOUCHES):
            self.seen.append(f"{event} {arguments!r}")

    def _noting(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **named: Any) -> Any:
            self._note(f"os.{name}", arguments)
            return real(*arguments, **named)

        return noted

    @contextmanager
    def watch(self) -> Iterator[None]:
        self.seen.clear()
        self.watching = True
        with pytest.MonkeyPatch.context() as patch:
            for name in ("stat", "lstat", "readlink", "access"):  # which tell no audit hook
                patch.setattr(os, name, self._noting(name, getattr(os, name)))
            try:
                yield
            finally:
                self.watching = False
        assert not [touch for touch in self.seen if MARK in touch]


@pytest.fixture(scope="module")
def witness() -> Witness:
    return Witness()


def test_the_witness_sees(witness: Witness, tmp_path: Any) -> None:
    with pytest.raises(AssertionError), witness.watch():
        (tmp_path / MARK).write_text("")
    with pytest.raises(AssertionError), witness.watch():
        list((tmp_path / "x").parent.glob(f"{MARK}*/*"))
        (tmp_path / f"{MARK}2").mkdir()
    with pytest.raises(AssertionError), witness.watch():
        (tmp_path / f"{MARK}3").exists()


@fuzz
@given(text=nasty, other=nasty)
def test_no_name_from_a_body_reaches_the_disk(
    api: TestClient, witness: Witness, row: Any, text: str, other: str
) -> None:
    bodies = [
        {"inputs": [row()], "model_stage": text},
        {"inputs": [row(Store=text)], "as_of": other},
        {"inputs": [row(Date=text, StateHoliday=other)]},
        {"inputs": [row()], text: other, "objective": text, "totals": [other]},
    ]
    with witness.watch():
        codes = [api.post("/predict", json=body).status_code for body in bodies]
        codes += [api.post("/explain", json=body).status_code for body in bodies]
        codes += [
            api.post("/model/load", json={"model_stage": text}).status_code,
            api.post("/model/load", json={text: other}).status_code,
            api.post("/models/3/promote", json={"reason": text}).status_code,
            api.post("/models/rollback", json={"reason": other}).status_code,
        ]
    assert codes[0] == codes[8] == 404
    assert set(codes) <= {200, 404, 422}


@fuzz
@given(text=nasty, slashes=st.booleans())
def test_no_path_reaches_the_disk(
    api: TestClient, witness: Witness, text: str, slashes: bool
) -> None:
    said = quote(text, safe="/" if slashes else "")
    headers = {"X-Request-Id": quote(text), "X-API-Key": quote(text), "Origin": quote(text)}
    paths = [
        f"/x{said}", f"/docs/assets/{said}", f"/docs/{said}", f"/stores/{said}",
        f"/stores/{said}/history", f"/stores/1/history?until={said}", f"/model/{said}",
        f"/stores/1/plan?start={said}&days={said}",
    ]  # fmt: skip
    with witness.watch():
        codes = [api.get(path, headers=headers).status_code for path in paths]
        codes.append(api.post(f"/models/{said}/promote").status_code)
        file = {"file": (text, b"Store\n1\n", "text/csv")}
        codes.append(api.post("/predict/file", files=file).status_code)
    assert 200 not in codes and not [code for code in codes if code >= 500]


@pytest.mark.parametrize(
    "path",
    ["../core.py", "..%2fcore.py", "%2e%2e/core.py", "..\\core.py", "../../etc/passwd",
     "/etc/passwd", "%2fetc%2fpasswd", "", "swagger-ui.css/", "./swagger-ui.css%00"],
)  # fmt: skip
def test_the_files_of_docs_are_those_and_no_others(api: TestClient, path: str) -> None:
    assert api.get(f"/docs/assets/{path}").status_code == 404
    assert api.get("/docs/assets/swagger-ui.css").status_code == 200
    assert api.post("/docs/assets/swagger-ui.css").status_code == 405


def test_a_version_whose_files_are_damaged_is_not_loaded(
    api: TestClient, registry: Any, service: Any, row: Any, serving_settings: Any
) -> None:
    body = {"inputs": [row()], "model_stage": 3}
    folder = registry.fetch(3, serving_settings.model_cache_dir)
    (folder / "model.txt").write_text("1")  # another version's: a file in the place of another
    registry.away = True
    answer = api.post("/predict", json=body)
    assert answer.status_code == 503, answer.text
    assert 3 not in service.versions.loaded
    registry.away = False
    answer = api.post("/predict", json=body)  # fetched anew
    assert answer.status_code == 200 and answer.json()["model_version"] == 3
    assert (folder / "model.txt").read_text() == "3"


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_secret_is_in_the_log(run_door: Callable[..., Any], row: Any, form: str) -> None:
    (good, entry), (other, boss) = (
        generate_key(Permission.PREDICT, "shop"),
        generate_key(Permission.OPERATE, "boss"),
    )
    door = run_door(
        api_keys=f"{entry.file_line},{boss.file_line}",
        api_key=good,
        rate_limit="50/second",
        rate_limit_store="redis://:hunter2@127.0.0.1:1/0",  # away, which is told
        log_level="debug",
        log_format=form,
    )
    wrong = "rsf_wrong-key-of-somebody"
    token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
    body = {"inputs": [row()]}
    with httpx.Client(base_url=door.url, trust_env=False) as client:
        for key in (good, other, wrong, token):
            for headers in ({"X-API-Key": key}, {"Authorization": f"Bearer {key}"}):
                answers = (
                    client.post("/predict", json=body, headers=headers),
                    client.post("/predict", content=b"{" + key.encode(), headers=headers),
                    client.get("/models", headers=headers),
                    client.get("/no/such", headers={**headers, "Cookie": f"session={key}"}),
                )
                assert not [answer.url for answer in answers if key in answer.text]
        client.get("/stores", params={"api_key": good})
        client.get("/stores/4444", headers={"Authorization": f"Basic {wrong}"})
    said = door.stop()
    secrets = (good, other, wrong, token, "hunter2", entry.digest, boss.digest)
    assert [secret for secret in secrets if secret in said] == []
    assert "key shop" in said and "key boss" in said and "Redis does not count" in said
    if form == "json":
        lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        told = next(line for line in lines if line["event"] == "callers need a key")
        assert (told["predict_keys"], told["operate_keys"]) == (1, 1)
