"""``GET /experiments/current``: the experiment, and both versions compared by logged rows."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from rossmann.errors import RossmannError
from rossmann.models.evaluation.clustered_errors import (
    Estimate,
    bias_estimate,
    find_clusters,
    rmspe_estimate,
    wape_estimate,
)
from rossmann.models.evaluation.paired_test import PairedRows, paired_test
from rossmann.models.evaluation.sequential_test import (
    SequentialTest,
    improvement_of_separate,
    sequential_test,
)
from rossmann.models.inference.row_warnings import TrainingSpan, is_in_training
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
"""Seconds for which a comparison is cached."""
COMPARISON_TIMEOUT: Final = 45.0
"""Seconds that a call waits for a comparison, which is several queries of the log."""
LARGE_DIFFERENCE: Final = 0.1
"""Relative difference of two forecasts that counts as large."""
_OFF: Final = "no experiment runs: ROSSMANN_EXPERIMENT is off"
_NO_LOG: Final = "nothing is logged: ROSSMANN_PREDICTION_LOG is off"
_ESTIMATES: Final = (wape_estimate, rmspe_estimate, bias_estimate)
_FIGURES: Final = ("wape", "wape_error", "rmspe", "rmspe_error", "bias", "bias_error")
_ALL_IN_TRAINING: Final = (
    "all days with known sales are days that the versions learned from: no evidence of accuracy"
)


@dataclass(frozen=True, slots=True)
class ComparedVersion:
    """A version's number, and the days that it learned from."""

    number: int
    training: TrainingSpan

    def is_in_training(self, rows: "DistinctRows") -> npt.NDArray[np.bool_]:
        """Which rows (n,) are no evidence of its accuracy."""
        return is_in_training(rows.day, rows.open, *self.training)


@dataclass(slots=True)
class _CachedComparison:
    """The current or last comparison, of which versions, and when it was done."""

    pair: tuple[int, int] = (0, 0)
    done_at: float = 0.0
    future: "asyncio.Future[Comparison] | None" = field(default=None)


