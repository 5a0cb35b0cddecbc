"""Access log: one record for each request, without secrets, without blocking requests."""

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
from rossmann.serving.observability import access_log
from rossmann.serving.observability.access_log import AccessLog, RequestRecord, open_access_log

Lines = Callable[..., list[dict[str, Any]]]
NAMES = [
    *("time", "level", "event", "request_id", "method", "route", "path", "code", "ms", "rows"),
    *("model_version", "caller", "bytes"),
]


@pytest.fixture
def read_log(capsys: pytest.CaptureFixture[str]) -> Lines:
    """Reads the log records that were written since the last call."""

    def read() -> list[dict[str, Any]]:
        return [json.loads(line) for line in capsys.readouterr().err.splitlines()]

    return read


@pytest.fixture
def isolated_logging() -> Iterator[None]:
    """Resets library loggers as in a new process, and restores the logging configuration.

    Other tests import MLflow or start uvicorn, which add handlers to their loggers.
    """
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    libraries = [logging.getLogger(name) for name in ("mlflow", "uvicorn", "uvicorn.error")]
    saved = [(x, list(x.handlers), x.propagate, x.level) for x in libraries]
    for logger in libraries:
        logger.handlers[:], logger.propagate, logger.level = [], True, logging.NOTSET
    root.manager._clear_cache()  # type: ignore[attr-defined]
    yield
    for logger, saved_handlers, propagate, saved_level in saved:
        logger.handlers[:], logger.propagate = saved_handlers, propagate
        logger.level = saved_level
    root.handlers[:], root.level = handlers, level
    root.manager._clear_cache()  # type: ignore[attr-defined]
    logging.captureWarnings(False)
    configure_logging()


def make_record(**changes: Any) -> RequestRecord:
    record = RequestRecord("id-1", "POST", "/predict")
    for name, value in changes.items():
        setattr(record, name, value)
    return record


def render(record: RequestRecord, **options: Any) -> str:
    stream = io.StringIO()
    log = open_access_log("info", options.pop("log_format", "json"), stream=stream, **options)
    assert log is not None
    log.write(record)
    return stream.getvalue()


def test_one_log_record_for_each_request(
    make_app: Callable[..., FastAPI], row: Any, read_log: Lines
) -> None:
    with TestClient(make_app(log_format="json")) as api:
        read_log()
        response = api.post("/predict", json={"inputs": [row(), row(2)]})
        rejected = api.post(
            "/predict", json={"inputs": [row(Store=0)]}, headers={"X-Request-ID": "a.1"}
        )
        api.get("/stores/1/plan?days=3")
        api.get("/nowhere")
    good, bad, plan, unknown = read_log()
    assert list(good) == NAMES
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", good["time"])
    assert good["request_id"] == response.json()["request_id"]
    assert (good["method"], good["route"], good["path"]) == ("POST", "/predict", "/predict")
    assert (good["code"], good["rows"], good["model_version"]) == (200, 2, 1)
    assert good["bytes"] == len(response.content) and 0 < good["ms"] < 60_000
    assert (bad["request_id"], bad["code"]) == ("a.1", 422)
    assert bad["bytes"] == len(rejected.content)
    assert plan["route"] == "/stores/{store}/plan" and plan["path"] == "/stores/1/plan"
    assert (unknown["route"], unknown["path"], unknown["code"]) == (None, "/nowhere", 404)


