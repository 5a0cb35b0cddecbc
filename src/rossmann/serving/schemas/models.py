"""Pydantic models of health, versions, promotion and experiments, shared by service and client."""

from datetime import date, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from rossmann.serving.schemas.forecasts import STRICT


class DataInfo(BaseModel):
    """Tables that something was made from."""

    dataset: Annotated[str, Field(description="`rossmann` (the real tables) or `demo`")]
    version: Annotated[
        str, Field(description="data version: digest of the tables and of all increments")
    ]
    label: Annotated[str, Field(description="the same for people")]
    rows: Annotated[int | None, Field(description="days of sales")] = None
    stores: Annotated[int | None, Field(description="number of stores")] = None
    first_day: Annotated[date | None, Field(description="first day of history")] = None
    last_day: Annotated[date | None, Field(description="last day of history")] = None
    schedule_end: Annotated[
        date | None, Field(description="last planned day; null without a schedule")
    ] = None


class Health(BaseModel):
    """State of the service; ``reason``: why it is degraded, else empty."""

    status: Annotated[
        Literal["healthy", "degraded"],
        Field(description="degraded while something is amiss; it answers all the same"),
    ]
    reason: Annotated[str, Field(description="why it is degraded, else empty")]
    registry: Annotated[
        Literal["reachable", "away"], Field(description="whether the model registry answers")
    ] = "reachable"
    model_loaded: Annotated[bool, Field(description="whether a Production version is in memory")]
    model_version: Annotated[int | None, Field(description="number of that version")]
    model_stage: Annotated[str | None, Field(description="`Production`, or null without a version")]
    data: Annotated[DataInfo | None, Field(description="the data that forecasts are made from")]
    version: Annotated[str, Field(description="release of the service")]
    uptime_seconds: Annotated[float, Field(description="seconds since the start of this process")]


class InfoData(BaseModel):
    """What the model learned from, and what the service forecasts from."""

    model: Annotated[DataInfo, Field(description="what the Production version learned from")]
    panel: Annotated[DataInfo, Field(description="what the service forecasts from")]


class ModelInfo(BaseModel):
    """The versions in use and the one that answers."""

    production_version: Annotated[int | None, Field(description="version in Production")]
    staging_version: Annotated[int | None, Field(description="version in Staging")]
    registered_models: Annotated[list[str], Field(description="name of the model in the registry")]
    loaded_versions: Annotated[list[int], Field(description="versions in memory")]
    profile: Annotated[str, Field(description="training profile of the Production version")]
    features: Annotated[int, Field(description="number of features")]
    members: Annotated[list[str], Field(description="members of the ensemble")]
    weights: Annotated[dict[str, float], Field(description="weight of each member")]
    filter_weights: Annotated[
        dict[str, float],
        Field(description="weight of the Kalman filter alone on ordinary and on event days"),
    ]
    levels: Annotated[list[float], Field(description="interval levels that it is calibrated for")]
    metrics: Annotated[dict[str, Any], Field(description="figures of its backtest")]
    data: Annotated[InfoData, Field(description="data of the model and of the panel")]


class ModelVersionInfo(BaseModel):
    """One version in the registry."""

    version: Annotated[int, Field(description="version number")]
    stage: Annotated[str, Field(description="`None`, `Staging`, `Production` or `Archived`")]
    run_id: Annotated[str, Field(description="its run in MLflow")]
    created: Annotated[datetime, Field(description="when it was registered (UTC)")]
    tags: Annotated[
        dict[str, str], Field(description="lineage, verdict of the gate and promotions")
    ]


class LoadRequest(BaseModel):
    """Which stage or version to load."""

    model_config = STRICT

    model_stage: Annotated[
        str | int, Field(description="Production, Staging, or a version number")
    ] = "Production"


class LoadResponse(BaseModel):
    """A version that is in memory."""

    model_version: Annotated[int, Field(description="number of the version")]
    model_stage: Annotated[str, Field(description="its stage")]
    model_loaded: Annotated[bool, Field(description="always true")]


class ReasonRequest(BaseModel):
    """Why a version is promoted or taken back; it is kept with the version."""

    model_config = STRICT

    reason: Annotated[
        str, Field(max_length=500, description="kept with the version, at most 500 characters")
    ] = ""


class PromoteRequest(ReasonRequest):
    """``force`` promotes a version that the gate refuses."""

    force: Annotated[bool, Field(description="promote it even if the gate rejects it")] = False


class RoleRowCount(BaseModel):
    """Logged rows of a version by role: answered by it, or only forecast for comparison."""

    role: Annotated[str, Field(description="`answer`, `challenger` or `shadow`")]
    model_version: Annotated[int, Field(description="version that forecast them")]
    rows: Annotated[int, Field(description="logged rows")]


