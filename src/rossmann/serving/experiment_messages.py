"""What ``GET /experiments/current`` tells, as types that the service and its client share."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel


class RoleRows(BaseModel):
    """Logged rows of a version: the caller got them, from Production or a challenger, or nobody."""

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


class SideScore(BaseModel):
    """A version on ``rows`` whose sales are known: error, and total over sold total less 1."""

    model_version: int
    rows: int
    stores: int
    rmspe: float | None
    bias: float | None


class KnownSales(BaseModel):
    """Both versions against what was sold.

    ``paired``: on the same rows. Then ``chance`` is how often luck alone makes the challenger look
    as good, and ``better_stores`` the share of stores where it errs less. Not paired: each on
    stores of its own, so a difference may be the stores'.
    """

    paired: bool
    challenger: SideScore
    production: SideScore
    chance: float | None
    better_stores: float | None


class Compared(BaseModel):
    """What the prediction log says of both versions.

    ``reason`` says why something is missing; ``looked_from``: older rows are not looked at;
    ``since``: when both had begun to be logged, as far as was looked.
    """

    reason: str = ""
    looked_from: datetime | None = None
    since: datetime | None = None
    rows: list[RoleRows] = []
    agreement: Agreement | None = None
    known_sales: KnownSales | None = None


class ShadowQueue(BaseModel):
    """Rows behind the answers of the process that was asked, since it began."""

    waiting: int
    done: int
    dropped: int
    failed: int
    last_error: str


class ExperimentState(BaseModel):
    """What runs beside Production; ``reason`` says why no challenger answers, else it is empty.

    ``stores``: how many the challenger answers. ``challenger`` is what the settings ask for.
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
    comparison: Compared | None = None
