"""A/B test of a challenger version against Production: which stores it answers, and the merging.

A store is assigned by a hash of its number alone, so it gets the same version in every request,
process and release. Where the challenger is not available, or does not support what a request
asks for, Production answers all of it.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from rossmann.errors import RequestError, RossmannError, ServiceError
from rossmann.logging_config import get_logger
from rossmann.models.inference.attributions import explanation_records
from rossmann.models.inference.forecaster import (
    Forecast,
    Forecaster,
    ForecastRequest,
    Interval,
    Quantile,
    RowForecasts,
)
from rossmann.models.inference.row_warnings import RowWarning, WarningFlags, single_version_warnings
from rossmann.prediction_log.records import LoggedRole
from rossmann.schema import FloatArray, Stage, StoreDays
from rossmann.serving.observability.prediction_recorder import RowIndex
from rossmann.serving.runtime.registry_view import LoadedVersion
from rossmann.serving.runtime.version_manager import SelectedVersion, VersionManager
from rossmann.settings import Settings

if TYPE_CHECKING:
    from rossmann.data.panel.panel import Panel

_HASH_STEPS: Final = 2**53
"""The integers that a float represents exactly."""


def hash_fraction(salt: str, store: int) -> float:
    """A number from 0 to below 1, uniform over stores, from ``salt`` and the store's number."""
    digest = hashlib.sha256(f"{salt}\n{store}".encode()).digest()
    return (int.from_bytes(digest[:7], "big") >> 3) / _HASH_STEPS


