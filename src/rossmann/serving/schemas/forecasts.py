"""What goes in and out over HTTP, as types that the service, its client and the pages share."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field
from typing_extensions import TypedDict

from rossmann.schema import Objective

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

# Not Literal[0, 1]: that takes true and 1.0 as well.
Flag = Annotated[int, Field(ge=0, le=1)]
Level = Annotated[float, Field(gt=0, lt=1)]


class Row(TypedDict):
    """One store on one day, as planned."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    Store: int
    DayOfWeek: Annotated[int, Field(ge=1, le=7, description="1 (Monday) to 7; the Date decides")]
    Date: Annotated[str, Field(description="YYYY-MM-DD", json_schema_extra={"format": "date"})]
    Open: Flag
    Promo: Flag
    StateHoliday: Literal["0", "a", "b", "c"]
    SchoolHoliday: Flag


TotalsBy = Literal["store_week", "store", "store_type_week", "store_type", "chain_week", "chain"]


class PredictOptions(BaseModel):
    """Options of a forecast request."""

    model_config = STRICT

    model_stage: Annotated[
        str | int, Field(description="Production, Staging, or a version number")
    ] = "Production"
    as_of: Annotated[
        str | None, Field(description="last day whose sales may be seen, YYYY-MM-DD")
    ] = None
    intervals: Annotated[
        list[Level] | None, Field(description="levels between 0 and 1", max_length=10)
    ] = None
    objective: Annotated[
        Objective | None,
        Field(description="accuracy of each day, or unbiased totals; without it, the setting's"),
    ] = None
    totals: Annotated[
        list[TotalsBy] | None,
        Field(description="sums of the rows; weeks are Monday to Sunday", max_length=6),
    ] = None


class PredictRequest(PredictOptions):
    """A forecast for each of ``inputs``, answered in their order."""

    inputs: Annotated[list[Row], Field(min_length=1), FailFast()]


class Interval(BaseModel):
    """Bounds that hold the sales of a day with probability ``level``; one of each per row."""

    level: float
    lower: list[float]
    upper: list[float]


class WarningMessage(BaseModel):
    """A warning: what it is about, how many rows it touches, and the first of them.

    ``in_training``: open days that the version which answers learned from. Their forecasts are no
    evidence of accuracy. ``rare_season``: days of a season that its backtest saw once at most.
    """

    type: Annotated[
        str,
        Field(
            description="horizon, no_schedule, short_history, reopened, in_training, rare_season,"
            " day_of_week, open_unsaid or experiment; there may be more"
        ),
    ]
    msg: str
    count: int
    rows: list[int]


class TotalsResponse(BaseModel):
    """Sums of the rows by one of ``totals``, a place in each list for each sum.

    ``store`` and ``store_type`` are null where a sum is not of one; ``first`` and ``last`` are the
    days that it spans. Bounds hold the sum itself: they are no sums of the rows' bounds.
    """

    by: TotalsBy
    store: list[int | None]
    store_type: list[str | None]
    first: list[str]
    last: list[str]
    rows: list[int]
    sales: list[float]
    intervals: list[Interval]


class ChallengerRows(BaseModel):
    """Rows that the challenger of an experiment answered, by their places from 0."""

    model_version: int
    rows: list[int]


class PredictResponse(BaseModel):
    """``predictions[i]`` answers ``inputs[i]``.

    ``model_version`` answered every row but those of ``challenger``, which is null unless an
    experiment gave it some.
    """

    predictions: list[float]
    model_version: int
    model_stage: str
    challenger: ChallengerRows | None = None
    count: int
    as_of: str
    objective: Objective = "accuracy"
    intervals: list[Interval]
    totals: list[TotalsResponse] = []
    warnings: list[WarningMessage]
    request_id: str


class Driver(BaseModel):
    """One thing that drove a forecast: a factor, the same in per cent, and what it adds."""

    name: str
    label: str
    factor: float
    percent: float
    sales: float


class OtherPromo(BaseModel):
    """The forecast of the same row with ``Promo`` switched to ``promo``; ``percent``: its change.

    It is the effect of this day's promotion alone. The driver ``promotion`` is larger, as it holds
    what promotions of the days around do, too, and counts from an average day.
    """

    promo: Literal[0, 1]
    forecast: float
    percent: float


class Explanation(BaseModel):
    """A row's forecast: ``baseline`` times every factor, or ``baseline`` plus every ``sales``.

    ``other_promo``: null on a closed day.
    """

    forecast: float
    baseline: float
    drivers: list[Driver]
    other_promo: OtherPromo | None = None


class ExplainResponse(PredictResponse):
    """``explanations[i]``: the drivers of ``predictions[i]``."""

    explanations: list[Explanation]
