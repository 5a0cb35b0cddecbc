"""What is said of the service's state and of its versions, and what an operator orders."""

from datetime import date, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from rossmann.serving.messages import STRICT


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
    """State of the service; ``reason`` says what is amiss when it is degraded, else it is empty."""

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


class LoadOrder(BaseModel):
    """Which stage or version to load."""

    model_config = STRICT

    model_stage: Annotated[
        str | int, Field(description="Production, Staging, or a version number")
    ] = "Production"


class Loaded(BaseModel):
    """A version that is in memory."""

    model_version: int
    model_stage: str
    model_loaded: bool


class Reason(BaseModel):
    """Why a version is promoted or taken back; it is kept with the version."""

    model_config = STRICT

    reason: Annotated[str, Field(max_length=500)] = ""


class PromoteOrder(Reason):
    """``force`` promotes a version that the gate refuses."""

    force: bool = False
