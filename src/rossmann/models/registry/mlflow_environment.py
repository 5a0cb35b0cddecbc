"""MLflow's environment variables: one meaning for both clients of the registry.

``MlflowRest`` takes credentials and TLS from here. For calls of MLflow's own client,
``mlflow_environment`` sets variables so that it takes the same proxy and the same authorities, and
removes those that would lead a registration into another run, experiment or registry.
"""

import configparser
import os
import re
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
_TLS: Final = (_AUTHORITIES, _INSECURE, _CLIENT_CERTIFICATE)
_UNSUPPORTED: Final = ("MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4")
"""Credentials by plugins, which only MLflow's own client could send."""
_AUTHORITY_VARIABLES: Final = (
    *(_AUTHORITIES, "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *AUTHORITY_VARIABLES,
)
"""The first that is set counts: MLflow's own, then those of requests, then those of httpx."""
_NUMBERS: Final = ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT")
_KEPT: Final = re.compile(
    r"MLFLOW_(TRACKING_(USERNAME|PASSWORD)|TRACKING_TOKEN|(S3|GCS|BOTO|KERBEROS|PYARROW)_.*)"
)
"""Credentials, and where a server does not pass artifacts on, the store that has them."""


def registry_transport(url: httpx.URL) -> httpx.HTTPTransport:
    """A transport with the environment's proxy, authorities and client certificate.

    Raises ``SettingsError`` for a variable that cannot be used, also by MLflow's client later.
    """
    for name in _NUMBERS:
        value = os.environ.get(name, "0")
        if not re.fullmatch(r"[0-9]{1,6}", value):
            raise SettingsError(f"{name} must be a whole number, got {value[:40]!r}")
    return open_transport(url, _tls_context() if url.scheme == "https" else False)


def registry_auth(url: httpx.URL) -> httpx.Auth | None:
    """Credentials as MLflow's client finds them; None where the URL holds its own, or none exist.

    A user with a password goes before a token, and the environment before the file
    ``~/.mlflow/credentials``. Raises ``SettingsError`` for a variable that cannot be used.
    """
    for name in _UNSUPPORTED:
        if os.environ.get(name):
            raise SettingsError(f"{name} is not supported: unset it, and {CREDENTIALS_HINT}")
    if url.userinfo:
        return None
    saved = _saved_credentials()
    username = os.environ.get(_USERNAME) or saved.get(_USERNAME.lower())
    password = os.environ.get(_PASSWORD) or saved.get(_PASSWORD.lower())
    if username and password:
        return httpx.BasicAuth(username, password)
    token = os.environ.get(_TOKEN)
    if token and not re.fullmatch(r"[!-~]+", token):
        # The value is not shown: it is a secret.
        raise SettingsError(f"{_TOKEN} must be ASCII characters without blanks and line breaks")
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
def mlflow_environment(tracking_uri: str, **defaults: str) -> Iterator[None]:
    """Inside the block, MLflow's own client reaches the server as ``MlflowRest`` does.

    Import MLflow inside it too. No other variable of MLflow is set there but ``defaults``: a user's
    would lead a registration into another run, experiment or registry, or end it. Changes this
    process's environment, and restores it afterwards.
    """
    previous = dict(os.environ)
    url = httpx.URL(tracking_uri)
    kept = {*_NUMBERS, *(_TLS if url.scheme == "https" else ())}
    for name in previous:
        if re.match(r"_?MLFLOW_", name) and name not in kept and not _KEPT.fullmatch(name):
            del os.environ[name]
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    variable, path = _authorities()
    if url.scheme == "https" and variable.startswith("SSL_CERT_") and not _is_insecure():
        os.environ[_AUTHORITIES] = path
    if url.host and find_proxy(url) is None:
        exempt_from_proxies(url.host)
    try:
        yield
    finally:
        for name in {*os.environ, *previous}:
            if name not in previous:
                del os.environ[name]
            elif os.environ.get(name) != previous[name]:
                os.environ[name] = previous[name]
