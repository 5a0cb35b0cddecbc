"""Typed, validated settings: paths, ports, thresholds and training profiles.

A value comes from the environment (``ROSSMANN_<NAME>``), else from ``config/params.yaml``, else
from the default below. Paths may be relative: to the project's root in a checkout, else to the
working directory.
"""

import os
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
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
    without_credentials,
)
from rossmann.errors import SettingsError, settings_error_message
from rossmann.installation import absolute_path, params_file
from rossmann.request_settings import AccessSettings, RequestLimits
from rossmann.schema import DEFAULT_COUNTRY, Objective, Stage

Port = Annotated[int, Field(ge=1, le=65535)]


class PathSettings(BaseSettings):
    """Folders, ports and addresses of the services."""

    data_dir: Path = Path("data")
    """Holds ``raw/`` (the real tables), and all that the product makes: see the properties."""
    api_keys_file: Path | None = None
    """More of them, one a line, read again when it changes; else ``keys.txt`` in the data folder.

    Without a key in either, and without a provider of tokens, the service is open to all.
    """
    mlflow_tracking_uri: str = ""
    """Empty: the server on ``host`` and ``mlflow_port``."""
    artifact_stores: StoreUrls = ""
    api_url: HttpUrl = ""
    """Where the dashboard finds the API; empty: ``host`` and ``api_port``."""
    api_public_url: HttpUrl = ""
    """Where browsers find the API, such as behind a proxy; empty: where the dashboard does."""
    host: Host = "127.0.0.1"
    """Address that the services listen on; IPv6 too: ``::1``, or ``::`` for every address."""
    api_port: Port = 8000
    mlflow_port: Port = 5000
    dashboard_port: Port = 8501
    api_base_path: BasePath = ""
    """Path below which a proxy offers the API, such as ``/forecasts``; empty: the root."""
    dashboard_base_path: BasePath = Field(
        default_factory=lambda: os.environ.get("STREAMLIT_SERVER_BASE_URL_PATH", ""),
        validate_default=True,
    )
    """The same for the dashboard; empty: Streamlit's own variable, else the root."""
    database_url: str = ""
    """Where answered rows are kept: ``sqlite:///`` or ``postgresql://``; empty: in ``data_dir``."""

    @field_validator("data_dir", "api_keys_file")
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
        return self.database_url or sqlite_url(self.log_dir / "log.db")

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


ProfileName = Literal["full", "quick"]
# YAML reads a bare off as false.
ExperimentMode = Annotated[
    Literal["off", "ab", "shadow"], BeforeValidator(lambda word: "off" if word is False else word)
]
VersionName = Annotated[
    str, Field(pattern=r"^(Staging|[1-9][0-9]{0,8})$", coerce_numbers_to_str=True)
]


class Profile(BaseModel):
    """How much a training run learns from, with which members, blended how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: Annotated[int, Field(ge=0)] = 0
    members: dict[str, dict[str, float | int]]
    weights: dict[str, float]

    @model_validator(mode="after")
    def _weights_fit_members(self) -> "Profile":
        if set(self.weights) != set(self.members):
            raise ValueError(f"weights name {sorted(self.weights)}, members {sorted(self.members)}")
        if min(self.weights.values()) < 0 or abs(sum(self.weights.values()) - 1) > 1e-6:
            raise ValueError("weights must be zero or more and sum to 1")
        return self


class Settings(AccessSettings, RequestLimits, PathSettings):
    """All settings. Build it with ``load_settings``, which words the errors for people."""

    model_config = SettingsConfigDict(
        env_prefix="ROSSMANN_", extra="forbid", frozen=True, env_ignore_empty=True
    )

    demo: bool = False
    """Take the demo chain even where real tables are present."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes that answer; where there are as many cores, each keeps to its own."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    reload_seconds: Annotated[float, Field(gt=0)] = 5
    objective: Objective = "accuracy"
    locale: Annotated[str, Field(pattern=r"^[a-z]{2,3}([_-][A-Za-z0-9]{2,8}){0,2}$")] = "en"
    """How the dashboard writes numbers: a language, with a country where it matters (de, de_CH)."""
    currency: Annotated[str, Field(pattern=r"^([A-Z]{3})?$")] = ""
    """ISO code of the currency of sales; empty: the dashboard shows numbers without one."""
    prediction_log: bool = True
    """Keep every answered row."""
    log_flush_seconds: Annotated[float, Field(gt=0, le=60)] = 1
    log_keep_days: Annotated[int, Field(ge=0)] = 400
    data_keep_versions: Annotated[int, Field(ge=1)] = 3
    """Data versions whose arrays stay, besides those of Production and Staging versions."""
    log_spool_mb: Annotated[int, Field(ge=1)] = 512
    experiment: ExperimentMode = "off"
    """ab: a challenger answers a share of the stores; shadow: it is only logged."""
    experiment_challenger: VersionName = Stage.STAGING
    """Staging, or a version's number."""
    experiment_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the stores that ``ab`` has answered by the challenger."""
    experiment_salt: Annotated[str, Field(max_length=100, coerce_numbers_to_str=True)] = "1"
    """Deals the stores; another text deals them anew."""
    experiment_days: Annotated[int, Field(ge=1)] = 28
    """Days of answers that the two are compared on."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "json"] = "auto"

    seed: int = 20150801
    history_days: Annotated[int, Field(ge=1)] = 31
    windows: tuple[Annotated[int, Field(ge=1)], ...] = (48, 365)
    window_days: Annotated[int, Field(ge=1, le=48)] = 48
    country: Annotated[str, Field(pattern="^[A-Z]{2}$")] = DEFAULT_COUNTRY
    """Country (ISO 3166) whose public holidays and working days hold."""
    reserved_origins: tuple[date, ...] = (date(2015, 6, 13),)
    """Origins whose windows tuning leaves out, so that they can judge what was chosen."""
    later_windows: Annotated[int, Field(ge=0, le=12)] = 7
    chain_floor: Annotated[float, Field(ge=0, le=0.2)] = 0.03
    gate_tolerance: Annotated[float, Field(ge=0, le=0.01)] = 0.001
    gate_improvement: Annotated[float, Field(ge=0, le=0.5)] = 0.005
    gate_chance: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    gate_margin: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    gate_days: Annotated[int, Field(ge=2, le=48)] = 14
    gate_coverage: Annotated[float, Field(ge=0, le=1)] = 0.15
    gate_bias: Annotated[float, Field(ge=0, le=1)] = 0.08
    gate_promotion: Annotated[float, Field(ge=0)] = 0.01
    gate_record: Annotated[float, Field(gt=0)] = 3
    gate_rows_per_second: Annotated[float, Field(gt=0)] = 2_000
    gate_size_mb: Annotated[float, Field(gt=0)] = 200
    profiles: dict[ProfileName, Profile] = Field(default_factory=dict)

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
        return init_settings, env_settings, yaml

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
        if self.api_key:
            shown["api_key"] = "(hidden)"
        urls = ("mlflow_tracking_uri", "api_url", "api_public_url", "rate_limit_store")
        for name in (*urls, "database_url"):
            shown[name] = redact_password(shown[name])
        return shown


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; raises ``SettingsError`` naming each bad value and how it is spelled."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError(settings_error_message(error)) from error
