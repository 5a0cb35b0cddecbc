"""Typed, validated settings: paths, ports, thresholds and training profiles.

A value comes from the environment (``ROSSMANN_<NAME>``), else from a file ``rossmann_<name>`` in
the folder that ``ROSSMANN_SECRETS_DIR`` names, else from ``config/params.yaml``, else from the
default below. Paths may be relative: to the project's root in a checkout, else to the working
directory.
"""

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from rossmann.addresses import (
    BasePath,
    Host,
    HttpUrl,
    StoreUrls,
    reachable_hosts,
    redact_password,
    sqlite_url,
    url_host,
    with_driver,
    with_password,
    without_credentials,
)
from rossmann.errors import SettingsError, settings_error_message
from rossmann.installation import absolute_path, params_file
from rossmann.schema import Objective, Stage
from rossmann.setting_groups import (
    AccessSettings,
    GateSettings,
    Profile,
    RequestLimits,
    TrainingSettings,
)

_PREFIX: Final = "ROSSMANN_"
_SECRETS_DIR: Final = "ROSSMANN_SECRETS_DIR"
_SIMILAR: Final = 0.85
"""Share of equal characters of two names from which one is taken for a misspelled other."""

Port = Annotated[int, Field(ge=1, le=65535)]


class PathSettings(BaseSettings):
    """Folders, ports and addresses of the services."""

    data_dir: Path = Path("data")
    """Folder with ``raw/`` (the real tables) and all that the product makes."""
    api_keys_file: Path | None = None
    """File of keys, one a line, read again when it changes; else ``keys.txt`` in the data folder.

    Without a key in either, and without a provider of tokens, the service is open to all.
    """
    documentation_dir: Path | None = None
    """Folder of a documentation site that is built already; else one in ``data_dir`` is built."""
    mlflow_tracking_uri: str = ""
    """Address of the MLflow server; empty: the one on ``host`` and ``mlflow_port``."""
    artifact_stores: StoreUrls = ""
    """Addresses of stores outside of the registry that may hold a version's files, with commas."""
    api_url: HttpUrl = ""
    """Where the dashboard finds the API; empty: ``host`` and ``api_port``."""
    api_public_url: HttpUrl = ""
    """Where browsers find the API, such as behind a proxy; empty: where the dashboard does."""
    host: Host = "127.0.0.1"
    """Address that the services listen on; IPv6 too: ``::1``, or ``::`` for every address."""
    api_port: Port = 8000
    """Port of the API."""
    mlflow_port: Port = 5000
    """Port of the MLflow server."""
    dashboard_port: Port = 8501
    """Port of the dashboard."""
    docs_port: Port = 8002
    """Where ``rossmann docs`` serves the documentation; the dashboard has it too."""
    api_base_path: BasePath = ""
    """Path below which a proxy offers the API, such as ``/forecasts``; empty: the root."""
    dashboard_base_path: BasePath = Field(
        default_factory=lambda: os.environ.get("STREAMLIT_SERVER_BASE_URL_PATH", ""),
        validate_default=True,
    )
    """The same for the dashboard; empty: ``STREAMLIT_SERVER_BASE_URL_PATH``, else the root."""
    database_url: str = ""
    """Where answered rows are kept: ``sqlite:///`` or ``postgresql://``; empty: in ``data_dir``."""
    mlflow_database_url: str = ""
    """Tables of the embedded MLflow server: ``postgresql://``; empty: SQLite in ``data_dir``."""
    database_password: str = ""
    """Password for the two databases where their addresses hold none; a secret."""

    @field_validator("data_dir", "api_keys_file", "documentation_dir")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else absolute_path(value)

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str) -> str:
        # The message does not repeat the value: there may be a password in it.
        if value and not value.startswith(("sqlite:///", "postgres://", "postgresql")):
            raise ValueError("must begin with sqlite:/// or postgresql://")
        return value

    @field_validator("mlflow_database_url")
    @classmethod
    def _is_postgresql(cls, value: str) -> str:
        if value and not value.startswith(("postgres://", "postgresql")):
            raise ValueError("must begin with postgresql://")
        return value

    @field_validator("dashboard_base_path")
    @classmethod
    def _is_free_in_streamlit(cls, value: str) -> str:
        first = value.split("/")[1] if value else ""
        if first in {"static", "media", "component", "_stcore"}:
            raise ValueError(f"/{first} is a path of Streamlit's own; choose another first part")
        return value

    @model_validator(mode="after")
    def _ports_differ(self) -> "PathSettings":
        ports = (self.api_port, self.mlflow_port, self.dashboard_port)
        if len(set(ports)) != len(ports):
            raise ValueError(f"api_port, mlflow_port and dashboard_port must differ, got {ports}")
        return self

    @property
    def raw_dir(self) -> Path:
        """Where the real tables lie."""
        return self.data_dir / "raw"

    @property
    def demo_raw_dir(self) -> Path:
        """Where the demo chain's tables are written."""
        return self.data_dir / "demo" / "raw"

    @property
    def ingested_dir(self) -> Path:
        """Days that were ingested over the raw tables, a folder for each chain."""
        return self.data_dir / "ingested"

    @property
    def processed_dir(self) -> Path:
        """Clean tables and as-of arrays, a folder for each data version."""
        return self.data_dir / "processed"

    @property
    def mlflow_dir(self) -> Path:
        """The embedded registry's database and artifacts."""
        return self.data_dir / "mlflow"

    @property
    def model_cache_dir(self) -> Path:
        """Local copies of registered versions."""
        return self.data_dir / "models"

    @property
    def logs_dir(self) -> Path:
        """Logs of the services that the launcher starts."""
        return self.data_dir / "logs"

    @property
    def keys_file(self) -> Path:
        """Digests of API keys; it need not be there."""
        return self.api_keys_file or self.data_dir / "keys.txt"

    @property
    def run_dir(self) -> Path:
        """What the launcher remembers of the services that it started."""
        return self.data_dir / "run"

    @property
    def site_dir(self) -> Path:
        """The built documentation site."""
        return self.documentation_dir or self.data_dir / "documentation"

    @property
    def log_dir(self) -> Path:
        """The prediction log: its database, unless another is named, and its spool."""
        return self.data_dir / "prediction_log"

    @property
    def log_spool_dir(self) -> Path:
        """Answered rows on their way to the database; must be on a disk of this machine."""
        return self.log_dir / "spool"

    @property
    def log_url(self) -> str:
        """The prediction log's database."""
        if self.database_url:
            return with_password(self.database_url, self.database_password)
        return sqlite_url(self.log_dir / "log.db")

    @property
    def mlflow_store(self) -> str:
        """The database of the embedded MLflow server."""
        if self.mlflow_database_url:
            return with_password(with_driver(self.mlflow_database_url), self.database_password)
        # Where a URL begins with sqlite:///, MLflow makes a folder of the escaped name.
        return sqlite_url(self.mlflow_dir / "mlflow.db", "sqlite+pysqlite")

    @property
    def tracking_uri(self) -> str:
        """The MLflow server's address."""
        return self.mlflow_tracking_uri or f"http://{url_host(self.host)}:{self.mlflow_port}"

    @property
    def service_url(self) -> str:
        """The prediction service's address."""
        own = f"http://{url_host(self.host)}:{self.api_port}{self.api_base_path}"
        return (self.api_url or own).rstrip("/")

    @property
    def public_api_url(self) -> str:
        """The prediction service's address for browsers, without credentials."""
        return without_credentials(self.api_public_url.rstrip("/") or self.service_url)

    @property
    def dashboard_url(self) -> str:
        """The dashboard's address."""
        return f"http://{url_host(self.host)}:{self.dashboard_port}{self.dashboard_base_path}"


