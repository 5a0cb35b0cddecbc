"""Settings of the training, its profiles, and of the gate."""

from datetime import date
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings

from rossmann.schema import DEFAULT_COUNTRY

ProfileName = Literal["full", "quick"]


class Profile(BaseModel):
    """How much a training run learns from, with which members, blended how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: Annotated[int, Field(ge=0)] = 0
    """Training rows; 0 uses every row."""
    members: dict[str, dict[str, float | int]]
    """Parameters of each member, by the names that its library gives them."""
    weights: dict[str, float]
    """Weight of each member in the blend; they sum to 1."""

    @model_validator(mode="after")
    def _weights_fit_members(self) -> "Profile":
        if set(self.weights) != set(self.members):
            raise ValueError(f"weights name {sorted(self.weights)}, members {sorted(self.members)}")
        if min(self.weights.values()) < 0 or abs(sum(self.weights.values()) - 1) > 1e-6:
            raise ValueError("weights must be zero or more and sum to 1")
        return self


class TrainingSettings(BaseSettings):
    """Training and backtest."""

    seed: int = 20150801
    """Seed of the sampled origins and rows, of the members, and of the demo chain."""
    history_days: Annotated[int, Field(ge=1)] = 31
    """Rows whose store has fewer days of history are not used for training."""
    windows: tuple[Annotated[int, Field(ge=1)], ...] = (48, 365)
    """Origins of the backtest windows, as days before the last day of history."""
    window_days: Annotated[int, Field(ge=1, le=48)] = 48
    """Length of a backtest window, in days."""
    country: Annotated[str, Field(pattern="^[A-Z]{2}$")] = DEFAULT_COUNTRY
    """Country (ISO 3166) whose public holidays and working days hold."""
    reserved_origins: tuple[date, ...] = (date(2015, 6, 13),)
    """Origins whose windows tuning leaves out, so that they can judge what was chosen."""
    later_windows: Annotated[int, Field(ge=0, le=12)] = 7
    """Most further windows that a backtest fit forecasts, for calibration and the gate."""
    chain_floor: Annotated[float, Field(ge=0, le=0.2)] = 0.03
    """Least standard deviation of the chain's lasting error, for intervals of totals."""
    profiles: dict[ProfileName, Profile] = Field(default_factory=dict)
    """Training profiles by name."""


class GateSettings(BaseSettings):
    """The gate."""

    gate_tolerance: Annotated[float, Field(ge=0, le=0.01)] = 0.001
    """WAPE by which a candidate may be worse than Production on one window."""
    gate_improvement: Annotated[float, Field(ge=0, le=0.5)] = 0.005
    """Least share by which a candidate's WAPE must be lower than Production's."""
    gate_chance: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """Largest p-value of a better error: paired test by stores, weeks and windows."""
    gate_margin: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """Share by which a WAPE on newer data may be higher and counts as no worse."""
    gate_days: Annotated[int, Field(ge=2, le=48)] = 14
    """Least days after Production's data for a comparison on newer data."""
    gate_coverage: Annotated[float, Field(ge=0, le=1)] = 0.15
    """Largest error of the coverage of the 80 and 95 % intervals."""
    gate_bias: Annotated[float, Field(ge=0, le=1)] = 0.08
    """Largest bias of a window's total, as a share."""
    gate_promotion: Annotated[float, Field(ge=0)] = 0.01
    """Least share by which a promotion raises the chain's sales."""
    gate_record: Annotated[float, Field(gt=0)] = 3
    """Largest forecast, as a multiple of the store's best day."""
    gate_rows_per_second: Annotated[float, Field(gt=0)] = 2_000
    """Least rows that a version forecasts in a second."""
    gate_size_mb: Annotated[float, Field(gt=0)] = 200
    """Largest size of a version's files, in megabytes."""
