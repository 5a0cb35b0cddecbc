"""Pydantic models of health, versions, promotion and experiments, shared by service and client."""

from datetime import date, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from rossmann.serving.schemas.forecasts import STRICT


class DataInfo(BaseModel):
    """Tables that something was made from."""

    dataset: str
    version: str
    label: str
    rows: int | None = None
    stores: int | None = None
    first_day: date | None = None
    last_day: date | None = None
    schedule_end: date | None = None


class Health(BaseModel):
    """State of the service; ``reason``: why it is degraded, else empty."""

    status: Literal["healthy", "degraded"]
    reason: str
    registry: Literal["reachable", "away"] = "reachable"
    model_loaded: bool
    model_version: int | None
    model_stage: str | None
    data: DataInfo | None
    version: str
    uptime_seconds: float


class InfoData(BaseModel):
    """What the model learned from, and what the service forecasts from."""

    model: DataInfo
    panel: DataInfo


class ModelInfo(BaseModel):
    """The versions in use and the one that answers."""

    production_version: int | None
    staging_version: int | None
    registered_models: list[str]
    loaded_versions: list[int]
    profile: str
    features: int
    members: list[str]
    weights: dict[str, float]
    levels: list[float]
    metrics: dict[str, Any]
    data: InfoData


class ModelVersionInfo(BaseModel):
    """One version in the registry."""

    version: int
    stage: str
    run_id: str
    created: datetime
    tags: dict[str, str]


class LoadRequest(BaseModel):
    """Which stage or version to load."""

    model_config = STRICT

    model_stage: Annotated[
        str | int, Field(description="Production, Staging, or a version number")
    ] = "Production"


class LoadResponse(BaseModel):
    """A version that is in memory."""

    model_version: int
    model_stage: str
    model_loaded: bool


class ReasonRequest(BaseModel):
    """Why a version is promoted or taken back; it is kept with the version."""

    model_config = STRICT

    reason: Annotated[str, Field(max_length=500)] = ""


class PromoteRequest(ReasonRequest):
    """``force`` promotes a version that the gate refuses."""

    force: bool = False


class RoleRowCount(BaseModel):
    """Logged rows of a version by role: answered by it, or only forecast for comparison."""

    role: str
    model_version: int
    rows: int


class Agreement(BaseModel):
    """The challenger's forecasts over Production's, of the same rows as of the same origins.

    ``beyond_10_percent``: share of rows where they are further apart than that.
    """

    rows: int
    mean_ratio: float
    mean_absolute_log_difference: float
    beyond_10_percent: float


class VersionScore(BaseModel):
    """A version on ``rows`` whose sales are known: errors, and total over sold total less 1.

    Each figure has its standard error, by stores and weeks (``wape_error`` and so on).
    ``in_training``: further rows whose sales are known, which are left out because their day is one
    that a scored version learned from.
    """

    model_version: int
    rows: int
    stores: int
    wape: float | None
    wape_error: float | None
    rmspe: float | None
    rmspe_error: float | None
    bias: float | None
    bias_error: float | None
    in_training: int = 0


class ActualsComparison(BaseModel):
    """Both versions against what was sold.

    ``paired``: on the same rows; else each on stores of its own. ``verdict``: whether the
    challenger is better, worse or undecided, which it is before ``weeks`` are four.
    ``improvement``: share by which the challenger's WAPE is lower, with its standard error;
    ``chance``: the p-value of no difference, valid however often one looks. ``better_stores``: the
    share of stores where the challenger errs less, if paired. Null without a row.
    """

    paired: bool
    challenger: VersionScore
    production: VersionScore
    verdict: Literal["better", "worse", "undecided"]
    weeks: int
    improvement: float | None
    improvement_error: float | None
    chance: float | None
    better_stores: float | None


class Comparison(BaseModel):
    """Both versions by the prediction log.

    ``reason``: why something is missing; ``looked_from``: older rows are not read; ``since``: from
    when on both are logged, within the rows that were read.
    """

    reason: str = ""
    looked_from: datetime | None = None
    since: datetime | None = None
    rows: list[RoleRowCount] = []
    agreement: Agreement | None = None
    known_sales: ActualsComparison | None = None


class ShadowQueue(BaseModel):
    """Rows of the challenger in the process that answers this request, since its start."""

    waiting: int
    done: int
    dropped: int
    failed: int
    last_error: str


class ExperimentState(BaseModel):
    """The experiment with Production; ``reason``: why no challenger answers, else empty.

    ``stores``: how many the challenger answers. ``challenger``: as the settings name it.
    """

    mode: Literal["off", "ab", "shadow"]
    reason: str
    production_version: int | None
    challenger: str | None = None
    challenger_version: int | None = None
    share: float | None = None
    salt: str | None = None
    stores: int | None = None
    queue: ShadowQueue | None = None
    comparison: Comparison | None = None
