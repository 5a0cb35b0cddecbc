"""``GET /experiments/current``: what runs, and how the challenger does by the prediction log.

MERGED: Two versions against each other, and against the sales that are known by now.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from rossmann.errors import RossmannError
from rossmann.models.evaluation.metrics import bias, permutation_test, rmspe
from rossmann.schema import FloatArray
from rossmann.serving.experiments.shadow import RunningExperiment
from rossmann.serving.runtime.cpu_affinity import unpinned
from rossmann.serving.runtime.service import Service
from rossmann.serving.schemas.models import (
    ActualsComparison,
    Agreement,
    Comparison,
    ExperimentState,
    RoleRowCount,
    ShadowQueue,
    VersionScore,
)
from rossmann.settings import Settings

if TYPE_CHECKING:
    from rossmann.data.panel.panel import Panel
    from rossmann.prediction_log.queries.experiment_rows import (
        DistinctRows,
        ExperimentLog,
        RoleCount,
        TrialRole,
    )


COMPARISON_TTL: Final = 15.0
"""Seconds for which a comparison is told again."""
COMPARISON_TIMEOUT: Final = 45.0
"""Seconds that a call waits for one: it takes several looks at the log, of 20 at most."""
_OFF: Final = "no experiment runs: ROSSMANN_EXPERIMENT is off"
_NO_LOG: Final = "nothing is logged: ROSSMANN_PREDICTION_LOG is off"


@dataclass(slots=True)
class _Latest:
    """The comparison that is being made or was made last, of which versions, and when."""

    pair: tuple[int, int] = (0, 0)
    done: float = 0.0
    work: "asyncio.Future[Comparison] | None" = field(default=None)


class ExperimentReport:
    """Tells of one worker's experiment; ``close`` ends its thread."""

    def __init__(
        self, settings: Settings, service: Service, trial: RunningExperiment | None
    ) -> None:
        self._service = service
        self._trial = trial
        self._days = settings.experiment_days
        wanted = trial is not None and settings.prediction_log
        self._log = _open_log(settings.log_url) if wanted else None
        self._pool = ThreadPoolExecutor(1, "experiment", initializer=unpinned())
        self._latest = _Latest()

    async def current_state(self) -> ExperimentState:
        """The state, with a comparison that is some seconds old at most."""
        trial, production = self._trial, self._service.versions.production
        number = None if production is None else production.version
        if trial is None:
            return ExperimentState(mode="off", reason=_OFF, production_version=number)
        experiment, shadow = trial.experiment, trial.shadow
        dealt = experiment.assigner.is_challenger(self._service.panel.store_numbers)
        ab = experiment.mode == "ab"
        return ExperimentState(
            mode=experiment.mode,
            reason=experiment.reason,
            production_version=number,
            challenger=experiment.challenger_stage,
            challenger_version=experiment.challenger_version,
            share=experiment.share if ab else None,
            salt=experiment.salt if ab else None,
            stores=(0 if experiment.reason else int(dealt.sum())) if ab else None,
            queue=None
            if shadow is None
            else ShadowQueue(
                waiting=shadow.waiting,
                done=shadow.done,
                dropped=shadow.dropped,
                failed=shadow.failed,
                last_error=shadow.last_error,
            ),
            comparison=await self._compared(trial, number, experiment.challenger_version),
        )

    async def _compared(
        self, trial: RunningExperiment, production: int | None, challenger: int | None
    ) -> Comparison:
        if self._log is None:
            return Comparison(reason=_NO_LOG)
        if production is None or challenger is None or production == challenger:
            return Comparison(reason="there are no two versions to compare")
        latest, pair = self._latest, (challenger, production)
        old = latest.work is not None and latest.work.done()
        if latest.work is None or latest.pair != pair or (old and self._is_old()):
            latest.work = asyncio.get_running_loop().run_in_executor(
                self._pool, self._compare, trial, self._log, pair
            )
            latest.pair = pair
        # All who ask meanwhile wait for the same one, and hold no thread.
        try:
            return await asyncio.wait_for(asyncio.shield(latest.work), COMPARISON_TIMEOUT)
        except TimeoutError:
            return Comparison(
                reason=f"the comparison takes longer than {COMPARISON_TIMEOUT:g} s: ask again"
            )

    def _is_old(self) -> bool:
        return time.monotonic() - self._latest.done > COMPARISON_TTL

    def _compare(
        self, trial: RunningExperiment, log: "ExperimentLog", pair: tuple[int, int]
    ) -> Comparison:
        role: TrialRole = "shadow" if trial.shadow is not None else "challenger"
        told = Comparison()
        try:
            self._fill(told, trial, log, role, pair)
        except RossmannError as error:
            told.reason = str(error)
        self._latest.done = time.monotonic()
        return told

    def _fill(
        self,
        told: Comparison,
        trial: RunningExperiment,
        log: "ExperimentLog",
        role: "TrialRole",
        pair: tuple[int, int],
    ) -> None:
        """Add one thing after the other to ``told``, so that what was found is told in any case."""

        challenger, production = pair
        told.looked_from, counts = log.counts(datetime.now(UTC) - timedelta(days=self._days))
        told.rows = [
            RoleRowCount(role=one.role, model_version=one.model_version, rows=one.rows)
            for one in counts
        ]
        firsts = [_first(counts, role, challenger), _first(counts, "answer", production)]
        begun = [first for first in firsts if first is not None]
        if len(begun) < 2:
            told.reason = "the log has no rows of both versions yet"
            return
        since = told.since = max(begun)
        panel = self._service.panel
        if role == "shadow":
            pairs = log.pairs(role, challenger, production, told.looked_from)
            told.agreement = agreement(pairs)
            told.known_sales = score_same_rows(panel, pairs, challenger, production)
            return
        theirs = log.version_rows(role, challenger, since)
        mine = log.version_rows("answer", production, since)
        # Only the stores that are dealt so today: the share may have been another one before.
        deals = trial.experiment.assigner.is_challenger
        theirs = theirs.take(deals(theirs.store)) if len(theirs.store) else theirs
        mine = mine.take(np.logical_not(deals(mine.store))) if len(mine.store) else mine
        told.known_sales = score_separate_stores(panel, theirs, mine, challenger, production)

    def close(self) -> None:
        """Break off what runs, and end the thread."""
        if self._log is not None:
            self._log.cancel()
        self._pool.shutdown(cancel_futures=True)
        if self._log is not None:
            self._log.close()


