"""``deployment/compose.yaml``: its form by the specification's schema, and what it promises."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from rossmann.serving.server import server_config
from rossmann.settings import load_settings
from tests.e2e.compose_file import (
    EXAMPLE,
    FILE,
    FOLDER,
    VARIABLE,
    compose_file,
    example_variables,
    mounts,
    start_order,
)
from tests.paths import ROOT

SCHEMA = Path(__file__).with_name("schemas") / "compose-spec.json"
CONTENT = compose_file()
SERVICES: dict[str, Any] = CONTENT["services"]
OWN = [name for name, one in SERVICES.items() if "build" in one]
ENDING = {"prepare", "retrain"}
RUNNING = sorted(set(SERVICES) - ENDING)
PAGE = (ROOT / "docs" / "deployment" / "compose.md").read_text("utf-8")
BYTES = {"m": 2**20, "g": 2**30}


def errors(content: dict[str, Any]) -> list[str]:
    schema = json.loads(SCHEMA.read_text("utf-8"))
    return [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(content)]


def test_the_file_fits_the_compose_specification() -> None:
    assert errors(CONTENT) == []
    wrong = json.loads(json.dumps(CONTENT))
    wrong["services"]["api"]["restrat"] = "always"
    wrong["services"]["api"]["depends_on"]["prepare"]["condition"] = "done"
    assert len(errors(wrong)) == 2


def test_it_holds_with_other_values_of_all_variables() -> None:
    variables = dict.fromkeys(example_variables(), "1g") | {"ROSSMANN_NETWORK": "10.9.8"}
    content = compose_file(variables)
    assert errors(content) == []
    edge = content["networks"]["edge"]["ipam"]["config"][0]
    address = content["services"]["nginx"]["networks"]["edge"]["ipv4_address"]
    assert edge["subnet"] == "10.9.8.0/24" and address == "10.9.8.250"
    assert content["services"]["api"]["environment"]["ROSSMANN_TRUSTED_PROXIES"] == address
    assert edge["ip_range"] == "10.9.8.0/25", "no other container may get nginx's address"


def test_only_nginx_has_ports_on_the_host() -> None:
    assert [name for name, one in SERVICES.items() if "ports" in one] == ["nginx"]
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["nginx"]["ports"])
    assert not any(
        {"network_mode", "privileged", "cap_add", "devices", "pid"} & set(one)
        for one in SERVICES.values()
    )


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_hardened_and_limited(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"].partition(":")[0] not in {"0", "root"}
    assert service["mem_limit"] and 0 < service["pids_limit"] <= 1024
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert service["restart"] == ("no" if name in ENDING else "unless-stopped")
    writable = [target for _, target, read_only in mounts(service) if not read_only]
    sources = {source for source, _, read_only in mounts(service) if not read_only}
    assert len(writable) <= 1 and sources <= set(CONTENT["volumes"]), "writes go to volumes only"


@pytest.mark.parametrize("name", RUNNING)
def test_services_that_run_say_when_they_are_healthy(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] == "CMD" and len(check["test"]) > 2
    assert check["retries"] >= 3 and check["interval"] and check["start_period"]


def test_the_order_has_no_circle_and_waits_for_health() -> None:
    order = start_order(SERVICES)
    assert order.index("database") < order.index("mlflow") < order.index("prepare")
    assert order.index("prepare") < order.index("api") < order.index("dashboard")
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            expected = "completed_successfully" if other in ENDING else "healthy"
            assert how["condition"] == f"service_{expected}", (name, other)
    waited = {other for one in SERVICES.values() for other in one.get("depends_on", {})}
    assert "prepare" in waited, "else up --wait takes its end for a failure"


def test_variables_are_those_of_the_example_with_the_same_defaults() -> None:
    used = VARIABLE.findall(FILE.read_text("utf-8"))
    assert {name for name, _ in used} == set(example_variables())
    assert dict(used) == example_variables()
    assert all((name, example_variables()[name]) in used for name, _ in used)
    lines = EXAMPLE.read_text("utf-8").splitlines()
    for number, line in enumerate(lines):
        if line and not line.startswith("#"):
            assert lines[number - 1].startswith("# "), f"{line} has no comment"


def test_settings_are_settings_of_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each own service starts with this environment: a misspelt name is an error."""
    for name in OWN:
        with monkeypatch.context() as patch:
            for key, value in SERVICES[name]["environment"].items():
                if key.startswith("ROSSMANN_") and key != "ROSSMANN_SECRETS_DIR":
                    patch.setenv(key, str(value))
                    assert key.removeprefix("ROSSMANN_").lower() in load_settings().model_dump()
            settings = load_settings()
        assert settings.host == "0.0.0.0" and {"localhost", name} - settings.known_hosts <= ENDING