class StoreAssigner:
    """Assigns a share of the stores to the challenger; a larger share includes a smaller one."""

    def __init__(self, salt: str, share: float) -> None:
        self._salt = salt
        self._share = share
        self._assigned: dict[int, bool] = {}

    def is_challenger(self, stores: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        """Whether each of ``stores`` (n,) is the challenger's."""
        numbers, inverse = np.unique(stores, return_inverse=True)
        flags = np.array([self._is_assigned(number) for number in numbers.tolist()], np.bool_)
        return np.asarray(flags[inverse], np.bool_)

    def _is_assigned(self, store: int) -> bool:
        assigned = self._assigned.get(store)
        if assigned is None:
            assigned = hash_fraction(self._salt, store) < self._share
            self._assigned[store] = assigned
        return assigned


@dataclass(frozen=True, slots=True)
class TrafficSplit:
    """A request that two versions answer: the row numbers of each, and the one origin of both.

    Both forecasters use the same panel.
    """

    challenger: SelectedVersion
    production_rows: RowIndex
    challenger_rows: RowIndex
    origin: int

    def parts(
        self, production: SelectedVersion
    ) -> tuple[tuple[RowIndex, SelectedVersion, LoggedRole], ...]:
        """Rows, version and role of each part."""
        return (
            (self.production_rows, production, "answer"),
            (self.challenger_rows, self.challenger, "challenger"),
        )

    def to_response(self) -> dict[str, Any]:
        """The response's field ``challenger``."""
        version = self.challenger.served.version
        return {"model_version": version, "rows": self.challenger_rows.tolist()}

    def merge(self, production: RowForecasts, challenger: RowForecasts) -> RowForecasts:
        """Forecasts of both parts in the order of the request."""
        return RowForecasts(
            self._merge(production.sales, challenger.sales),
            tuple(
                Interval(
                    own.level,
                    self._merge(own.lower, other.lower),
                    self._merge(own.upper, other.upper),
                )
                for own, other in zip(production.intervals, challenger.intervals, strict=True)
            ),
            tuple(
                Quantile(own.quantile, self._merge(own.sales, other.sales))
                for own, other in zip(production.quantiles, challenger.quantiles, strict=True)
            ),
        )

    def _merge(self, production: FloatArray, challenger: FloatArray) -> FloatArray:
        """Values of both parts in the order of the request, (n,)."""
        merged = np.empty(len(production) + len(challenger))
        merged[self.production_rows], merged[self.challenger_rows] = production, challenger
        return merged


class Experiment:
    """The experiment of the settings, as one worker process knows it."""

    def __init__(self, settings: Settings, versions: VersionManager) -> None:
        self.mode = settings.experiment
        self.challenger_stage = settings.experiment_challenger
        self.share = settings.experiment_share
        self.salt = settings.experiment_salt
        self.assigner = StoreAssigner(self.salt, self.share)
        self._versions = versions
        self._challenger: LoadedVersion | None = None
        self._stage = ""
        self._reason = "the challenger is not loaded yet"
        self._failures: dict[tuple[int, str], str] = {}
        self._logger = get_logger("experiment")

    @property
    def reason(self) -> str:
        """Why no challenger answers; empty where one does."""
        challenger, production = self._challenger, self._versions.production
        if (
            challenger is not None
            and production is not None
            and challenger.version == production.version
        ):
            return f"version {challenger.version} is Production itself"
        return self._reason

    @property
    def challenger_version(self) -> int | None:
        """Number of the challenger, loaded or not; None where the stage is empty."""
        return self._versions.snapshot.resolve(self.challenger_stage)

    def refresh_challenger(self) -> None:
        """Load the current challenger, or store the reason why it is not available."""
        try:
            version = self._versions.load(self.challenger_stage)
        except (RossmannError, OSError) as error:
            self._drop(f"the challenger ({self.challenger_stage}) cannot be had: {error}")
            return
        served = version.served
        self._versions.pin(served.version)
        failure = self._failures.get((served.version, served.run_id))
        if failure is not None:
            self._drop(failure)
            return
        if self._reason:
            self._logger.info("challenger in service", version=served.version, mode=self.mode)
        self._challenger, self._stage, self._reason = served, version.stage, ""

    def _drop(self, reason: str) -> None:
        if reason != self._reason:
            self._logger.warning("no challenger", reason=reason)
        self._challenger, self._reason = None, reason

    def challenger(self, panel: "Panel") -> SelectedVersion | None:
        """The loaded challenger over ``panel``; None where there is none. Never blocks."""
        challenger, production = self._challenger, self._versions.production
        if challenger is None or (
            production is not None and production.version == challenger.version
        ):
            return None
        if challenger.forecaster.panel is not panel:
            # New data is taken over version by version, and a request must see one panel.
            challenger = LoadedVersion(
                challenger.version, challenger.run_id, challenger.forecaster.with_panel(panel)
            )
        return SelectedVersion(challenger, self._stage)

    def split(self, version: SelectedVersion, request: ForecastRequest) -> TrafficSplit | None:
        """Which rows the challenger answers; None where it answers none.

        Raises ``RequestError`` for what Production (``version``) refuses.
        """
        assigned = self.assigner.is_challenger(request.rows.store)
        if not assigned.any():
            return None
        production = version.served.forecaster
        challenger = self.challenger(production.panel)
        if challenger is None:
            return None
        origin = production.resolve_origin(request)
        challenger_rows = np.flatnonzero(assigned)
        try:
            challenger.served.forecaster.resolve_origin(request.take(challenger_rows, origin))
        except RequestError:
            return None  # it has no such level or objective: Production, which does, answers
        return TrafficSplit(challenger, np.flatnonzero(~assigned), challenger_rows, origin)

    def forecast(
        self,
        version: SelectedVersion,
        split: TrafficSplit,
        request: ForecastRequest,
        check: Callable[[], None] = lambda: None,
    ) -> Forecast | None:
        """The forecast of both versions in request order; None where the challenger fails.

        ``check`` is called between parts, and may raise ``ServiceError`` to end the work.
        """
        part = request.take(split.challenger_rows, split.origin)
        predicted = self._try(split, Forecaster.predict_rows, part, split.origin, check)
        if predicted is None:
            return None
        production = version.served.forecaster
        part = request.take(split.production_rows, split.origin)
        own = production.predict_rows(part, split.origin, check)
        sales, intervals, quantiles = split.merge(own, predicted)
        flags = _warning_flags(version, split, request)
        warnings = production.warnings(request.rows, split.origin, flags)
        return Forecast(sales, split.origin, intervals, warnings, request.objective, quantiles)

    def explain(
        self,
        version: SelectedVersion,
        split: TrafficSplit,
        request: ForecastRequest,
        check: Callable[[], None] = lambda: None,
    ) -> tuple[Forecast, list[dict[str, Any]]] | None:
        """The same with each row's explanation by the version that answers it."""
        forecast = self.forecast(version, split, request, check)
        if forecast is None:
            return None
        part = request.take(split.challenger_rows, split.origin)
        explanation = self._try(split, Forecaster.explain, part, check)
        if explanation is None:
            return None
        records: dict[int, dict[str, Any]] = dict(
            zip(split.challenger_rows.tolist(), explanation_records(explanation), strict=True)
        )
        if len(split.production_rows):
            own = version.served.forecaster.explain(
                request.take(split.production_rows, split.origin), check
            )
            records |= zip(split.production_rows.tolist(), explanation_records(own), strict=True)
        return forecast, [records[row] for row in range(len(request.rows))]

    def _try(self, split: TrafficSplit, method: Any, *arguments: object) -> Any:
        """Call a method of the challenger's forecaster; None, and no challenger, if it fails."""
        served = split.challenger.served
        try:
            return method(served.forecaster, *arguments)
        except ServiceError:  # the work is given up; no fault of the version
            raise
        except Exception as error:  # noqa: BLE001 -- Production answers instead
            # For good: else rows would alternate between versions, as it fails or not.
            reason = (
                f"version {served.version} failed to answer and is set aside until another takes"
                f" its place or the service starts again: {error!r}"[:400]
            )
            self._failures[served.version, served.run_id] = reason
            self._drop(reason)
            return None

    def single_version_warnings(self, rows: StoreDays) -> list[RowWarning]:
        """The warning that totals exclude the challenger; empty where it has no row."""
        challenger_rows = np.flatnonzero(self.assigner.is_challenger(rows.store))
        return [] if self.reason else single_version_warnings(challenger_rows)


def _warning_flags(
    version: SelectedVersion, split: TrafficSplit, request: ForecastRequest
) -> WarningFlags:
    """The warnings of each row (n,), by the version that answers it."""
    flags = version.served.forecaster.warning_flags(request.rows, split.origin)
    rows = split.challenger_rows
    challenger = split.challenger.served.forecaster
    flags[rows] = challenger.warning_flags(request.rows.take(rows), split.origin)
    return flags


def take_rows(forecast: Forecast, index: RowIndex) -> Forecast:
    """The forecast of the rows at ``index`` for the prediction log: no warnings, no quantiles."""
    part = RowForecasts(forecast.sales, forecast.intervals).take(index)
    return Forecast(part.sales, forecast.as_of, part.intervals, (), forecast.objective)


def is_eligible(stage: str | int) -> bool:
    """Whether requests for that stage or version take part in an experiment."""
    return stage == Stage.PRODUCTION
