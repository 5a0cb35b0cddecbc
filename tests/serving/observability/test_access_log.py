"""One line a request: what it tells, what it must not, and that it costs next to nothing."""

import io
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from rossmann.logging_config import (
    TimestampFormatter,
    configure_library_logging,
    configure_logging,
    get_logger,
    json_line,
    uses_json,
)
from rossmann.serving.observability import access_log as request_log_module
from rossmann.serving.observability.access_log import AccessLog, RequestRecord, open_access_log

Lines = Callable[..., list[dict[str, Any]]]
NAMES = [
    *("time", "level", "event", "request_id", "method", "route", "path", "code", "ms", "rows"),
    *("model_version", "caller", "bytes"),
]


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    """What was said since the last look, each line a JSON object."""

    def read() -> list[dict[str, Any]]:
        return [json.loads(line) for line in capsys.readouterr().err.splitlines()]

    return read


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Leaves the standard logging as it was, and libraries as they are in a fresh process.

    Other tests import MLflow or start uvicorn, which give their loggers handlers of their own.
    """
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    libraries = [logging.getLogger(name) for name in ("mlflow", "uvicorn", "uvicorn.error")]
    found = [(one, list(one.handlers), one.propagate, one.level) for one in libraries]
    for one in libraries:
        one.handlers[:], one.propagate, one.level = [], True, logging.NOTSET
    root.manager._clear_cache()  # type: ignore[attr-defined]
    yield
    for one, kept, propagate, own in found:
        one.handlers[:], one.propagate, one.level = kept, propagate, own
    root.handlers[:], root.level = handlers, level
    root.manager._clear_cache()  # type: ignore[attr-defined]
    logging.captureWarnings(False)
    configure_logging()


def line(**changes: Any) -> RequestRecord:
    made = RequestRecord("id-1", "POST", "/predict")
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def told(made: RequestRecord, **options: Any) -> str:
    stream = io.StringIO()
    tell = open_access_log("info", options.pop("form", "json"), stream=stream, **options)
    assert tell is not None
    tell.write(made)
    return stream.getvalue()


def test_one_line_a_request(make_app: Callable[..., FastAPI], row: Any, lines: Lines) -> None:
    with TestClient(make_app(log_format="json")) as api:
        lines()
        answer = api.post("/predict", json={"inputs": [row(), row(2)]})
        bad = api.post("/predict", json={"inputs": [row(Store=0)]}, headers={"X-Request-ID": "a.1"})
        api.get("/stores/1/plan?days=3")
        api.get("/nowhere")
    good, refused, plan, nowhere = lines()
    assert list(good) == NAMES
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", good["time"])
    assert good["request_id"] == answer.json()["request_id"]
    assert (good["method"], good["route"], good["path"]) == ("POST", "/predict", "/predict")
    assert (good["code"], good["rows"], good["model_version"]) == (200, 2, 1)
    assert good["bytes"] == len(answer.content) and 0 < good["ms"] < 60_000
    assert (refused["request_id"], refused["code"]) == ("a.1", 422)
    assert refused["bytes"] == len(bad.content)
    assert plan["route"] == "/stores/{store}/plan" and plan["path"] == "/stores/1/plan"
    assert (nowhere["route"], nowhere["path"], nowhere["code"]) == (None, "/nowhere", 404)


def test_a_fault_of_ours_can_be_found_by_its_number(
    make_app: Callable[..., FastAPI],
    service: Any,
    own_logging: None,
    row: Any,
    lines: Lines,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("odd")

    configure_logging("info", "json")
    monkeypatch.setattr(type(service.versions), "get_loaded", broken)
    app = make_app(log_format="json")
    with TestClient(app, raise_server_exceptions=False) as api:
        lines()
        answer = api.post("/predict", json={"inputs": [row()]})
    number = answer.headers["X-Request-ID"]
    assert answer.status_code == 500 and answer.json()["request_id"] == number
    found = {said["event"]: said for said in lines() if said["request_id"] == number}
    assert {event: said["level"] for event, said in found.items()} == {
        "request": "error",
        "unexpected error": "error",
    }
    assert "ZeroDivisionError: odd" in found["unexpected error"]["exception"]


def test_no_line_holds_a_key(
    make_app: Callable[..., FastAPI], row: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    import hashlib

    secret = "a-very-secret-key"
    keys = f"viewer:{hashlib.sha256(secret.encode()).hexdigest()}"
    with TestClient(make_app(log_format="json", api_keys=keys)) as api:
        body = {"inputs": [row()]}
        assert api.post("/predict", json=body, headers={"X-API-Key": secret}).status_code == 200
        api.get("/stores", headers={"Authorization": f"Bearer {secret}"})
        api.get(f"/health?key={secret}")
        api.post("/predict", json=body, headers={"X-API-Key": f"{secret}-wrong"})
    said = capsys.readouterr().err
    assert secret not in said
    first, second, _, wrong = [json.loads(text) for text in said.splitlines() if "route" in text]
    assert first["caller"] == second["caller"] != "anyone"
    assert wrong["caller"] is None and wrong["code"] == 401


@pytest.mark.parametrize(
    "odd", ["", "x" * 65, "a b", 'a"b', "a\tb", "ä", "a;b", "${jndi:x}", "a\x7fb", "\x1b[31m"]
)
def test_an_odd_request_id_is_replaced(
    make_app: Callable[..., FastAPI], lines: Lines, odd: str
) -> None:
    with TestClient(make_app(log_format="json")) as api:
        answer = api.get("/health/live", headers=[(b"x-request-id", odd.encode("latin-1"))])
    given = answer.headers["X-Request-ID"]
    assert re.fullmatch(r"[0-9a-f]{32}", given)
    assert lines()[-1]["request_id"] == given


@pytest.mark.parametrize("sane", ["a", "x" * 64, "7f3e-1.B_2"])
def test_a_sane_request_id_is_kept(
    make_app: Callable[..., FastAPI], lines: Lines, sane: str
) -> None:
    with TestClient(make_app(log_format="json")) as api:
        assert api.get("/health", headers={"X-Request-ID": sane}).headers["X-Request-ID"] == sane
    assert lines()[-1]["request_id"] == sane


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("path", ["/a\nb", "/a\r\nINFO forged", "/\x1b[31m", "/\u2028x", "/" * 999])
def test_a_path_cannot_forge_a_line(form: str, path: str) -> None:
    said = told(line(path=path, code=404), form=form)
    assert said.endswith("\n") and len(said) < 800
    assert "\x1b" not in said and len(re.split(r"[\r\n]", said)) == 2
    if form == "json":
        assert json.loads(said)["path"] == path[:256]


def test_a_line_for_people() -> None:
    made = line(code=200, seconds=0.00123, rows=2, model_version=3, caller="planner", bytes=9)
    assert told(made, form="console").partition(" ")[2] == (
        "POST /predict 200 1.2 ms rows=2 model_version=3 caller=planner bytes=9 request_id=id-1\n"
    )


class Reader(io.StringIO):
    """Somebody who reads when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = threading.Event()

    def write(self, text: str) -> int:
        self.reads.wait(30)
        return super().write(text)


