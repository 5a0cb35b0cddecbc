"""Alerts and dashboard against a real Prometheus that scrapes the real service."""

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.paths import ROOT

FOLDER = ROOT / "deployment" / "prometheus"
GRAFANA = ROOT / "deployment" / "grafana"
PAGE = ROOT / "docs" / "operations" / "runbook.md"
SELECTOR = re.compile(r"\b(?:rossmann_\w+|up)\b(?:\{[^}]*\})?")
needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="prometheus and promtool are not installed (Debian: apt-get install prometheus)",
)


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((GRAFANA / "dashboard.json").read_text())
    return content


def charts() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def fill_variables(expr: str) -> str:
    """A dashboard expression with Grafana's variables replaced."""
    return expr.replace("$__rate_interval", "1m").replace("$instance", ".*")


def dashboard_expressions() -> list[str]:
    expressions = [target["expr"] for panel in charts() for target in panel["targets"]]
    expressions += [annotation["expr"] for annotation in dashboard()["annotations"]["list"]]
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            inner = re.fullmatch(r"label_values\((.*), \w+\)", variable["query"]["query"])
            assert inner is not None
            expressions.append(inner[1])
    return [fill_variables(expr) for expr in expressions]


def all_expressions() -> list[str]:
    return [rule["expr"] for rule in alerts()] + dashboard_expressions()


def promtool(*arguments: str) -> str:
    result = subprocess.run(
        ["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@needs_prometheus
def test_promtool_accepts_config_and_rules() -> None:
    assert f"{len(alerts())} rules found" in promtool("check", "config", "prometheus.yml")
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")


def test_each_alert_has_a_firing_and_a_silent_test_case() -> None:
    tests = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    names = {rule["alert"] for rule in alerts()}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == names
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == names


def test_each_alert_links_to_an_existing_runbook_section() -> None:
    headings = re.findall(r"^#+ (.+)$", PAGE.read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in headings}
    for rule in alerts():
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert ROOT / page == PAGE and anchor in anchors, rule["alert"]
        assert rule["labels"]["severity"] in {"warning", "critical"}


def test_dashboard_panels_are_complete_and_do_not_overlap() -> None:
    panels = charts()
    assert len(panels) > 15
    numbers = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(numbers)) == len(numbers)
    occupied = set()
    for panel in panels:
        assert panel["title"] and panel["targets"]
        position = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(position["x"], position["x"] + position["w"])
            for y in range(position["y"], position["y"] + position["h"])
        }
        assert position["x"] + position["w"] <= 24 and not cells & occupied, panel["title"]
        occupied |= cells
    for path in GRAFANA.glob("provisioning/*/*.yml"):
        assert yaml.safe_load(path.read_text())["apiVersion"] == 1


def test_every_metric_is_used_by_alerts_or_dashboard(exported_metrics: set[str]) -> None:
    shown = {
        name.partition("{")[0] for expr in all_expressions() for name in SELECTOR.findall(expr)
    }
    endings = ("_bucket", "_sum", "_count")
    used = {name.removesuffix(next((e for e in endings if name.endswith(e)), "")) for name in shown}
    assert exported_metrics - used == set()


@pytest.fixture
def exported_metrics(service: Any) -> set[str]:
    """Names of all metrics that a scrape returns."""
    from rossmann.serving.observability.gauges import StateCollector
    from rossmann.serving.observability.metrics import Metrics

    text = StateCollector(Metrics(), service).render().decode()
    return set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[[str], httpx.Client]]:
    """Starts Prometheus with the project's configuration and another target; returns a client."""
    started: list[subprocess.Popen[bytes]] = []
    clients: list[httpx.Client] = []

    def start(target: str) -> httpx.Client:
        config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
        config["rule_files"] = [str(FOLDER / name) for name in config["rule_files"]]
        [job] = config["scrape_configs"]
        job["static_configs"] = [{"targets": [target]}]
        path = tmp_path / "prometheus.yml"
        path.write_text(yaml.safe_dump(config))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [
            "prometheus",
            f"--config.file={path}",
            f"--web.listen-address=127.0.0.1:{port}",
            f"--storage.tsdb.path={tmp_path / 'tsdb'}",
        ]
        with (tmp_path / "prometheus.log").open("wb") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))
        clients.append(
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False)
        )
        return clients[-1]

    yield start
    for client in clients:
        client.close()
    for process in started:
        process.terminate()
        process.wait(30)


def query(client: httpx.Client, expr: str) -> list[Any]:
    response = client.get("/api/v1/query", params={"query": expr})
    if response.status_code == 503:
        response.raise_for_status()  # Prometheus is still starting
    body = response.json()
    assert body["status"] == "success", (expr, body)
    result: list[Any] = body["data"]["result"]
    return result


def wait_until(condition: Callable[[], bool], failure: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            if condition():
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline, failure
        time.sleep(0.1)


@needs_prometheus
def test_prometheus_has_data_for_every_alert_and_dashboard_expression(
    run_service: Any, row: Any, prometheus: Callable[[str], httpx.Client]
) -> None:
    service = run_service(workers=2)
    requests = 20
    for number in range(requests):
        # The last row is beyond the horizon, for a warning.
        body = {"inputs": [row(60 if number == requests - 1 else 1)]}
        response = httpx.post(f"{service.url}/predict", json=body, timeout=30, trust_env=False)
        assert response.status_code == 200
    client = prometheus(service.url.removeprefix("http://"))
    wait_until(lambda: query(client, 'up{job="rossmann"} == 1') != [], "the service is not scraped")
    for expr in all_expressions():
        query(client, expr)  # it can be evaluated
        for selector in SELECTOR.findall(expr):
            # Series with code 5xx exist only after a failed request.
            exported = selector.replace(',code=~"5.."', "")
            assert query(client, exported), f"no data for {exported}"
    counted = 'sum(rossmann_http_requests_total{route="/predict",code="200"})'
    assert [float(sample["value"][1]) for sample in query(client, counted)] == [requests]
    wait_until(lambda: rule_states(client) == {"ok"}, "the rules were not evaluated")


def rule_states(client: httpx.Client) -> set[str]:
    groups = client.get("/api/v1/rules").json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len(alerts())
    return {rule["health"] for rule in rules}