def test_internal_error_is_logged_with_its_request_id(
    make_app: Callable[..., FastAPI],
    service: Any,
    isolated_logging: None,
    row: Any,
    read_log: Lines,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("odd")

    configure_logging("info", "json")
    monkeypatch.setattr(type(service.versions), "get_loaded", broken)
    app = make_app(log_format="json")
    with TestClient(app, raise_server_exceptions=False) as api:
        read_log()
        response = api.post("/predict", json={"inputs": [row()]})
    request_id = response.headers["X-Request-ID"]
    assert response.status_code == 500 and response.json()["request_id"] == request_id
    events = {r["event"]: r for r in read_log() if r["request_id"] == request_id}
    assert {event: r["level"] for event, r in events.items()} == {
        "request": "error",
        "unexpected error": "error",
    }
    assert "ZeroDivisionError: odd" in events["unexpected error"]["exception"]


def test_log_contains_no_api_key(
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
    output = capsys.readouterr().err
    assert secret not in output
    first, second, _, wrong = [json.loads(text) for text in output.splitlines() if "route" in text]
    assert first["caller"] == second["caller"] != "anyone"
    assert wrong["caller"] is None and wrong["code"] == 401


@pytest.mark.parametrize(
    "invalid", ["", "x" * 65, "a b", 'a"b', "a\tb", "ä", "a;b", "${jndi:x}", "a\x7fb", "\x1b[31m"]
)
def test_invalid_request_id_is_replaced(
    make_app: Callable[..., FastAPI], read_log: Lines, invalid: str
) -> None:
    with TestClient(make_app(log_format="json")) as api:
        response = api.get("/health/live", headers=[(b"x-request-id", invalid.encode("latin-1"))])
    request_id = response.headers["X-Request-ID"]
    assert re.fullmatch(r"[0-9a-f]{32}", request_id)
    assert read_log()[-1]["request_id"] == request_id


@pytest.mark.parametrize("valid", ["a", "x" * 64, "7f3e-1.B_2"])
def test_valid_request_id_is_kept(
    make_app: Callable[..., FastAPI], read_log: Lines, valid: str
) -> None:
    with TestClient(make_app(log_format="json")) as api:
        assert api.get("/health", headers={"X-Request-ID": valid}).headers["X-Request-ID"] == valid
    assert read_log()[-1]["request_id"] == valid


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("path", ["/a\nb", "/a\r\nINFO forged", "/\x1b[31m", "/\u2028x", "/" * 999])
def test_path_cannot_inject_a_log_line(log_format: str, path: str) -> None:
    output = render(make_record(path=path, code=404), log_format=log_format)
    assert output.endswith("\n") and len(output) < 800
    assert "\x1b" not in output and len(re.split(r"[\r\n]", output)) == 2
    if log_format == "json":
        assert json.loads(output)["path"] == path[:256]


def test_console_format() -> None:
    record = make_record(
        code=200, seconds=0.00123, rows=2, model_version=3, caller="planner", bytes=9
    )
    assert render(record, log_format="console").partition(" ")[2] == (
        "POST /predict 200 1.2 ms rows=2 model_version=3 caller=planner bytes=9 request_id=id-1\n"
    )


class BlockedStream(io.StringIO):
    """A stream whose writes block until ``unblocked`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.unblocked = threading.Event()

    def write(self, text: str) -> int:
        self.unblocked.wait(30)
        return super().write(text)


def test_slow_stream_blocks_no_request_and_loses_no_record() -> None:
    stream = BlockedStream()
    log = AccessLog("json", stream=stream)
    log.start()
    for number in range(500):
        log.write(make_record(rows=number))  # a direct write would block
    assert stream.getvalue() == ""
    stream.unblocked.set()
    log.close()
    assert [json.loads(text)["rows"] for text in stream.getvalue().splitlines()] == [*range(500)]


def test_records_beyond_the_buffer_are_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(access_log, "_MAX_LINES", 100)
    configure_logging("info", "json")
    stream = BlockedStream()
    log = AccessLog("json", stream=stream)
    log.start()
    for number in range(1_000):
        log.write(make_record(rows=number))
    stream.unblocked.set()
    log.close()
    written = stream.getvalue().splitlines()
    assert 100 <= len(written) <= 200  # the buffer, and the batch being written
    (event,) = [json.loads(text) for text in capsys.readouterr().err.splitlines()]
    assert event["lines"] == 1_000 - len(written) and "slow" in event["event"]


def test_5xx_is_logged_as_error() -> None:
    assert json.loads(render(make_record(code=503)))["level"] == "error"
    assert json.loads(render(make_record(code=404)))["level"] == "info"


@pytest.mark.parametrize("level", ["warning", "error"])
def test_access_log_is_off_above_level_info(level: Any) -> None:
    assert open_access_log(level, "json") is None


def test_full_disk_of_the_log_fails_no_request(
    make_app: Callable[..., FastAPI],
    isolated_logging: None,
    row: Any,
    monkeypatch: pytest.MonkeyPatch,
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


def test_product_and_library_events_share_one_json_format(
    isolated_logging: None, read_log: Lines
) -> None:
    configure_logging("info", "json")
    configure_library_logging("info", "json")
    read_log()
    get_logger("versions").info("in service", version=3)
    get_logger("versions").debug("below the level")
    logging.getLogger("uvicorn.error").error("Exception in ASGI application\nsecond")
    logging.getLogger("uvicorn.error").info("Started server process")
    try:
        raise ValueError("odd")
    except ValueError:
        logging.getLogger("mlflow").exception("failed %s", "here")
    product, library, failure = read_log()
    assert list(product) == ["time", "level", "event", "part", "version"]
    assert (product["event"], product["part"], product["version"]) == ("in service", "versions", 3)
    assert (library["level"], library["part"]) == ("error", "uvicorn.error")
    assert library["event"] == "Exception in ASGI application\nsecond"
    assert failure["event"] == "failed here" and "ValueError: odd" in failure["exception"]


def test_repeated_configuration_does_not_duplicate_events(
    isolated_logging: None, read_log: Lines
) -> None:
    for _ in range(3):
        configure_logging("info", "json")
        configure_library_logging("info", "json")
    read_log()
    logging.getLogger("uvicorn.error").warning("once")
    get_logger("x").warning("once")
    assert [event["event"] for event in read_log()] == ["once", "once"]


def test_timestamps_are_utc_and_monotonic() -> None:
    clock = TimestampFormatter()
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    texts = [clock() for _ in range(2000)]
    assert texts == sorted(texts) and {len(text) for text in texts} == {29}
    times = [datetime.fromisoformat(text) for text in texts]
    assert before <= times[0] and times[-1] <= datetime.now(UTC)


def test_values_without_json_type_become_strings() -> None:
    record = json.loads(json_line({"a": Path("x"), "b": object, "c": float("nan")}))
    assert record["a"] == "x" and "object" in record["b"] and record["c"] == "NaN"


def test_log_format_auto_depends_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in (True, False):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal, raising=False)
        assert uses_json("auto") is not terminal
        assert uses_json("json") and not uses_json("console")
