"""Groups of settings: what a request may do, training with its profiles, and the gate."""

import re
from datetime import date
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode

from rossmann.addresses import HostNames
from rossmann.schema import DEFAULT_COUNTRY

ProfileName = Literal["full", "quick"]


class AccessSettings(BaseSettings):
    """Keys, tokens, limits of callers, and the sites and proxies that are believed."""

    api_keys: str = ""
    """SHA-256 of keys, as ``right:hex:name`` with commas between; see ``rossmann keys``."""
    api_key: str = ""
    """The key that this program's own client (the dashboard) sends; a secret."""
    oidc_issuer: str = ""
    """Provider of tokens (OpenID Connect), as its discovery document spells it; empty: none."""
    oidc_audience: str = ""
    """The audience that a token must name."""
    oidc_rights_claim: str = "scope"
    """Claim of a token that holds ``predict`` or ``operate``; dots lead into objects."""
    stores_for_anyone: bool = True
    """Whether ``GET /stores...``, which shows sales, needs no key."""
    rate_limit: str = ""
    """Calls of one key, or of one address without a key, such as ``20/second, 600/minute``."""
    rate_limit_rows: str = "20000000/hour"
    """The same for forecast rows: once they are used up, calls get a 429; ``none``: no limit."""
    rate_limit_store: str = ""
    """URL of a Redis that counts for several machines; empty: each machine counts its own."""
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Sites whose pages may call, as ``https://host`` with commas between; empty: none."""
    allowed_hosts: Annotated[HostNames, NoDecode] = ()
    """Names by which an open API and the dashboard may be called, besides those known anyway."""
    trusted_proxies: str = ""
    """Addresses of the proxies whose ``X-Forwarded-For`` is believed, with commas between."""
    tls_in_front: bool = False
    """A proxy in front speaks TLS: the response header HSTS keeps browsers to it."""

    @field_validator("cors_origins", "allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(filter(None, re.split(r"[\s,]+", value))) if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s*@]+", origin):
                raise ValueError(f"{origin[:60]} must be such as https://host or https://host:8443")
        return value

    @model_validator(mode="after")
    def _provider_fits(self) -> "AccessSettings":
        if not self.oidc_issuer:
            return self
        address = urlsplit(self.oidc_issuer)
        here = address.hostname in {"localhost", "127.0.0.1", "::1"}
        if address.scheme != "https" and not (address.scheme == "http" and here):
            raise ValueError("oidc_issuer must be https, or http on this machine")
        if "@" in address.netloc:
            raise ValueError("oidc_issuer must hold no user and no password")
        if not self.oidc_audience:
            raise ValueError("oidc_audience must name this service, as tokens made for it do")
        return self


class RequestLimits(BaseSettings):
    """The budget of a request: its rows, bytes, seconds and memory."""

    max_rows: Annotated[int, Field(ge=1)] = 100_000
    """Maximum rows of ``POST /predict``."""
    explain_max_rows: Annotated[int, Field(ge=1)] = 500
    """Maximum rows of ``POST /explain``, which takes some 25 ms a row."""
    max_body_mb: Annotated[int, Field(ge=1)] = 64
    """Maximum size of a request body, in megabytes."""
    max_bodies_mb: Annotated[int, Field(ge=1)] = 256
    """Megabytes of all bodies that a worker holds; one of ``max_body_mb`` always has room alone."""
    max_body_seconds: Annotated[float, Field(gt=0)] = 120.0
    """Seconds in which a request must have come; files have ``max_transfer_seconds``."""
    max_file_mb: Annotated[int, Field(ge=1)] = 512
    """Maximum size of a file for ``POST /predict/file``, in megabytes."""
    max_file_rows: Annotated[int, Field(ge=1)] = 10_000_000
    """Maximum rows of a file."""
    max_file_memory_mb: Annotated[int, Field(ge=768)] = 1_024
    """Address space of the process that reads a workbook or a Parquet file, in megabytes."""
    max_file_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Seconds in which such a file must be read."""
    max_transfer_seconds: Annotated[float, Field(gt=0)] = 600.0
    """Seconds that a client may take to send a file, and as many to read the result."""


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