class ExperimentReport:
    """Reports one worker's experiment; ``close`` ends its thread."""

    def __init__(
        self, settings: Settings, service: Service, running: RunningExperiment | None
    ) -> None:
        self._service = service
        self._running = running
        self._days = settings.experiment_days
        has_log = running is not None and settings.prediction_log
        self._log = _open_log(settings.log_url) if has_log else None
        self._pool = ThreadPoolExecutor(1, "experiment", initializer=unpinned())
        self._cached = _CachedComparison()

    async def current_state(self) -> ExperimentState:
        """The state, with a comparison that is some seconds old at most."""
        running, production = self._running, self._service.versions.production
        number = None if production is None else production.version
        if running is None:
            return ExperimentState(mode="off", reason=_OFF, production_version=number)
        experiment, shadow = running.experiment, running.shadow
        assigned = experiment.assigner.is_challenger(self._service.panel.store_numbers)
        is_ab = experiment.mode == "ab"
        return ExperimentState(
            mode=experiment.mode,
            reason=experiment.reason,
            production_version=number,
            challenger=experiment.challenger_stage,
            challenger_version=experiment.challenger_version,
            share=experiment.share if is_ab else None,
            salt=experiment.salt if is_ab else None,
            stores=(0 if experiment.reason else int(assigned.sum())) if is_ab else None,
            queue=None
            if shadow is None
            else ShadowQueue(
                waiting=shadow.waiting,
                done=shadow.done,
                dropped=shadow.dropped,
                failed=shadow.failed,
                last_error=shadow.last_error,
            ),
            comparison=await self._comparison(running, number, experiment.challenger_version),
        )

    async def _comparison(
        self, running: RunningExperiment, production: int | None, challenger: int | None
    ) -> Comparison:
        if self._log is None:
            return Comparison(reason=_NO_LOG)
        if production is None or challenger is None or production == challenger:
            return Comparison(reason="there are no two versions to compare")
        cached, pair = self._cached, (challenger, production)
        done = cached.future is not None and cached.future.done()
        if cached.future is None or cached.pair != pair or (done and self._is_expired()):
            cached.future = asyncio.get_running_loop().run_in_executor(
                self._pool, self._compare, running, self._log, pair
            )
            cached.pair = pair
        # Further calls wait for the same comparison, without a thread.
        try:
            return await asyncio.wait_for(asyncio.shield(cached.future), COMPARISON_TIMEOUT)
        except TimeoutError:
            return Comparison(
                reason=f"the comparison takes longer than {COMPARISON_TIMEOUT:g} s: ask again"
            )

    def _is_expired(self) -> bool:
        return time.monotonic() - self._cached.done_at > COMPARISON_TTL

    def _compare(
        self, running: RunningExperiment, log: "ExperimentLog", pair: tuple[int, int]
    ) -> Comparison:
        comparison = Comparison()
        try:
            self._fill(comparison, running, log, pair)
        except RossmannError as error:
            comparison.reason = str(error)
        self._cached.done_at = time.monotonic()
        return comparison

    def _fill(
        self,
        comparison: Comparison,
        running: RunningExperiment,
        log: "ExperimentLog",
        pair: tuple[int, int],
    ) -> None:
        """Fill one field after the other, so that an error leaves what was read before."""
        role: TrialRole = "shadow" if running.shadow is not None else "challenger"
        challenger, production = pair
        comparison.looked_from, counts = log.counts(datetime.now(UTC) - timedelta(days=self._days))
        comparison.rows = [
            RoleRowCount(role=count.role, model_version=count.model_version, rows=count.rows)
            for count in counts
        ]
        firsts = [_first(counts, role, challenger), _first(counts, "answer", production)]
        starts = [first for first in firsts if first is not None]
        if len(starts) < 2:
            comparison.reason = "the log has no rows of both versions yet"
            return
        comparison.since = max(starts)
        if role == "shadow":
            pairs = log.pairs(role, challenger, production, comparison.looked_from)
            comparison.agreement = agreement(pairs)
            comparison.known_sales = score_same_rows(
                self._service.panel, pairs, self._compared(challenger), self._compared(production)
            )
        else:
            comparison.known_sales = self._score_ab(running, log, pair, comparison.since)
        scored = comparison.known_sales
        if scored is not None and not scored.challenger.rows and not scored.production.rows:
            comparison.reason = _ALL_IN_TRAINING

    def _score_ab(
        self,
        running: RunningExperiment,
        log: "ExperimentLog",
        pair: tuple[int, int],
        since: datetime,
    ) -> ActualsComparison | None:
        challenger, production = pair
        # Only stores that are assigned so today: the share may have been another one before.
        is_challenger = running.experiment.assigner.is_challenger
        parts = []
        for version, rows, challenges in (
            (challenger, log.version_rows("challenger", challenger, since), True),
            (production, log.version_rows("answer", production, since), False),
        ):
            keep = is_challenger(rows.store) == challenges if len(rows.store) else None
            parts.append((self._compared(version), rows if keep is None else rows.take(keep)))
        return score_separate_stores(self._service.panel, parts[0], parts[1])

    def _compared(self, version: int) -> ComparedVersion:
        """Raises ``ModelError`` or ``ServiceError`` where the version cannot be loaded."""
        forecaster = self._service.versions.load(version).served.forecaster
        return ComparedVersion(version, forecaster.training_span)

    def close(self) -> None:
        """Cancel a running comparison, and end the thread."""
        if self._log is not None:
            self._log.cancel()
        self._pool.shutdown(cancel_futures=True)
        if self._log is not None:
            self._log.close()


def _open_log(url: str) -> "ExperimentLog":
    # Imported here: SQLAlchemy is slow to import.
    from rossmann.prediction_log.queries.experiment_rows import ExperimentLog

    return ExperimentLog(url)


def _first(counts: "list[RoleCount]", role: str, version: int) -> datetime | None:
    return next((c.first for c in counts if (c.role, c.model_version) == (role, version)), None)


def agreement(pairs: "DistinctRows") -> Agreement | None:
    """How much the challenger's forecasts differ from Production's on open days; None without."""
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
    """Actual sales (n,) by today's history.

    NaN where they are not known, where nothing was sold, and where the day was not as planned
    (opening or promotion): a forecast for another plan is not wrong.
    """
    sales = np.full(len(rows.store), np.nan)
    in_history = rows.day <= panel.last_day
    known = np.flatnonzero((rows.open > 0) & in_history & (panel.store_indices(rows.store) >= 0))
    order = known[np.argsort(rows.store[known], kind="stable")]
    for group in np.split(order, np.flatnonzero(np.diff(rows.store[order])) + 1):
        if len(group):
            sales[group] = _store_sales(panel, int(rows.store[group[0]]), rows.take(group))
    return sales