def _open_log(url: str) -> "ExperimentLog":
    # Not above: what speaks to databases takes its time to import.
    from rossmann.prediction_log.queries.experiment_rows import ExperimentLog

    return ExperimentLog(url)


def _first(counts: "list[RoleCount]", role: str, version: int) -> datetime | None:
    return next((c.first for c in counts if (c.role, c.model_version) == (role, version)), None)


LARGE_DIFFERENCE: Final = 0.1
"""From here on two forecasts of a row differ by much."""


def agreement(pairs: "DistinctRows") -> Agreement | None:
    """How far the challenger is from Production, on open days; None where there is no row."""
    both = (pairs.open > 0) & (pairs.sales > 0) & (pairs.production_forecast > 0)
    if not both.any():
        return None
    ratio = pairs.sales[both] / pairs.production_forecast[both]
    return Agreement(
        rows=len(ratio),
        mean_ratio=float(ratio.mean()),
        mean_absolute_log_difference=float(np.abs(np.log(ratio)).mean()),
        beyond_10_percent=float(np.mean(np.abs(ratio - 1) > LARGE_DIFFERENCE)),
    )


def actual_sales(panel: "Panel", rows: "DistinctRows") -> FloatArray:
    """What was sold (n,), by the history that is known by now.

    NaN where that is not known, where nothing was sold, and where the day was not as planned (open,
    and with a promotion or without): a forecast for another plan is not wrong.
    """
    sold = np.full(len(rows.store), np.nan)
    here = (rows.open > 0) & (rows.day <= panel.last_day) & (panel.store_indices(rows.store) >= 0)
    places = np.flatnonzero(here)
    order = places[np.argsort(rows.store[places], kind="stable")]
    for group in np.split(order, np.flatnonzero(np.diff(rows.store[order])) + 1):
        if len(group):
            sold[group] = _of_store(panel, int(rows.store[group[0]]), rows.take(group))
    return sold


def _of_store(panel: "Panel", store: int, rows: "DistinctRows") -> FloatArray:
    first, last = int(rows.day.min()), int(rows.day.max())
    past = panel.history(store, last, last - first + 1)
    at = np.searchsorted(past.day, rows.day)
    at = np.minimum(at, len(past.day) - 1)
    sold = past.sales[at]
    fits = (past.day[at] == rows.day) & (past.open[at] > 0) & (past.promo[at] == rows.promo)
    return np.asarray(np.where(fits & (sold > 0), sold, np.nan), np.float64)


def score_same_rows(
    panel: "Panel", pairs: "DistinctRows", challenger: int, production: int
) -> ActualsComparison | None:
    """Both on the same rows, with a test; None where no sales are known."""
    sold = actual_sales(panel, pairs)
    known = np.isfinite(sold)
    if not known.any():
        return None
    sold, rows = sold[known], pairs.take(known)
    test = permutation_test(rows.store, rows.day, sold, rows.sales, rows.production_forecast)
    return ActualsComparison(
        paired=True,
        challenger=_score(challenger, rows.store, sold, rows.sales),
        production=_score(production, rows.store, sold, rows.production_forecast),
        chance=test.p_value,
        better_stores=test.share_of_stores_better,
    )


def score_separate_stores(
    panel: "Panel",
    theirs: "DistinctRows",
    mine: "DistinctRows",
    challenger: int,
    production: int,
) -> ActualsComparison | None:
    """Each on stores of its own; None where sales are known for neither."""
    sides = []
    for version, rows in ((challenger, theirs), (production, mine)):
        sold = actual_sales(panel, rows)
        known = np.isfinite(sold)
        found = rows.take(known)
        sides.append(_score(version, found.store, sold[known], found.sales))
    if not sides[0].rows and not sides[1].rows:
        return None
    return ActualsComparison(
        paired=False, challenger=sides[0], production=sides[1], chance=None, better_stores=None
    )


def _score(
    version: int, store: npt.NDArray[np.int32], sold: FloatArray, sales: FloatArray
) -> VersionScore:
    some = len(sold) > 0
    return VersionScore(
        model_version=version,
        rows=len(sold),
        stores=len(np.unique(store)),
        rmspe=rmspe(sold, sales) if some else None,
        bias=bias(sold, sales) if some else None,
    )
