"""Tracing: spans sent to an OTLP receiver when enabled, nothing imported when disabled."""

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
LOCAL_URL = "http://127.0.0.1:4318"
pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="rossmann[tracing] is missing")


class Receiver:
    """An OTLP receiver that stores the spans it receives."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[Any] = []
        self.paths: set[str] = set()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            instance.paths.add(self.path)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    instance.spans.extend(scope.spans)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    instance = Receiver(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield instance
    server.shutdown()
    thread.join()
    server.server_close()


def test_request_exports_a_trace_with_child_spans(
    run_service: Any, row: Any, receiver: Receiver
) -> None:
    environment = {ENDPOINT: receiver.url, "OTEL_EXPORTER_OTLP_COMPRESSION": "none"}
    service = run_service(environment, log_format="json")
    caller_trace_id = "0af7651916cd43dd8448eb211c80319c"
    response = httpx.post(
        f"{service.url}/predict",
        json={"inputs": [row()]},
        headers={"traceparent": f"00-{caller_trace_id}-b7ad6b7169203331-01"},
        trust_env=False,
    )
    assert response.status_code == 200
    log = service.stop()  # flushes the spans
    assert receiver.paths == {"/v1/traces"}  # neither metrics nor logs are exported
    spans = [item for item in receiver.spans if item.trace_id.hex() == caller_trace_id]
    [root] = [item for item in spans if item.name == "POST /predict"]
    child_spans = {item.name: item for item in spans if item is not root}
    assert child_spans.keys() >= {"read", "forecast", "write"}
    for item in child_spans.values():
        assert item.parent_span_id == root.span_id
        assert root.start_time_unix_nano <= item.start_time_unix_nano
        assert item.end_time_unix_nano <= root.end_time_unix_nano
    records = [json.loads(text) for text in log.splitlines() if '"event":"request"' in text]
    [record] = [record for record in records if record["route"] == "/predict"]
    assert record["trace_id"] == caller_trace_id


def test_exporter_is_not_imported_without_the_variables() -> None:
    code = (
        "import sys\n"
        "import rossmann.serving.app, rossmann.serving.observability.tracing as tracing\n"
        "assert not tracing.tracing_enabled({})\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry.exporter')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("environment", "enabled"),
    [
        ({}, False),
        ({ENDPOINT: ""}, False),
        ({ENDPOINT: LOCAL_URL}, True),
        ({TRACES: f"{LOCAL_URL}/v1/traces"}, True),
        ({ENDPOINT: LOCAL_URL, "OTEL_SDK_DISABLED": "True"}, False),
        ({ENDPOINT: LOCAL_URL, "OTEL_TRACES_EXPORTER": "none"}, False),
        ({ENDPOINT: LOCAL_URL, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, True),
    ],
)
def test_otel_variables_enable_tracing(environment: dict[str, str], enabled: bool) -> None:
    assert tracing_enabled(environment) is enabled


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
    ],
)
def test_unsupported_otel_value_is_rejected(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match="OTEL_"):
        tracing_enabled({ENDPOINT: LOCAL_URL, name: value})


def test_service_does_not_start_with_an_unsupported_protocol() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "rossmann.cli", "serve"],
        env={**os.environ, ENDPOINT: LOCAL_URL, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "error: OTEL_EXPORTER_OTLP_PROTOCOL: only http/protobuf" in result.stderr


def test_missing_extra_is_named_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rossmann.serving.observability.tracing.find_spec", lambda _: None)
    with pytest.raises(
        SettingsError, match=r"pip install .*opentelemetry-exporter-otlp-proto-http"
    ):
        tracing_enabled({ENDPOINT: LOCAL_URL})
    assert not tracing_enabled({})


def test_span_without_tracing_is_a_no_op() -> None:
    def function(number: int) -> int:
        return number + 1

    assert span("a") is span("b")
    with span("a"):
        assert trace_id() == ""
    assert with_current_context(function) is function
