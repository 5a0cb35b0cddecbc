"""A challenger beside Production: it answers a share of the stores, or only the log sees it.

A store belongs to one of the two by its number alone, so it gets the same version in every
request, whatever the batch. Where the challenger cannot be had, or cannot do what a request asks
for, Production answers all of it.

MERGED: Which stores an experiment gives to its challenger: the same in every process and release.
"""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from rossmann.errors import RequestError, RossmannError
from rossmann.logging_config import get_logger
from rossmann.models.inference.attributions import explanation_records
from rossmann.models.inference.forecaster import Forecast, Forecaster, Interval
from rossmann.models.inference.row_warnings import RowWarning, row_warning
from rossmann.prediction_log.records import LoggedRole
from rossmann.schema import FloatArray, Objective, Stage, StoreDays
from rossmann.serving.runtime.version_cache import LoadedVersion
from rossmann.serving.runtime.version_manager import SelectedVersion, VersionManager
from rossmann.settings import Settings

if TYPE_CHECKING:
    from rossmann.data.panel.panel import Panel


_STEPS: Final = 2**53
"""As many as a float tells apart."""


def hash_fraction(salt: str, store: int) -> float:
    """Where a store falls from 0 to below 1, evenly, by nothing but ``salt`` and its number."""
    digest = hashlib.sha256(f"{salt}\n{store}".encode()).digest()
    return (int.from_bytes(digest[:7], "big") >> 3) / _STEPS