class Agreement(BaseModel):
    """The challenger's forecasts over Production's, of the same rows as of the same origins.

    ``beyond_10_percent``: share of rows where they are further apart than that.
    """

    rows: Annotated[int, Field(description="rows that both forecast as of the same origin")]
    mean_ratio: Annotated[
        float, Field(description="mean of the challenger's forecast over Production's")
    ]
    mean_absolute_log_difference: Annotated[
        float, Field(description="mean distance of the two on the log scale")
    ]
    beyond_10_percent: Annotated[
        float, Field(description="share of rows that differ by more than 10 %")
    ]


class VersionScore(BaseModel):
    """A version on ``rows`` whose sales are known: errors, and total over sold total less 1.

    Each figure has its standard error, by stores and weeks (``wape_error`` and so on).
    ``in_training``: further rows whose sales are known, which are left out because their day is one
    that a scored version learned from.
    """

    model_version: Annotated[int, Field(description="version that is scored")]
    rows: Annotated[int, Field(description="rows whose sales are known")]
    stores: Annotated[int, Field(description="stores of these rows")]
    wape: Annotated[float | None, Field(description="weighted absolute percentage error")]
    wape_error: Annotated[float | None, Field(description="its standard error")]
    rmspe: Annotated[float | None, Field(description="root mean squared percentage error")]
    rmspe_error: Annotated[float | None, Field(description="its standard error")]
    bias: Annotated[float | None, Field(description="total forecast over total sold, less 1")]
    bias_error: Annotated[float | None, Field(description="its standard error")]
    in_training: Annotated[
        int, Field(description="rows left out because a scored version learned from their day")
    ] = 0


class ActualsComparison(BaseModel):
    """Both versions against what was sold.

    ``paired``: on the same rows; else each on stores of its own. ``verdict``: whether the
    challenger is better, worse or undecided, which it is before ``weeks`` are four.
    ``improvement``: share by which the challenger's WAPE is lower, with its standard error;
    ``chance``: the p-value of no difference, valid however often one looks. ``better_stores``: the
    share of stores where the challenger errs less, if paired. Null without a row.
    """

    paired: Annotated[bool, Field(description="whether both are scored on the same rows")]
    challenger: Annotated[VersionScore, Field(description="the challenger's score")]
    production: Annotated[VersionScore, Field(description="Production's score")]
    verdict: Annotated[
        Literal["better", "worse", "undecided"],
        Field(description="whether the challenger is better"),
    ]
    weeks: Annotated[int, Field(description="weeks with known sales")]
    improvement: Annotated[
        float | None, Field(description="share by which the challenger's WAPE is lower")
    ]
    improvement_error: Annotated[float | None, Field(description="its standard error")]
    chance: Annotated[float | None, Field(description="p-value of no difference")]
    better_stores: Annotated[
        float | None, Field(description="share of stores where the challenger errs less")
    ]


class Comparison(BaseModel):
    """Both versions by the prediction log.

    ``reason``: why something is missing; ``looked_from``: older rows are not read; ``since``: from
    when on both are logged, within the rows that were read.
    """

    reason: Annotated[str, Field(description="why something is missing, else empty")] = ""
    looked_from: Annotated[datetime | None, Field(description="older rows are not read")] = None
    since: Annotated[datetime | None, Field(description="when both are logged from")] = None
    rows: Annotated[list[RoleRowCount], Field(description="logged rows by role and version")] = []
    agreement: Annotated[
        Agreement | None, Field(description="how far the two forecasts are apart")
    ] = None
    known_sales: Annotated[ActualsComparison | None, Field(description="both against sales")] = None


class ShadowQueue(BaseModel):
    """Rows of the challenger in the process that answers this request, since its start."""

    waiting: Annotated[int, Field(description="rows that wait for the challenger")]
    done: Annotated[int, Field(description="rows that it has forecast")]
    dropped: Annotated[int, Field(description="rows that were left out because too many waited")]
    failed: Annotated[int, Field(description="rows whose forecast failed")]
    last_error: Annotated[str, Field(description="the last error, else empty")]


class ExperimentState(BaseModel):
    """The experiment with Production; ``reason``: why no challenger answers, else empty.

    ``stores``: how many the challenger answers. ``challenger``: as the settings name it.
    """

    mode: Annotated[Literal["off", "ab", "shadow"], Field(description="kind of the experiment")]
    reason: Annotated[str, Field(description="why no challenger answers, else empty")]
    production_version: Annotated[int | None, Field(description="version in Production")]
    challenger: Annotated[
        str | None, Field(description="`Staging` or a number, as the settings name it")
    ] = None
    challenger_version: Annotated[int | None, Field(description="number of the challenger")] = None
    share: Annotated[float | None, Field(description="share of the stores that it answers")] = None
    salt: Annotated[str | None, Field(description="text that the stores are assigned by")] = None
    stores: Annotated[int | None, Field(description="number of stores that it answers")] = None
    queue: Annotated[ShadowQueue | None, Field(description="the shadow's rows")] = None
    comparison: Annotated[
        Comparison | None, Field(description="comparison by the prediction log")
    ] = None
