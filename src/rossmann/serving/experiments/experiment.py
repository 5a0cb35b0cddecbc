"""A challenger beside Production: it answers a share of the stores, or only the log sees it.

A store belongs to one of the two by its number alone, so it gets the same version in every
request, whatever the batch. Where the challenger cannot be had, or cannot do what a request asks
for, Production answers all of it.

MERGED: Which stores an experiment gives to its challenger: the same in every process and release.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rossmann.errors import RequestError, RossmannError
from rossmann.logging_config import get_logger
from rossmann.models.inference.attributions import explanations
from rossmann.models.inference.forecaster import Band, Forecast, Forecaster
from rossmann.models.inference.protocols import StorePanel
from rossmann.models.inference.row_warnings import Warned, warned
from rossmann.prediction_log.records import LoggedRole
from rossmann.schema import FloatArray, Objective, Rows, Stage
from rossmann.serving.runtime.version_cache import Served
from rossmann.serving.runtime.version_manager import Picked, Versions
from rossmann.settings import Settings

_STEPS: Final = 2**53
"""As many as a float tells apart."""


def place_of(salt: str, store: int) -> float:
    """Where a store falls from 0 to below 1, evenly, by nothing but ``salt`` and its number."""
    digest = hashlib.sha256(f"{salt}\n{store}".encode()).digest()
    return (int.from_bytes(digest[:7], "big") >> 3) / _STEPS


class Dealer:
    """Deals a share of the stores; a larger share keeps those of a smaller one."""

    def __init__(self, salt: str, share: float) -> None:
        self._salt = salt
        self._share = share
        self._known: dict[int, bool] = {}

    def deals(self, stores: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        """Whether each of ``stores`` (n,), which exist, is the challenger's."""
        numbers, back = np.unique(stores, return_inverse=True)
        flags = np.array([self._one(number) for number in numbers.tolist()], np.bool_)
        return np.asarray(flags[back], np.bool_)

    def _one(self, store: int) -> bool:
        found = self._known.get(store)
        if found is None:
            found = self._known[store] = place_of(self._salt, store) < self._share
        return found


Places = npt.NDArray[np.int64]
Asked = tuple[Rows, int | None, tuple[float, ...], Objective]
"""What ``Forecaster.forecast`` takes."""
ONE_VERSION: Final = (
    "totals are of one version: Production answered the rows of stores that a challenger answers"
    " elsewhere"
)


@dataclass(frozen=True, slots=True)
class Split:
    """A request whose rows two versions answer: ``theirs`` are the places of the challenger's.

    ``origin``: the whole request's. Both forecasters stand over one panel.
    """

    challenger: Picked
    mine: Places
    theirs: Places
    origin: int

    def sides(self, production: Picked) -> tuple[tuple[Places, Picked, LoggedRole], ...]:
        """The rows of each, who answers them, and in which role."""
        return (self.mine, production, "answer"), (self.theirs, self.challenger, "challenger")

    def told(self) -> dict[str, Any]:
        """What the answer says of the challenger."""
        version = self.challenger.served.version
        return {"model_version": version, "rows": self.theirs.tolist()}


class Experiment:
    """What one worker knows of the experiment that the settings ask for."""

    def __init__(self, settings: Settings, versions: Versions) -> None:
        self.mode = settings.experiment
        self.wanted = settings.experiment_challenger
        self.share = settings.experiment_share
        self.salt = settings.experiment_salt
        self.dealer = Dealer(self.salt, self.share)
        self._versions = versions
        self._challenger: Served | None = None
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
        return self._versions.seen.number(self.wanted)

    def look(self) -> None:
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

    def challenger(self, panel: StorePanel) -> Picked | None:
        """The challenger over that panel, ready to answer; None where it cannot; never waits."""
        now, production = self._challenger, self._versions.production
        if now is None or (production is not None and production.version == now.version):
            return None
        if now.forecaster.panel is not panel:
            # New data is taken over version by version, and a request must see one panel.
            now = Served(now.version, now.run_id, now.forecaster.over(panel))
        return Picked(now, self._stage)

    def split(self, picked: Picked, asked: Asked) -> Split | None:
        """Which rows the challenger answers; None where it answers none.

        Raises ``RequestError`` for what Production refuses.
        """
        rows, as_of, levels, objective = asked
        dealt = self.dealer.deals(rows.store)
        if not dealt.any():
            return None
        own = picked.served.forecaster
        challenger = self.challenger(own.panel)
        if challenger is None:
            return None
        origin = own.settle(rows, as_of, levels, objective)
        theirs = np.flatnonzero(dealt)
        try:
            challenger.served.forecaster.settle(rows.take(theirs), origin, levels, objective)
        except RequestError:
            return None  # it knows no such level or objective: Production, which does, answers
        return Split(challenger, np.flatnonzero(~dealt), theirs, origin)

    def forecast(self, picked: Picked, split: Split, asked: Asked) -> Forecast | None:
        """The forecast of both, in the order asked; None where the challenger fails."""
        rows, _, levels, objective = asked
        scored = self._try(split, Forecaster.score, rows, levels, objective)
        if scored is None:
            return None
        own = picked.served.forecaster
        sales, bands = own.score(rows.take(split.mine), split.origin, levels, objective)
        merged = tuple(
            Band(
                mine.level,
                _merge(split, mine.lower, theirs.lower),
                _merge(split, mine.upper, theirs.upper),
            )
            for mine, theirs in zip(bands, scored[1], strict=True)
        )
        found = own.doubts(rows, split.origin)
        return Forecast(_merge(split, sales, scored[0]), split.origin, merged, found, objective)

    def explain(
        self, picked: Picked, split: Split, asked: Asked
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
            zip(split.theirs.tolist(), explanations(theirs), strict=True)
        )
        if len(split.mine):
            mine = picked.served.forecaster.explain(
                rows.take(split.mine), split.origin, levels, objective
            )
            told |= zip(split.mine.tolist(), explanations(mine), strict=True)
        return forecast, [told[row] for row in range(len(rows))]

    def _try(self, split: Split, work: Any, rows: Rows, *more: object) -> Any:
        """The challenger's work on its rows; None where it fails, and it is then set aside."""
        served = split.challenger.served
        try:
            return work(served.forecaster, rows.take(split.theirs), split.origin, *more)
        except Exception as error:  # noqa: BLE001 - a challenger must cost no answer
            # For good: else rows would go to and fro between versions, as it fails or not.
            reason = (
                f"version {served.version} failed to answer and is set aside until another takes"
                f" its place or the service starts again: {error!r}"[:400]
            )
            self._failed[served.version, served.run_id] = reason
            self._leave(reason)
            return None

    def of_one_version(self, rows: Rows) -> list[Warned]:
        """The warning that totals keep the challenger out; empty where it has no row."""
        theirs = np.flatnonzero(self.dealer.deals(rows.store))
        if not len(theirs) or self.reason:
            return []
        return [warned("experiment", ONE_VERSION, theirs)]


def part_of(forecast: Forecast, places: Places) -> Forecast:
    """The forecast of some of its rows."""
    bands = tuple(Band(b.level, b.lower[places], b.upper[places]) for b in forecast.bands)
    return Forecast(forecast.sales[places], forecast.as_of, bands, (), forecast.objective)


def takes_part(stage: str | int) -> bool:
    """Whether a request for that stage or version is one of an experiment's."""
    return stage == Stage.PRODUCTION


def _merge(split: Split, mine: FloatArray, theirs: FloatArray) -> FloatArray:
    whole = np.empty(len(mine) + len(theirs))
    whole[split.mine], whole[split.theirs] = mine, theirs
    return whole
