"""MLflow's environment variables: one meaning for both clients of the registry.

``MlflowRest`` takes credentials and TLS from here. For calls of MLflow's own client,
``mlflow_environment`` sets variables so that it takes the same proxy and the same authorities, and
removes those that would lead a registration into another run, experiment or registry.
"""

import configparser
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import httpx

from rossmann.addresses import (
    AUTHORITY_VARIABLES,
    certificate_error,
    exempt_from_proxies,
    find_proxy,
    open_transport,
    tls_context,
)
from rossmann.errors import SettingsError

_USERNAME: Final = "MLFLOW_TRACKING_USERNAME"
_PASSWORD: Final = "MLFLOW_TRACKING_PASSWORD"
_TOKEN: Final = "MLFLOW_TRACKING_TOKEN"
_INSECURE: Final = "MLFLOW_TRACKING_INSECURE_TLS"
_AUTHORITIES: Final = "MLFLOW_TRACKING_SERVER_CERT_PATH"
_CLIENT_CERTIFICATE: Final = "MLFLOW_TRACKING_CLIENT_CERT_PATH"
CREDENTIALS_HINT: Final = f"set {_USERNAME} and {_PASSWORD}, or {_TOKEN}"
AUTHORITIES_HINT: Final = (
    f"where its certificate is signed by an authority of your own, set {_AUTHORITIES} to that"
    " authority's file"
)
_AUTHORITY_VARIABLES: Final = (
    *(_AUTHORITIES, "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *AUTHORITY_VARIABLES,
)
"""The first that is set counts: MLflow's own, then those of requests, then those of httpx."""
_IGNORED: Final = (
    *("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"),
    *("MLFLOW_REGISTRY_URI", "MLFLOW_WORKSPACE"),
    *("MLFLOW_ACTIVE_MODEL_ID", "_MLFLOW_ACTIVE_MODEL_ID"),
)
"""They choose a run, an experiment or a registry, which a registration chooses itself."""


def registry_transport(url: httpx.URL) -> httpx.HTTPTransport:
    """A transport with the environment's proxy, authorities and client certificate.

    Raises ``SettingsError`` for a variable that cannot be used.
    """
    return open_transport(url, _tls_context() if url.scheme == "https" else False)


def registry_auth(url: httpx.URL) -> httpx.Auth | None:
    """Credentials as MLflow's client finds them; None where the URL holds its own, or none exist.

    A user with a password goes before a token, and the environment before the file
    ``~/.mlflow/credentials``.
    """
    if url.userinfo:
        return None
    saved = _saved_credentials()
    username = os.environ.get(_USERNAME) or saved.get(_USERNAME.lower())
    password = os.environ.get(_PASSWORD) or saved.get(_PASSWORD.lower())
    if username and password:
        return httpx.BasicAuth(username, password)
    token = os.environ.get(_TOKEN)
    return _BearerAuth(token) if token else None


class _BearerAuth(httpx.Auth):
    def __init__(self, token: str) -> None:
        self._header = f"Bearer {token}"

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        request.headers["Authorization"] = self._header
        yield request


def _saved_credentials() -> dict[str, str]:
    parser = configparser.ConfigParser()
    with suppress(configparser.Error, OSError, RuntimeError):
        parser.read(Path("~/.mlflow/credentials").expanduser(), encoding="utf-8")
    return dict(parser["mlflow"]) if parser.has_section("mlflow") else {}


def _tls_context() -> ssl.SSLContext | bool:
    """How the server's certificate is checked; False: not at all."""
    if _is_insecure():
        if os.environ.get(_AUTHORITIES):
            raise SettingsError(f"{_INSECURE} and {_AUTHORITIES} exclude each other: unset one")
        context = httpx.create_ssl_context(verify=False)
    else:
        context = tls_context(_AUTHORITY_VARIABLES)
    certificate = os.environ.get(_CLIENT_CERTIFICATE)
    if certificate:
        try:
            context.load_cert_chain(certificate)
        except OSError as error:
            raise certificate_error(_CLIENT_CERTIFICATE, certificate, error) from error
    return context


def _is_insecure() -> bool:
    value = os.environ.get(_INSECURE, "").lower()
    if value not in {"", "true", "1", "false", "0"}:
        raise SettingsError(f"{_INSECURE} must be true or false, got {value[:40]!r}")
    return value in {"true", "1"}


def _authorities() -> tuple[str, str]:
    """The variable that names trusted authorities, and its value; both empty where none does."""
    variable = next((name for name in _AUTHORITY_VARIABLES if os.environ.get(name)), "")
    return variable, os.environ.get(variable, "")


@contextmanager
def mlflow_environment(tracking_uri: str) -> Iterator[None]:
    """Inside the block, MLflow's own client reaches the server as ``MlflowRest`` does.

    It changes this process's environment, and restores it afterwards.
    """
    previous = {name: os.environ.get(name) for name in (*_IGNORED, "NO_PROXY", "no_proxy")}
    variable, path = _authorities()
    if variable.startswith("SSL_CERT_") and not _is_insecure():
        previous[_AUTHORITIES] = None
        os.environ[_AUTHORITIES] = path
    for name in _IGNORED:
        os.environ.pop(name, None)
    url = httpx.URL(tracking_uri)
    if url.host and find_proxy(url) is None:
        exempt_from_proxies(url.host)
    try:
        yield
    finally:
        for name, value in previous.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