class StoreAssigner:
    """Deals a share of the stores; a larger share keeps those of a smaller one."""

    def __init__(self, salt: str, share: float) -> None:
        self._salt = salt
        self._share = share
        self._known: dict[int, bool] = {}

    def is_challenger(self, stores: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        """Whether each of ``stores`` (n,), which exist, is the challenger's."""
        numbers, back = np.unique(stores, return_inverse=True)
        flags = np.array([self._one(number) for number in numbers.tolist()], np.bool_)
        return np.asarray(flags[back], np.bool_)

    def _one(self, store: int) -> bool:
        found = self._known.get(store)
        if found is None:
            found = self._known[store] = hash_fraction(self._salt, store) < self._share
        return found


RowIndex = npt.NDArray[np.int64]
Asked = tuple[StoreDays, int | None, tuple[float, ...], Objective]
"""What ``Forecaster.forecast`` takes."""
SINGLE_VERSION_MESSAGE: Final = (
    "totals are of one version: Production answered the rows of stores that a challenger answers"
    " elsewhere"
)


@dataclass(frozen=True, slots=True)
class TrafficSplit:
    """A request whose rows two versions answer: ``theirs`` are the places of the challenger's.

    ``origin``: the whole request's. Both forecasters stand over one panel.
    """

    challenger: SelectedVersion
    production_rows: RowIndex
    challenger_rows: RowIndex
    origin: int

    def parts(
        self, production: SelectedVersion
    ) -> tuple[tuple[RowIndex, SelectedVersion, LoggedRole], ...]:
        """The rows of each, who answers them, and in which role."""
        return (self.production_rows, production, "answer"), (
            self.challenger_rows,
            self.challenger,
            "challenger",
        )

    def to_response(self) -> dict[str, Any]:
        """What the answer says of the challenger."""
        version = self.challenger.served.version
        return {"model_version": version, "rows": self.challenger_rows.tolist()}


class Experiment:
    """What one worker knows of the experiment that the settings ask for."""

    def __init__(self, settings: Settings, versions: VersionManager) -> None:
        self.mode = settings.experiment
        self.wanted = settings.experiment_challenger
        self.share = settings.experiment_share
        self.salt = settings.experiment_salt
        self.dealer = StoreAssigner(self.salt, self.share)
        self._versions = versions
        self._challenger: LoadedVersion | None = None
        self._stage = ""
        self._reason = "the challenger is not loaded yet"
        self._failed: dict[tuple[int, str], str] = {}
        self._logger = get_logger("experiment")

    @property
    def reason(self) -> str:
        """Why no challenger answers; empty where one does."""
        now, production = self._challenger, self._versions.production
        if now is not None and production is not None and now.version == production.version:
            return f"version {now.version} is Production itself"
        return self._reason

    @property
    def challenger_version(self) -> int | None:
        """The version that is meant, whether it can be had or not; None where there is none."""
        return self._versions.snapshot.resolve(self.wanted)

    def refresh_challenger(self) -> None:
        """Load the version that is the challenger by now, or find out why it cannot be had."""
        try:
            picked = self._versions.load(self.wanted)
        except (RossmannError, OSError) as error:
            self._leave(f"the challenger ({self.wanted}) cannot be had: {error}")
            return
        served = picked.served
        self._versions.pin(served.version)
        failure = self._failed.get((served.version, served.run_id))
        if failure is not None:
            self._leave(failure)
            return
        if self._reason:
            self._logger.info("challenger in service", version=served.version, mode=self.mode)
        self._challenger, self._stage, self._reason = served, picked.stage, ""

    def _leave(self, reason: str) -> None:
        if reason != self._reason:
            self._logger.warning("no challenger", reason=reason)
        self._challenger, self._reason = None, reason

    def challenger(self, panel: "Panel") -> SelectedVersion | None:
        """The challenger over that panel, ready to answer; None where it cannot; never waits."""
        now, production = self._challenger, self._versions.production
        if now is None or (production is not None and production.version == now.version):
            return None
        if now.forecaster.panel is not panel:
            # New data is taken over version by version, and a request must see one panel.
            now = LoadedVersion(now.version, now.run_id, now.forecaster.with_panel(panel))
        return SelectedVersion(now, self._stage)

    def split(self, picked: SelectedVersion, asked: Asked) -> TrafficSplit | None:
        """Which rows the challenger answers; None where it answers none.

        Raises ``RequestError`` for what Production refuses.
        """
        rows, as_of, levels, objective = asked
        dealt = self.dealer.is_challenger(rows.store)
        if not dealt.any():
            return None
        own = picked.served.forecaster
        challenger = self.challenger(own.panel)
        if challenger is None:
            return None
        origin = own.resolve_origin(rows, as_of, levels, objective)
        theirs = np.flatnonzero(dealt)
        try:
            challenger.served.forecaster.resolve_origin(
                rows.take(theirs), origin, levels, objective
            )
        except RequestError:
            return None  # it knows no such level or objective: Production, which does, answers
        return TrafficSplit(challenger, np.flatnonzero(~dealt), theirs, origin)

    def forecast(
        self, picked: SelectedVersion, split: TrafficSplit, asked: Asked
    ) -> Forecast | None:
        """The forecast of both, in the order asked; None where the challenger fails."""
        rows, _, levels, objective = asked
        scored = self._try(split, Forecaster.predict_rows, rows, levels, objective)
        if scored is None:
            return None
        own = picked.served.forecaster
        sales, bands = own.predict_rows(
            rows.take(split.production_rows), split.origin, levels, objective
        )
        merged = tuple(
            Interval(
                mine.level,
                _merge(split, mine.lower, theirs.lower),
                _merge(split, mine.upper, theirs.upper),
            )
            for mine, theirs in zip(bands, scored[1], strict=True)
        )
        found = own.warnings(rows, split.origin)
        return Forecast(_merge(split, sales, scored[0]), split.origin, merged, found, objective)

    def explain(
        self, picked: SelectedVersion, split: TrafficSplit, asked: Asked
    ) -> tuple[Forecast, list[dict[str, Any]]] | None:
        """The same with what drove each row, by the version that answers it."""
        forecast = self.forecast(picked, split, asked)
        if forecast is None:
            return None
        rows, _, levels, objective = asked
        theirs = self._try(split, Forecaster.explain, rows, levels, objective)
        if theirs is None:
            return None
        told: dict[int, dict[str, Any]] = dict(
            zip(split.challenger_rows.tolist(), explanation_records(theirs), strict=True)
        )
        if len(split.production_rows):
            mine = picked.served.forecaster.explain(
                rows.take(split.production_rows), split.origin, levels, objective
            )
            told |= zip(split.production_rows.tolist(), explanation_records(mine), strict=True)
        return forecast, [told[row] for row in range(len(rows))]

    def _try(self, split: TrafficSplit, work: Any, rows: StoreDays, *more: object) -> Any:
        """The challenger's work on its rows; None where it fails, and it is then set aside."""
        served = split.challenger.served
        try:
            return work(served.forecaster, rows.take(split.challenger_rows), split.origin, *more)
        except Exception as error:  # noqa: BLE001 - a challenger must cost no answer
            # For good: else rows would go to and fro between versions, as it fails or not.
            reason = (
                f"version {served.version} failed to answer and is set aside until another takes"
                f" its place or the service starts again: {error!r}"[:400]
            )
            self._failed[served.version, served.run_id] = reason
            self._leave(reason)
            return None

    def single_version_warnings(self, rows: StoreDays) -> list[RowWarning]:
        """The warning that totals keep the challenger out; empty where it has no row."""
        theirs = np.flatnonzero(self.dealer.is_challenger(rows.store))
        if not len(theirs) or self.reason:
            return []
        return [row_warning("experiment", SINGLE_VERSION_MESSAGE, theirs)]


def take_rows(forecast: Forecast, places: RowIndex) -> Forecast:
    """The forecast of some of its rows."""
    bands = tuple(Interval(b.level, b.lower[places], b.upper[places]) for b in forecast.bands)
    return Forecast(forecast.sales[places], forecast.as_of, bands, (), forecast.objective)


def is_eligible(stage: str | int) -> bool:
    """Whether a request for that stage or version is one of an experiment's."""
    return stage == Stage.PRODUCTION


def _merge(split: TrafficSplit, mine: FloatArray, theirs: FloatArray) -> FloatArray:
    whole = np.empty(len(mine) + len(theirs))
    whole[split.production_rows], whole[split.challenger_rows] = mine, theirs
    return whole