def _store_sales(panel: "Panel", store: int, rows: "DistinctRows") -> FloatArray:
    first, last = int(rows.day.min()), int(rows.day.max())
    past = panel.history(store, last, last - first + 1)
    index = np.minimum(np.searchsorted(past.day, rows.day), len(past.day) - 1)
    sales, promo = past.sales[index], past.promo[index]
    as_planned = (past.day[index] == rows.day) & (past.open[index] > 0) & (promo == rows.promo)
    return np.asarray(np.where(as_planned & (sales > 0), sales, np.nan), np.float64)


def score_same_rows(
    panel: "Panel", pairs: "DistinctRows", challenger: ComparedVersion, production: ComparedVersion
) -> ActualsComparison | None:
    """Both versions on the same rows, with a verdict; None where no sales are known.

    Rows in training of either are left out.
    """
    actuals = actual_sales(panel, pairs)
    known = np.isfinite(actuals)
    if not known.any():
        return None
    learned = challenger.is_in_training(pairs) | production.is_in_training(pairs)
    scored, left_out = known & ~learned, int((known & learned).sum())
    actuals, rows = actuals[scored], pairs.take(scored)
    forecasts = rows.sales, rows.production_forecast
    test = None
    if scored.any():
        no_window = np.zeros_like(rows.day)
        test = paired_test(PairedRows(no_window, rows.store, rows.day, actuals, *forecasts))
    scores = (
        _score(challenger, rows, actuals, forecasts[0], left_out),
        _score(production, rows, actuals, forecasts[1], left_out),
    )
    if test is None:
        return _comparison(scores, None)
    improvement = Estimate(test.improvement, test.standard_error)
    verdict = sequential_test(improvement, test.weeks)
    return _comparison(scores, verdict, test.share_of_stores_better)


def score_separate_stores(
    panel: "Panel",
    challenger: "tuple[ComparedVersion, DistinctRows]",
    production: "tuple[ComparedVersion, DistinctRows]",
) -> ActualsComparison | None:
    """Each version on stores of its own; None where sales are known for neither.

    A version's rows in training are left out.
    """
    scores, weeks = [], []
    for version, rows in (challenger, production):
        actuals = actual_sales(panel, rows)
        known, learned = np.isfinite(actuals), version.is_in_training(rows)
        kept = known & ~learned
        scored, left_out = rows.take(kept), int((known & learned).sum())
        scores.append(_score(version, scored, actuals[kept], scored.sales, left_out))
        weeks.append(find_clusters(scored.store, scored.day).weeks)
    if not any(score.rows or score.in_training for score in scores):
        return None
    first, second = (_wape_of(score) for score in scores)
    if first is None or second is None:
        return _comparison((scores[0], scores[1]), None, paired=False)
    test = sequential_test(improvement_of_separate(first, second), min(weeks))
    return _comparison((scores[0], scores[1]), test, paired=False)


def _wape_of(score: VersionScore) -> Estimate | None:
    if score.wape is None or score.wape_error is None:
        return None
    return Estimate(score.wape, score.wape_error)


def _comparison(
    scores: tuple[VersionScore, VersionScore],
    test: SequentialTest | None,
    better_stores: float | None = None,
    paired: bool = True,
) -> ActualsComparison:
    """The response's fields; the scores are the challenger's and Production's."""
    return ActualsComparison(
        paired=paired,
        challenger=scores[0],
        production=scores[1],
        verdict="undecided" if test is None else test.verdict,
        weeks=0 if test is None else test.weeks,
        improvement=None if test is None else test.improvement,
        improvement_error=None if test is None else test.standard_error,
        chance=None if test is None else test.p_value,
        better_stores=better_stores,
    )


def _score(
    version: ComparedVersion,
    rows: "DistinctRows",
    actuals: FloatArray,
    sales: FloatArray,
    left_out: int,
) -> VersionScore:
    stores = len(np.unique(rows.store))
    figures: dict[str, float | None] = dict.fromkeys(_FIGURES)
    if len(actuals):
        clusters = find_clusters(rows.store, rows.day)
        estimates = (
            f(actuals, sales, clusters) for f in (wape_estimate, rmspe_estimate, bias_estimate)
        )
        figures = dict(zip(_FIGURES, (x for one in estimates for x in one), strict=True))
    return VersionScore(
        model_version=version.number,
        rows=len(actuals),
        stores=stores,
        in_training=left_out,
        **figures,
    )
