"""What goes in and out over HTTP, as types that the service, its client and the pages share."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field
from typing_extensions import TypedDict

from rossmann.schema import Objective

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

# Not Literal[0, 1]: that takes true and 1.0 as well.
Flag = Annotated[int, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, lt=1)]


class Row(TypedDict):
    """One store on one day, as planned."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    Store: Annotated[int, Field(description="number of the store")]
    DayOfWeek: Annotated[int, Field(ge=1, le=7, description="1 (Monday) to 7; the Date decides")]
    Date: Annotated[str, Field(description="YYYY-MM-DD", json_schema_extra={"format": "date"})]
    Open: Annotated[Flag, Field(description="1 where the store opens, else 0")]
    Promo: Annotated[Flag, Field(description="1 on a day of promotion, else 0")]
    StateHoliday: Annotated[
        Literal["0", "a", "b", "c"],
        Field(description="`0` none, `a` public holiday, `b` Easter, `c` Christmas"),
    ]
    SchoolHoliday: Annotated[Flag, Field(description="1 on a school holiday, else 0")]


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
        list[Share] | None,
        Field(description="levels between 0 and 1", max_length=10, examples=[[0.8, 0.95]]),
    ] = None
    quantiles: Annotated[
        list[Share] | None,
        Field(
            description="quantiles of a day's sales, .01 to .99",
            max_length=20,
            examples=[[0.1, 0.5, 0.9]],
        ),
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

    inputs: Annotated[list[Row], Field(min_length=1, description="the rows"), FailFast()]


class Interval(BaseModel):
    """Bounds that hold the sales of a day with probability ``level``; one of each per row."""

    level: Annotated[float, Field(description="level of the interval")]
    lower: Annotated[list[float], Field(description="lower bound of each row")]
    upper: Annotated[list[float], Field(description="upper bound of each row")]


class Quantile(BaseModel):
    """Sales that a day stays below with probability ``quantile``; one for each row."""

    quantile: Annotated[float, Field(description="the quantile")]
    sales: Annotated[list[float], Field(description="sales of each row")]


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
    msg: Annotated[str, Field(description="text for people")]
    count: Annotated[int, Field(description="how many rows it concerns")]
    rows: Annotated[list[int], Field(description="the first ten of them, from 0")]


class TotalsResponse(BaseModel):
    """Sums of the rows by one of ``totals``, a place in each list for each sum.

    ``store`` and ``store_type`` are null where a sum is not of one; ``first`` and ``last`` are the
    days that it spans. Bounds and quantiles are of the sum itself: they are no sums of the rows'.
    """

    by: Annotated[TotalsBy, Field(description="what the sums are by")]
    store: Annotated[list[int | None], Field(description="store of each sum")]
    store_type: Annotated[list[str | None], Field(description="store type of each sum")]
    first: Annotated[list[str], Field(description="first day of each sum")]
    last: Annotated[list[str], Field(description="last day of each sum")]
    rows: Annotated[list[int], Field(description="how many rows each sum has")]
    sales: Annotated[list[float], Field(description="each sum")]
    intervals: Annotated[list[Interval], Field(description="bounds of each sum")]
    quantiles: Annotated[list[Quantile], Field(description="quantiles of each sum")] = []


class ChallengerRows(BaseModel):
    """Rows that the challenger of an experiment answered, by their places from 0."""

    model_version: Annotated[int, Field(description="number of the challenger")]
    rows: Annotated[list[int], Field(description="rows that it answered, from 0")]


class PredictResponse(BaseModel):
    """``predictions[i]`` answers ``inputs[i]``.

    ``model_version`` answered every row but those of ``challenger``, which is null unless an
    experiment gave it some.
    """

    predictions: Annotated[list[float], Field(description="sales forecast of each row")]
    model_version: Annotated[int, Field(description="version that answered")]
    model_stage: Annotated[str, Field(description="its stage")]
    challenger: Annotated[
        ChallengerRows | None, Field(description="rows that a challenger answered")
    ] = None
    count: Annotated[int, Field(description="number of rows")]
    as_of: Annotated[str, Field(description="origin: last day whose sales were used")]
    objective: Annotated[Objective, Field(description="objective of the forecasts")] = "accuracy"
    intervals: Annotated[list[Interval], Field(description="bounds by level")]
    quantiles: Annotated[list[Quantile], Field(description="sales by quantile")] = []
    totals: Annotated[
        list[TotalsResponse], Field(description="sums by what the request names")
    ] = []
    warnings: Annotated[
        list[WarningMessage], Field(description="reasons to use a forecast with care")
    ]
    request_id: Annotated[
        str, Field(description="id of the request, as in header `X-Request-ID` and the logs")
    ]


class Driver(BaseModel):
    """One thing that drove a forecast: a factor, the same in per cent, and what it adds."""

    name: Annotated[str, Field(description="a stable word")]
    label: Annotated[str, Field(description="the same for people")]
    factor: Annotated[float, Field(description="factor of the forecast")]
    percent: Annotated[float, Field(description="the factor as a change in per cent")]
    sales: Annotated[float, Field(description="what it adds in sales")]


class OtherPromo(BaseModel):
    """The forecast of the same row with ``Promo`` switched to ``promo``; ``percent``: its change.

    It is the effect of this day's promotion alone. The driver ``promotion`` is larger, as it holds
    what promotions of the days around do, too, and counts from an average day.
    """

    promo: Annotated[Literal[0, 1], Field(description="the other value of Promo")]
    forecast: Annotated[float, Field(description="forecast with it")]
    percent: Annotated[float, Field(description="change from the row's own forecast, in per cent")]


class Explanation(BaseModel):
    """A row's forecast: ``baseline`` times every factor, or ``baseline`` plus every ``sales``.

    ``other_promo``: null on a closed day.
    """

    forecast: Annotated[float, Field(description="sales forecast")]
    baseline: Annotated[float, Field(description="sales of an average day of the store")]
    drivers: Annotated[list[Driver], Field(description="what drove the forecast")]
    other_promo: Annotated[
        OtherPromo | None, Field(description="the same row with the other Promo")
    ] = None


class ExplainResponse(PredictResponse):
    """``explanations[i]``: the drivers of ``predictions[i]``."""

    explanations: Annotated[list[Explanation], Field(description="drivers of each row")]