# YAML reads a bare off as false.
ExperimentMode = Annotated[
    Literal["off", "ab", "shadow"], BeforeValidator(lambda word: "off" if word is False else word)
]
VersionName = Annotated[
    str, Field(pattern=r"^(Staging|[1-9][0-9]{0,8})$", coerce_numbers_to_str=True)
]


class ServiceSettings(BaseSettings):
    """Service, dashboard and logs."""

    demo: bool = False
    """Take the demo chain even where real tables are present."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes that answer; where there are as many cores, each keeps to its own."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """Threads for training and forecasts; 0 uses every core."""
    reload_seconds: Annotated[float, Field(gt=0)] = 5
    """Interval in seconds at which the API asks the registry for a new Production version."""
    objective: Objective = "accuracy"
    """Objective of a request that names none: smallest error of each day, or unbiased totals."""
    locale: Annotated[str, Field(pattern=r"^[a-z]{2,3}([_-][A-Za-z0-9]{2,8}){0,2}$")] = "en"
    """How the dashboard writes numbers: a language, with a country where it matters (``de_CH``)."""
    currency: Annotated[str, Field(pattern=r"^([A-Z]{3})?$")] = ""
    """ISO code of the currency of sales; empty: the dashboard shows numbers without one."""
    prediction_log: bool = True
    """Keep every answered row."""
    log_flush_seconds: Annotated[float, Field(gt=0, le=60)] = 1
    """Interval in seconds at which answered rows are written to disk; a kill loses at most this."""
    log_keep_days: Annotated[int, Field(ge=0)] = 400
    """Days after which logged rows are deleted; 0 keeps all."""
    data_keep_versions: Annotated[int, Field(ge=1)] = 3
    """Data versions whose arrays stay, besides those of Production and Staging versions."""
    log_spool_mb: Annotated[int, Field(ge=1)] = 512
    """Maximum size on disk of rows that wait for the database, in megabytes."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level of the lines on stderr; the access log has level ``info``."""
    log_format: Literal["auto", "console", "json"] = "auto"
    """Form of these lines; ``auto``: plain on a terminal, else JSON."""


