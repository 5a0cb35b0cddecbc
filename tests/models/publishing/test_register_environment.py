"""Registration whatever the environment holds: proxies, runs, credentials, private authorities.

Each registration uses both clients of the registry: MLflow's own, and that of ``MlflowRest``.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from rossmann.errors import RossmannError, SettingsError
from rossmann.models.publishing.mlflow_client import EXPERIMENT
from rossmann.models.publishing.register import register
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.models.registry.registry import Registry
from rossmann.settings import load_settings
from tests.fixtures.networks import free_port, mlflow_variables

TOKEN = "a-token"
RunningNginx = Callable[[Path, int, str], AbstractContextManager[None]]
SecureRegistry = Callable[..., AbstractContextManager[str]]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable or file of this machine's user counts."""
    for name in list(os.environ):
        if re.match(r"_?MLFLOW_(TRACKING|RUN|EXPERIMENT|REGISTRY|ACTIVE)|.*_CA_BUNDLE|SSL_", name):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def use_registry(trained: TrainedModel, uri: str, name: str, folder: Path) -> str:
    """Register, promote and download a version; returns its run."""
    environment = dict(os.environ)
    version = register(trained, load_settings(mlflow_tracking_uri=uri), name)
    assert dict(os.environ) == environment
    with Registry(uri, name) as registry:
        registry.promote(version.version, "test", "me")
        copy = registry.fetch(version.version, folder)
    assert (copy / "ensemble.json").is_file()
    return version.run_id


def test_registration_on_this_machine_goes_by_no_proxy(
    trained: TrainedModel, mlflow_server: str, forward_proxy: Any, tmp_path: Path
) -> None:
    use_registry(trained, mlflow_server, "env-proxy", tmp_path)
    assert forward_proxy.requests == []


