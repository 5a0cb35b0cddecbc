"""Traces: sent to a small OTLP receiver when asked for, and no trace of them when not."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from rossmann.errors import SettingsError
from rossmann.serving.observability.tracing import (
    span,
    trace_id,
    tracing_enabled,
    with_current_context,
)

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
HERE = "http://127.0.0.1:4318"
pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="rossmann[tracing] is missing")


class Receiver:
    """Keeps the spans that it is sent."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[Any] = []
        self.paths: set[str] = set()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    class Take(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.paths.add(self.path)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    made.spans.extend(scope.spans)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Take)
    made = Receiver(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_request_is_a_trace_with_its_parts(run_door: Any, row: Any, receiver: Receiver) -> None:
    told = {ENDPOINT: receiver.url, "OTEL_EXPORTER_OTLP_COMPRESSION": "none"}
    door = run_door(told, log_format="json")
    caller = "0af7651916cd43dd8448eb211c80319c"
    answer = httpx.post(
        f"{door.url}/predict",
        json={"inputs": [row()]},
        headers={"traceparent": f"00-{caller}-b7ad6b7169203331-01"},
        trust_env=False,
    )
    assert answer.status_code == 200
    said = door.stop()  # sends what waits to be sent
    assert receiver.paths == {"/v1/traces"}  # numbers and logs are not sent: they are ours
    ours = [one for one in receiver.spans if one.trace_id.hex() == caller]
    [request] = [one for one in ours if one.name == "POST /predict"]
    parts = {one.name: one for one in ours if one is not request}
    assert parts.keys() >= {"read", "forecast", "write"}
    for one in parts.values():
        assert one.parent_span_id == request.span_id
        assert request.start_time_unix_nano <= one.start_time_unix_nano
        assert one.end_time_unix_nano <= request.end_time_unix_nano
    lines = [json.loads(line) for line in said.splitlines() if '"event":"request"' in line]
    [line] = [line for line in lines if line["route"] == "/predict"]
    assert line["trace_id"] == caller


def test_nothing_is_imported_or_told_without_the_variables() -> None:
    code = (
        "import sys\n"
        "import rossmann.serving.app, rossmann.serving.observability.tracing as tracing\n"
        "assert not tracing.tracing_enabled({})\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry.exporter')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("environment", "on"),
    [
        ({}, False),
        ({ENDPOINT: ""}, False),
        ({ENDPOINT: HERE}, True),
        ({TRACES: f"{HERE}/v1/traces"}, True),
        ({ENDPOINT: HERE, "OTEL_SDK_DISABLED": "True"}, False),
        ({ENDPOINT: HERE, "OTEL_TRACES_EXPORTER": "none"}, False),
        ({ENDPOINT: HERE, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, True),
    ],
)
def test_the_usual_variables(environment: dict[str, str], on: bool) -> None:
    assert tracing_enabled(environment) is on


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
    ],
)
def test_what_cannot_be_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match="OTEL_"):
        tracing_enabled({ENDPOINT: HERE, name: value})


def test_the_service_refuses_to_start_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rossmann.cli", "serve"],
        env={**os.environ, ENDPOINT: HERE, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: OTEL_EXPORTER_OTLP_PROTOCOL: only http/protobuf" in done.stderr


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rossmann.serving.observability.tracing.find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"pip install rossmann\[tracing\]"):
        tracing_enabled({ENDPOINT: HERE})
    assert not tracing_enabled({})


def test_without_a_trace_a_span_is_nothing() -> None:
    def work(number: int) -> int:
        return number + 1

    assert span("a") is span("b")
    with span("a"):
        assert trace_id() == ""
    assert with_current_context(work) is work