class ExperimentSettings(BaseSettings):
    """Online experiment with a challenger version."""

    experiment: ExperimentMode = "off"
    """``ab``: a challenger answers a share of the stores; ``shadow``: it is only logged."""
    experiment_challenger: VersionName = Stage.STAGING
    """``Staging``, or a version's number."""
    experiment_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the stores that ``ab`` has answered by the challenger."""
    experiment_salt: Annotated[str, Field(max_length=100, coerce_numbers_to_str=True)] = "1"
    """Deals the stores; another text deals them anew."""
    experiment_days: Annotated[int, Field(ge=1)] = 28
    """Days of answers that the two are compared on."""


class Settings(
    GateSettings,
    TrainingSettings,
    ExperimentSettings,
    ServiceSettings,
    AccessSettings,
    RequestLimits,
    PathSettings,
):
    """All settings. Build it with ``load_settings``, which words the errors for people."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, extra="forbid", frozen=True, env_ignore_empty=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments go before the environment, the environment before the file."""
        yaml = YamlConfigSettingsSource(settings_cls, yaml_file=params_file())
        return init_settings, env_settings, *_secret_files(settings_cls), yaml

    @property
    def known_hosts(self) -> frozenset[str]:
        """Names and addresses by which an open API and the dashboard may be called."""
        urls = (self.service_url, self.public_api_url, *self.cors_origins)
        return reachable_hosts(self.host, urls, self.allowed_hosts)

    @property
    def thread_count(self) -> int:
        """Threads for fitting and scoring."""
        return self.threads or len(os.sched_getaffinity(0))

    def profile(self, name: str) -> Profile:
        """The training profile of that name; raises ``SettingsError`` for another."""
        for key, value in self.profiles.items():
            if key == name:
                return value
        raise SettingsError(f"no profile {name!r}; there are: {', '.join(self.profiles)}")

    def redacted(self) -> dict[str, Any]:
        """All values without secrets, for people to read."""
        shown = self.model_dump(mode="json")
        if self.api_keys:
            shown["api_keys"] = f"{len(self.api_keys.split(','))} keys (hidden)"
        for name in ("api_key", "database_password"):
            if shown[name]:
                shown[name] = "(hidden)"
        urls = ("mlflow_tracking_uri", "api_url", "api_public_url", "rate_limit_store")
        for name in (*urls, "database_url", "mlflow_database_url"):
            shown[name] = redact_password(shown[name])
        return shown


def _secret_files(settings_cls: type[BaseSettings]) -> list[SecretsSettingsSource]:
    folder = os.environ.get(_SECRETS_DIR, "")
    if not folder:
        return []
    if not Path(folder).is_dir():
        raise SettingsError(f"{_SECRETS_DIR} must name a folder, got {folder[:200]}")
    return [SecretsSettingsSource(settings_cls, folder)]


def _check_variable_names() -> None:
    """Raise ``SettingsError`` for a variable that is nearly the name of a setting.

    A misspelled one would be ignored, and the default would hold without a word. Other names may
    be of other programs.
    """
    for variable in sorted(os.environ):
        name = variable.removeprefix(_PREFIX).lower()
        if variable.startswith(_PREFIX) and name not in Settings.model_fields:
            for near in get_close_matches(name, Settings.model_fields, 1, _SIMILAR):
                raise SettingsError(
                    f"{variable} is no setting, {_PREFIX}{near.upper()} is one: correct the name,"
                    " or unset it"
                )


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; raises ``SettingsError`` naming each bad value and how it is spelled."""
    _check_variable_names()
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError(settings_error_message(error)) from error