def test_registration_elsewhere_goes_by_the_proxy(
    trained: TrainedModel,
    mlflow_server: str,
    running_proxy: Callable[[str], AbstractContextManager[Any]],
    running_nginx: RunningNginx,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    port = free_port()
    # nginx sends a Host header that MLflow accepts.
    server = (
        f"server {{ listen 127.0.0.1:{port}; client_max_body_size 0;"
        f" location / {{ proxy_pass {mlflow_server}; }} }}"
    )
    with (
        running_nginx(tmp_path / "nginx", port, server),
        running_proxy(f"127.0.0.1:{port}") as proxy,
    ):
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        use_registry(trained, "http://registry.example:5000", "env-remote", tmp_path)
        requests = "\n".join(proxy.requests)
    assert "runs/create" in requests  # MLflow's client
    assert "registered-models/alias" in requests  # ours


@pytest.mark.parametrize(
    "variables",
    [
        {"MLFLOW_RUN_ID": "0123456789abcdef0123456789abcdef"},
        pytest.param({"MLFLOW_EXPERIMENT_ID": "987654321"}, marks=pytest.mark.nightly),
        pytest.param({"MLFLOW_EXPERIMENT_NAME": "of-another-program"}, marks=pytest.mark.nightly),
        pytest.param(
            {"MLFLOW_EXPERIMENT_ID": "1", "MLFLOW_EXPERIMENT_NAME": "both"},
            marks=pytest.mark.nightly,
        ),
        {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_REGISTRY_URI": "http://127.0.0.1:9"},
        pytest.param(
            {"MLFLOW_WORKSPACE": "of-another-team", "MLFLOW_ACTIVE_MODEL_ID": "m-1"},
            marks=pytest.mark.nightly,
        ),
        {"MLFLOW_ENABLE_ASYNC_LOGGING": "true", "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "true"},
        mlflow_variables(),
    ],
    ids=lambda variables: "+".join(variables) if len(variables) < 3 else "nonsense in all",
)
def test_registration_chooses_its_own_run_and_experiment(
    variables: dict[str, str],
    trained: TrainedModel,
    mlflow_server: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    run_id = use_registry(trained, mlflow_server, "env-run", tmp_path)
    for name in variables:
        monkeypatch.delenv(name)
    client = MlflowClient(mlflow_server, mlflow_server)
    run = client.get_run(run_id)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None and run.info.experiment_id == experiment.experiment_id
    assert run.info.run_id != variables.get("MLFLOW_RUN_ID")
    assert client.get_experiment_by_name("of-another-program") is None


@pytest.fixture
def secure_registry(
    mlflow_server: str, running_nginx: RunningNginx, private_authority: Any, tmp_path: Path
) -> SecureRegistry:
    """Runs the registry behind TLS of a private authority; a fragment of nginx adds a check."""

    @contextmanager
    def run(check: str) -> Iterator[str]:
        port, file = free_port(), private_authority.issue("registry")
        users = tmp_path / "users"
        users.write_text("me:{PLAIN}pass word\n")
        server = f"""server {{
            listen 127.0.0.1:{port} ssl;
            ssl_certificate {file}; ssl_certificate_key {file};
            ssl_client_certificate {private_authority.file};
            client_max_body_size 0;
            {check.replace("USERS", str(users))}
            location / {{ proxy_set_header Authorization ""; proxy_pass {mlflow_server}; }}
        }}"""
        with running_nginx(tmp_path / "nginx", port, server):
            yield f"https://127.0.0.1:{port}"

    return run


BASIC = 'auth_basic "registry"; auth_basic_user_file USERS;'
BEARER = f'if ($http_authorization != "Bearer {TOKEN}") {{ return 401; }}'
CERTIFICATE = "ssl_verify_client on;"
AUTHORITY = {"MLFLOW_TRACKING_SERVER_CERT_PATH": "AUTHORITY"}
USER = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "pass word"}


@pytest.mark.parametrize(
    ("check", "variables"),
    [
        (BASIC, {**AUTHORITY, **USER}),
        pytest.param(
            BASIC,
            {**AUTHORITY, **USER, "MLFLOW_TRACKING_TOKEN": "unused"},
            marks=pytest.mark.nightly,
        ),
        pytest.param(
            BASIC, {"MLFLOW_TRACKING_INSECURE_TLS": "true", **USER}, marks=pytest.mark.nightly
        ),
        (BEARER, {**AUTHORITY, "MLFLOW_TRACKING_TOKEN": TOKEN}),
        (CERTIFICATE, {**AUTHORITY, "MLFLOW_TRACKING_CLIENT_CERT_PATH": "CLIENT"}),
        ("", {"REQUESTS_CA_BUNDLE": "AUTHORITY"}),
        pytest.param("", {"CURL_CA_BUNDLE": "AUTHORITY"}, marks=pytest.mark.nightly),
        pytest.param("", {"SSL_CERT_FILE": "AUTHORITY"}, marks=pytest.mark.nightly),
        ("", {**AUTHORITY, "SSL_CERT_FILE": "CLIENT", "REQUESTS_CA_BUNDLE": "CLIENT"}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else value[:10].strip(),
)
def test_variables_of_mlflow_hold_for_both_clients(
    check: str,
    variables: dict[str, str],
    secure_registry: SecureRegistry,
    trained: TrainedModel,
    private_authority: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    files = {"AUTHORITY": private_authority.file, "CLIENT": private_authority.issue("client")}
    for name, value in variables.items():
        monkeypatch.setenv(name, str(files.get(value, value)))
    with secure_registry(check) as uri:
        use_registry(trained, uri, "env-secure", tmp_path)


@pytest.fixture
def registry_of_users(
    secure_registry: SecureRegistry, private_authority: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The address of a registry that wants a user and a password."""
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(private_authority.file))
    with secure_registry(BASIC) as uri:
        yield uri


def test_credentials_file_of_mlflow_holds_for_both_clients(
    registry_of_users: str, trained: TrainedModel, tmp_path: Path
) -> None:
    lines = ["[mlflow]", *(f"{name.lower()} = {value}" for name, value in USER.items())]
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "credentials").write_text("\n".join(lines))
    use_registry(trained, registry_of_users, "env-file", tmp_path)


def test_credentials_in_the_address_hold_and_are_not_shown(
    registry_of_users: str, trained: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "unused")
    lines: list[str] = []
    address = registry_of_users.replace("https://", "https://me:pass%20word@")
    register(trained, load_settings(mlflow_tracking_uri=address), "env-url", lines.append)
    assert lines and "pass" not in "".join(lines)


def test_certificate_variables_do_not_matter_for_plain_http(
    trained: TrainedModel, mlflow_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("SERVER_CERT_PATH", "CLIENT_CERT_PATH"):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", "/nowhere/x.pem")
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, "/nowhere/x.pem")
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
    use_registry(trained, mlflow_server, "env-plain", tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MLFLOW_TRACKING_TOKEN", "secret\nof two lines"),
        ("MLFLOW_TRACKING_TOKEN", "secret\u2026"),
        ("MLFLOW_TRACKING_AUTH", "plugin"),
        ("MLFLOW_TRACKING_AWS_SIGV4", "true"),
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", "soon"),
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "-1"),
    ],
)
def test_variable_that_would_end_a_registration_is_refused_before_the_work(
    name: str, value: str, mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name) as caught:
        Registry(mlflow_server)
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("check", "variables", "words"),
    [
        (BASIC, AUTHORITY, ["401", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN"]),
        (BASIC, {**AUTHORITY, **USER, "MLFLOW_TRACKING_PASSWORD": "no"}, ["401", "PASSWORD"]),
        pytest.param(
            BASIC,
            USER,
            ["certificate", "MLFLOW_TRACKING_SERVER_CERT_PATH"],
            marks=pytest.mark.nightly,
        ),
        (
            "",
            {"MLFLOW_TRACKING_SERVER_CERT_PATH": "/nowhere/x.pem"},
            ["SERVER_CERT_PATH", "/nowhere"],
        ),
        ("", {"SSL_CERT_FILE": "/nowhere/x.pem"}, ["SSL_CERT_FILE names /nowhere"]),
        (
            "",
            {**AUTHORITY, "MLFLOW_TRACKING_CLIENT_CERT_PATH": "AUTHORITY"},
            ["CLIENT_CERT", "PEM"],
        ),
        ("", {**AUTHORITY, "MLFLOW_TRACKING_INSECURE_TLS": "true"}, ["exclude each other"]),
        ("", {"MLFLOW_TRACKING_INSECURE_TLS": "perhaps"}, ["INSECURE_TLS must be true or false"]),
    ],
)
def test_wrong_variable_is_one_line_that_names_it(
    check: str,
    variables: dict[str, str],
    words: list[str],
    secure_registry: SecureRegistry,
    private_authority: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value.replace("AUTHORITY", str(private_authority.file)))
    with secure_registry(check) as uri, pytest.raises(RossmannError) as caught:
        Registry(uri).ping()
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and "rossmann mlflow" not in message
