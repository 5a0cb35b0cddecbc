"""Alerts and dashboard against the real Prometheus, which scrapes the real service."""

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
PAGE = ROOT / "docs" / "serving" / "observability.md"
SELECTOR = re.compile(r"\b(?:rossmann_\w+|up)\b(?:\{[^}]*\})?")
needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="prometheus and promtool are not installed (Debian: apt-get install prometheus)",
)


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    told: dict[str, Any] = json.loads((GRAFANA / "dashboard.json").read_text())
    return told


def charts() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def filled_in(expr: str) -> str:
    """An expression of the dashboard as Grafana sends it."""
    return expr.replace("$__rate_interval", "1m").replace("$instance", ".*")


def dashboard_exprs() -> list[str]:
    found = [target["expr"] for panel in charts() for target in panel["targets"]]
    found += [note["expr"] for note in dashboard()["annotations"]["list"]]
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            inner = re.fullmatch(r"label_values\((.*), \w+\)", variable["query"]["query"])
            assert inner is not None
            found.append(inner[1])
    return [filled_in(expr) for expr in found]


def exprs() -> list[str]:
    return [rule["expr"] for rule in alerts()] + dashboard_exprs()


def promtool(*arguments: str) -> str:
    done = subprocess.run(
        ["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_prometheus
def test_promtool_finds_nothing_wrong() -> None:
    assert f"{len(alerts())} rules found" in promtool("check", "config", "prometheus.yml")
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")


def test_each_alert_is_seen_to_fire_and_to_keep_quiet() -> None:
    tests = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    names = {rule["alert"] for rule in alerts()}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == names
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == names


def test_each_alert_names_a_chapter_that_is_there() -> None:
    headings = re.findall(r"^#+ (.+)$", PAGE.read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in headings}
    for rule in alerts():
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert ROOT / page == PAGE and anchor in anchors, rule["alert"]
        assert rule["labels"]["severity"] in {"warning", "critical"}


def test_the_dashboard_is_whole() -> None:
    panels = charts()
    assert len(panels) > 15
    numbers = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(numbers)) == len(numbers)
    places = set()
    for panel in panels:
        assert panel["title"] and panel["targets"]
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24 and not cells & places, panel["title"]
        places |= cells
    for path in GRAFANA.glob("provisioning/*/*.yml"):
        assert yaml.safe_load(path.read_text())["apiVersion"] == 1


def test_every_metric_is_on_the_dashboard(run_page: set[str]) -> None:
    shown = {name.partition("{")[0] for expr in exprs() for name in SELECTOR.findall(expr)}
    endings = ("_bucket", "_sum", "_count")
    told = {name.removesuffix(next((e for e in endings if name.endswith(e)), "")) for name in shown}
    assert run_page - told == set()


@pytest.fixture
def run_page(service: Any) -> set[str]:
    """Names of all metrics, as told by a page."""
    from rossmann.serving.observability.gauges import StateCollector
    from rossmann.serving.observability.metrics import Metrics

    text = StateCollector(Metrics(), service).render().decode()
    return set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[[str], httpx.Client]]:
    """Starts the real one with our configuration, at another target; gives a client of it."""
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


def ask(client: httpx.Client, expr: str) -> list[Any]:
    answer = client.get("/api/v1/query", params={"query": expr})
    if answer.status_code == 503:
        answer.raise_for_status()  # it is still starting
    told = answer.json()
    assert told["status"] == "success", (expr, told)
    result: list[Any] = told["data"]["result"]
    return result


def wait_until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            if true():
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


@needs_prometheus
def test_prometheus_finds_all_that_alerts_and_dashboard_use(
    run_door: Any, row: Any, prometheus: Callable[[str], httpx.Client]
) -> None:
    door = run_door(workers=2)
    played = 20
    for number in range(played):
        # The last lies so far ahead that it comes with a warning.
        body = {"inputs": [row(60 if number == played - 1 else 1)]}
        answer = httpx.post(f"{door.url}/predict", json=body, timeout=30, trust_env=False)
        assert answer.status_code == 200
    client = prometheus(door.url.removeprefix("http://"))
    wait_until(lambda: ask(client, 'up{job="rossmann"} == 1') != [], "the service is not scraped")
    for expr in exprs():
        ask(client, expr)  # it parses, and can be evaluated
        for selector in SELECTOR.findall(expr):
            # No request failed: such series come with the first that does.
            there = selector.replace(',code=~"5.."', "")
            assert ask(client, there), f"nothing is told as {there}"
    counted = 'sum(rossmann_http_requests_total{route="/predict",code="200"})'
    assert [float(one["value"][1]) for one in ask(client, counted)] == [played]
    wait_until(lambda: judged(client) == {"ok"}, "the rules were not evaluated")


def judged(client: httpx.Client) -> set[str]:
    groups = client.get("/api/v1/rules").json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len(alerts())
    return {rule["health"] for rule in rules}
