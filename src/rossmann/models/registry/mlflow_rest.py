"""HTTP client of MLflow's REST API, with short timeouts and error messages of one line.

MLflow's own client takes 4 s to import and minutes to give up on an unreachable server; the
service can afford neither.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import httpx

from rossmann.addresses import is_this_machine, redact_password
from rossmann.errors import ServiceError
from rossmann.installation import shell_command
from rossmann.models.registry.mlflow_environment import (
    AUTHORITIES_HINT,
    CREDENTIALS_HINT,
    registry_auth,
    registry_transport,
)

HttpMethod = Literal["GET", "POST", "PATCH", "DELETE"]
Json = dict[str, Any]

_API: Final = "/api/2.0/mlflow"
_ARTIFACTS: Final = "/api/2.0/mlflow-artifacts/artifacts"
_CONNECT_SECONDS: Final = 2.0
_DOWNLOAD_SECONDS: Final = 60.0
"""Read timeout of a download: a proxy may fetch the file from elsewhere before it responds."""
_REFUSED: Final = {401, 403}


class RequestRejectedError(ServiceError):
    """The server answered with an error."""


class RegistryAccessError(ServiceError):
    """Credentials or certificates do not fit: waiting does not help."""


class NameConflictError(RequestRejectedError):
    """Something of that name exists already."""


class MlflowRest:
    """A client of one server; safe to share between threads."""

    def __init__(self, tracking_uri: str, timeout: float) -> None:
        """Raises ``ServiceError`` for an address that is no HTTP address; sends nothing yet.

        Raises ``SettingsError`` for an environment variable, of a proxy or MLflow's, that cannot be
        used.
        """
        shown = redact_password(tracking_uri)
        try:
            url = httpx.URL(tracking_uri.rstrip("/"))
        except httpx.InvalidURL as error:
            raise ServiceError(f"{shown!r} is no address: {error}") from error
        if url.scheme not in {"http", "https"} or not url.host:
            raise ServiceError(
                f"the registry needs an MLflow server's address (http://host:port), got"
                f" {shown!r}; set ROSSMANN_MLFLOW_TRACKING_URI"
            )
        self.address = str(url.copy_with(username=None, password=None))
        self._client = httpx.Client(
            base_url=url,
            timeout=httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS)),
            auth=registry_auth(url),
            transport=registry_transport(url),
        )

    @contextmanager
    def with_timeout(self, seconds: float) -> Iterator[None]:
        """Wait at most ``seconds`` for a response inside the block; for one thread alone."""
        default = self._client.timeout
        self._client.timeout = httpx.Timeout(seconds)
        try:
            yield
        finally:
            self._client.timeout = default

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._client.close()

    def check_health(self) -> None:
        """Raise ``ServiceError`` unless an MLflow server responds; ``RegistryAccessError`` too."""
        response = self._send("GET", "/health")
        if response.status_code in _REFUSED:
            raise self._refused_error(response)
        if response.status_code != 200 or response.text.strip() != "OK":
            raise ServiceError(
                f"what answers at {self.address} is not an MLflow server"
                f" (GET /health: {response.status_code}); {self._start_hint()}"
            )

    def call(self, method: HttpMethod, path: str, **fields: Any) -> Json | None:
        """Call ``/api/2.0/mlflow/<path>``; None where MLflow reports that nothing has that name.

        Raises ``ServiceError`` when the server is unreachable or responds with no JSON, and its
        subclass ``RequestRejectedError`` when the server responds with an error.
        """
        if method == "GET":
            response = self._send(method, f"{_API}/{path}", params=fields)
        else:
            response = self._send(method, f"{_API}/{path}", json=fields)
        body = self._parse_json(response)
        if response.status_code == 200:
            return body
        code = str(body.get("error_code", ""))
        missing_alias = code == "INVALID_PARAMETER_VALUE" and path == "registered-models/alias"
        if code == "RESOURCE_DOES_NOT_EXIST" or (method == "GET" and missing_alias):
            return None
        name_taken = code == "RESOURCE_ALREADY_EXISTS"
        error_type = NameConflictError if name_taken else RequestRejectedError
        reason = str(body.get("message", code)).strip().splitlines()
        raise error_type(
            f"MLflow at {self.address} answered {response.status_code} to {method} {path}:"
            f" {reason[0] if reason else 'no reason given'}"
        )

    def create(self, path: str, **fields: Any) -> bool:
        """Create what ``fields`` describe; False where one of that name exists already.

        Raises ``ServiceError`` as ``call`` does.
        """
        try:
            self.call("POST", path, **fields)
        except NameConflictError:
            return False
        return True

    def set_tag(self, resource: str, **fields: str) -> None:
        """Set a tag of a ``registered-models`` or ``model-versions``, even if others set it now.

        MLflow reads the tag and then inserts it: where another process inserts it in between, its
        database rejects the second insert. The second request finds the tag and updates it.
        """
        try:
            self.call("POST", f"{resource}/set-tag", **fields)
        except RequestRejectedError:
            self.call("POST", f"{resource}/set-tag", **fields)

    def artifact_names(self, folder: str) -> list[str]:
        """Names of the files directly in ``folder``, a path below the server's artifact root."""
        response = self._send("GET", _ARTIFACTS, params={"path": folder})
        body = self._parse_json(response)
        if response.status_code != 200:
            raise self._artifact_error(folder, response)
        names = [Path(f["path"]).name for f in body.get("files", []) if not f.get("is_dir")]
        return [name for name in names if name not in {"", ".", ".."}]

    def download(self, path: str, target: Path) -> None:
        """Write the artifact at ``path`` (below the artifact root) to ``target``."""
        timeout = httpx.Timeout(_DOWNLOAD_SECONDS, connect=_CONNECT_SECONDS)
        try:
            with self._client.stream("GET", f"{_ARTIFACTS}/{path}", timeout=timeout) as response:
                if response.status_code != 200:
                    raise self._artifact_error(path, response)
                with target.open("wb") as file:
                    for chunk in response.iter_bytes():
                        file.write(chunk)
        except httpx.HTTPError as error:
            raise self._unreachable_error(error) from error

    def _send(self, method: HttpMethod, path: str, **options: Any) -> httpx.Response:
        try:
            return self._client.request(method, path, **options)
        except httpx.HTTPError as error:
            raise self._unreachable_error(error) from error

    def _unreachable_error(self, error: httpx.HTTPError) -> ServiceError:
        reason = str(error) or type(error).__name__
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            return RegistryAccessError(
                f"the certificate of MLflow at {self.address} is not trusted ({reason});"
                f" {AUTHORITIES_HINT}"
            )
        return ServiceError(
            f"MLflow at {self.address} does not answer ({reason}); {self._start_hint()}"
        )

    def _start_hint(self) -> str:
        if is_this_machine(self._client.base_url.host):
            return f"start it with: {shell_command('mlflow')}"
        return "start that server, or correct its address: ROSSMANN_MLFLOW_TRACKING_URI"

    def _refused_error(self, response: httpx.Response) -> ServiceError:
        sent = "the credentials sent" if "Authorization" in response.request.headers else "none"
        return RegistryAccessError(
            f"MLflow at {self.address} wants other credentials than {sent}"
            f" ({response.status_code}); {CREDENTIALS_HINT}"
        )

    def _artifact_error(self, path: str, response: httpx.Response) -> ServiceError:
        return ServiceError(
            f"MLflow at {self.address} has no artifact {path} for us ({response.status_code})"
        )

    def _parse_json(self, response: httpx.Response) -> Json:
        try:
            body = response.json()
        except ValueError as error:
            if response.status_code in _REFUSED:
                raise self._refused_error(response) from error
            raise ServiceError(
                f"what answers at {self.address} does not speak MLflow's API"
                f" ({response.status_code}: {response.text.strip()[:80]!r}); {self._start_hint()}"
            ) from error
        return body if isinstance(body, dict) else {}