def test_who_reads_slowly_holds_up_nobody_and_misses_nothing() -> None:
    reader = Reader()
    log = AccessLog("json", stream=reader)
    log.start()
    for number in range(500):
        log.write(line(rows=number))  # it would wait for ever, did it write
    assert reader.getvalue() == ""
    reader.reads.set()
    log.close()
    assert [json.loads(text)["rows"] for text in reader.getvalue().splitlines()] == [*range(500)]


def test_who_does_not_read_at_all_costs_so_much_room_and_no_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(request_log_module, "_MAX_LINES", 100)
    configure_logging("info", "json")
    reader = Reader()
    log = AccessLog("json", stream=reader)
    log.start()
    for number in range(1_000):
        log.write(line(rows=number))
    reader.reads.set()
    log.close()
    lines = reader.getvalue().splitlines()
    assert 100 <= len(lines) <= 200  # what it held, and what it was writing
    (said,) = [json.loads(text) for text in capsys.readouterr().err.splitlines()]
    assert said["lines"] == 1_000 - len(lines) and "slow" in said["event"]


def test_faults_of_ours_stand_out() -> None:
    assert json.loads(told(line(code=503)))["level"] == "error"
    assert json.loads(told(line(code=404)))["level"] == "info"


@pytest.mark.parametrize("level", ["warning", "error"])
def test_no_lines_above_info(level: Any) -> None:
    assert open_access_log(level, "json") is None


def test_a_full_disk_behind_the_log_fails_no_request(
    make_app: Callable[..., FastAPI], own_logging: None, row: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    full = Path("/dev/full").open("w", buffering=1)  # noqa: SIM115 -- closing it fails too
    with pytest.raises(OSError, match="space"):
        full.write("x\n")
    monkeypatch.setattr("sys.stderr", full)
    configure_logging()
    with TestClient(make_app(log_format="json")) as api:
        for _ in range(200):
            assert api.post("/predict", json={"inputs": [row()]}).status_code == 200
        get_logger("test").warning("lost")
    with pytest.raises(OSError, match="space"):
        full.close()


def test_events_of_ours_and_of_libraries_are_lines_alike(own_logging: None, lines: Lines) -> None:
    configure_logging("info", "json")
    configure_library_logging("info", "json")
    lines()
    get_logger("versions").info("in service", version=3)
    get_logger("versions").debug("not told")
    logging.getLogger("uvicorn.error").error("Exception in ASGI application\nsecond")
    logging.getLogger("uvicorn.error").info("Started server process")
    try:
        raise ValueError("odd")
    except ValueError:
        logging.getLogger("mlflow").exception("failed %s", "here")
    ours, theirs, failed = lines()
    assert list(ours) == ["time", "level", "event", "part", "version"]
    assert (ours["event"], ours["part"], ours["version"]) == ("in service", "versions", 3)
    assert (theirs["level"], theirs["part"]) == ("error", "uvicorn.error")
    assert theirs["event"] == "Exception in ASGI application\nsecond"
    assert failed["event"] == "failed here" and "ValueError: odd" in failed["exception"]


def test_configured_twice_each_event_is_still_one_line(own_logging: None, lines: Lines) -> None:
    for _ in range(3):
        configure_logging("info", "json")
        configure_library_logging("info", "json")
    lines()
    logging.getLogger("uvicorn.error").warning("once")
    get_logger("x").warning("once")
    assert [said["event"] for said in lines()] == ["once", "once"]


def test_the_clock_tells_utc_and_never_goes_back() -> None:
    clock = TimestampFormatter()
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    told = [clock() for _ in range(2000)]
    assert told == sorted(told) and {len(text) for text in told} == {29}
    read = [datetime.fromisoformat(text) for text in told]
    assert before <= read[0] and read[-1] <= datetime.now(UTC)


def test_what_json_has_no_word_for_becomes_text() -> None:
    made = json.loads(json_line({"a": Path("x"), "b": object, "c": float("nan")}))
    assert made["a"] == "x" and "object" in made["b"] and made["c"] == "NaN"


def test_the_form_follows_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in (True, False):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal, raising=False)
        assert uses_json("auto") is not terminal
        assert uses_json("json") and not uses_json("console")