def test_secrets_are_files_that_git_leaves_out() -> None:
    names = {name for one in SERVICES.values() for name in one.get("secrets", [])}
    assert names == set(CONTENT["secrets"])
    for secret in CONTENT["secrets"].values():
        assert set(secret) == {"file"} and secret["file"].startswith("./secrets/")
    files = [FOLDER / "secrets" / "any", FOLDER / ".env", FOLDER / "tables" / "train.csv"]
    for file in files:
        done = subprocess.run(["git", "check-ignore", "-q", str(file)], cwd=ROOT, check=False)
        assert done.returncode == 0, file
    words = re.compile(r"password|secret|key(?!s?_FILE)", re.IGNORECASE)
    for one in SERVICES.values():
        for name, value in one.get("environment", {}).items():
            if words.search(name):
                assert str(value).startswith("/run/secrets"), name


def test_images_are_pinned_and_own_ones_are_built() -> None:
    for name, service in SERVICES.items():
        repository, _, tag = service["image"].rpartition(":")
        assert repository and re.fullmatch(r"v?[0-9]+(\.[0-9]+)+(-alpine)?|17-alpine", tag), name
        if name in OWN:
            assert repository == "rossmann-forecasting"
            assert service["build"]["dockerfile"] == "deployment/docker/Dockerfile"


def test_networks_keep_the_database_from_the_pages() -> None:
    def members(network: str) -> set[str]:
        return {name for name, one in SERVICES.items() if network in one["networks"]}

    assert CONTENT["networks"]["internal"]["internal"] is True
    assert members("internal") == {"database", "mlflow", "prepare", "retrain", "api"}
    assert members("edge") == set(SERVICES) - members("internal") | {"api"}


def test_a_stop_waits_longer_than_the_service_for_its_requests() -> None:
    graceful = server_config("app", load_settings()).timeout_graceful_shutdown
    assert graceful is not None
    assert int(SERVICES["api"]["stop_grace_period"].removesuffix("s")) > 2 * graceful


def test_the_page_has_all_services_and_their_limits() -> None:
    for name, service in SERVICES.items():
        memory = int(service["mem_limit"][:-1]) * BYTES[service["mem_limit"][-1]]
        shown = f"{memory >> 30} GB" if memory >= 2**30 else f"{memory >> 20} MB"
        line = rf"^\| `{name}` \|.*\| {shown} \| {service['pids_limit']} \|$"
        assert re.search(line, PAGE, re.MULTILINE), name


def test_grafana_finds_its_source_and_its_dashboards() -> None:
    service = SERVICES["grafana"]
    environment = service["environment"]
    [(source, target, _)] = [one for one in mounts(service) if one[0].startswith("./")]
    folder = FOLDER / source
    for name in ("GF_PATHS_PROVISIONING", "ROSSMANN_DASHBOARDS"):
        assert (folder / Path(environment[name]).relative_to(target)).is_dir(), name
    used = "".join(path.read_text("utf-8") for path in folder.glob("provisioning/*/*.yml"))
    assert set(re.findall(r"\$\{(\w+)\}", used)) <= set(environment)
    assert environment["PROMETHEUS_URL"].split("/")[2].partition(":")[0] in SERVICES
    assert set(service["networks"]) & set(SERVICES["prometheus"]["networks"])
    root = environment["GF_SERVER_ROOT_URL"].split("/", 3)[3]
    assert service["healthcheck"]["test"][-1].split("/", 3)[3].startswith(root)


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_prometheus_accepts_its_configuration() -> None:
    folder = FOLDER / "prometheus"
    done = subprocess.run(
        ["promtool", "check", "config", "prometheus_compose.yml"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "rules found" in done.stdout, done.stdout + done.stderr
