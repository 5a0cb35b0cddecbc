"""One typed object for every path, port and threshold; it refuses to be built on nonsense.

A value comes from the environment (``ROSSMANN_<NAME>``), else from ``config/params.yaml``, else
from the default below. Paths may be relative: to the project's root in a checkout, else to the
working directory.
"""

import os
import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from rossmann.errors import SettingsError
from rossmann.schema import Objective, Stage
from rossmann.settings_access import Access
from rossmann.settings_places import Places, params_file

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


class Settings(Access, Places):
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
    max_rows: Annotated[int, Field(ge=1)] = 100_000
    max_body_mb: Annotated[int, Field(ge=1)] = 64
    max_file_mb: Annotated[int, Field(ge=1)] = 512
    max_file_rows: Annotated[int, Field(ge=1)] = 10_000_000
    explain_max_rows: Annotated[int, Field(ge=1)] = 500
    objective: Objective = "accuracy"
    prediction_log: bool = True
    """Keep every answered row."""
    log_flush_seconds: Annotated[float, Field(gt=0, le=60)] = 1
    log_keep_days: Annotated[int, Field(ge=0)] = 400
    log_spool_mb: Annotated[int, Field(ge=1)] = 512
    experiment: ExperimentMode = "off"
    """A challenger beside Production: it answers a share of the stores, or only the log sees it."""
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
    later_windows: Annotated[int, Field(ge=0, le=7)] = 2
    gate_tolerance: Annotated[float, Field(ge=0, le=0.01)] = 0.001
    gate_chance: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    gate_days: Annotated[int, Field(ge=1, le=48)] = 7
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
    def thread_count(self) -> int:
        """Threads for fitting and scoring."""
        return self.threads or len(os.sched_getaffinity(0))

    def profile(self, name: str) -> Profile:
        """The training profile of that name; raises ``SettingsError`` for another."""
        for key, value in self.profiles.items():
            if key == name:
                return value
        raise SettingsError(f"no profile {name!r}; there are: {', '.join(self.profiles)}")

    def public(self) -> dict[str, Any]:
        """All values without secrets, for people to read."""
        shown = self.model_dump(mode="json")
        if self.api_keys:
            shown["api_keys"] = f"{len(self.api_keys.split(','))} keys (hidden)"
        if self.api_key:
            shown["api_key"] = "(hidden)"
        for name in ("mlflow_tracking_uri", "api_url", "rate_limit_store", "database_url"):
            shown[name] = without_password(shown[name])
        return shown


def without_password(url: str) -> str:
    """A URL that may be shown."""
    url = re.sub(r"(?i)(password=)[^&]*", r"\1***", url)
    head, at, tail = url.rpartition("@")
    scheme, colon, _ = head.partition("://")
    return f"{scheme}{colon}***@{tail}" if at else url


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; raises ``SettingsError`` naming each bad value and how it is spelled."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        faults = "; ".join(
            f"ROSSMANN_{'_'.join(map(str, e['loc'])).upper() or '*'}: "
            + e["msg"].removeprefix("Value error, ")
            for e in error.errors()
        )
        raise SettingsError(f"settings are not usable: {faults}") from error
