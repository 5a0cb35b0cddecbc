"""Training rows, each as of its own forecast origin, and the fit of the ensemble's members."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from rossmann.data.panel.panel import Panel
from rossmann.features.schedule_counts import SCHOOL_CAP
from rossmann.models.members import LEARNERS
from rossmann.models.members.base import BaseLearner, Progress, TrainingInputs
from rossmann.process_memory import release_freed_memory
from rossmann.schema import (
    FEATURES,
    MAX_HORIZON,
    FeatureMatrix,
    FloatArray,
    ProgressReporter,
    StoreDays,
)
from rossmann.setting_groups import Profile

Days = npt.NDArray[np.integer]
SCHEDULE_ENDS_AT_ORIGIN: Final = 0.2
SCHEDULE_ENDS_SOON: Final = 0.2
"""Shares of training rows whose schedule ends early."""
_STORE_GROUPS: Final = 8
"""Groups of stores whose features are built one after the other."""


class RowEnds(NamedTuple):
    """Up to where each row's knowledge goes, in epoch days: arrays (n,), and one day for all.

    ``origin``: sales; ``planned_to``: the schedule; ``region_day``: the stores' regions.
    """

    origin: Days
    planned_to: Days
    region_day: int

    def take(self, index: npt.NDArray[np.integer]) -> "RowEnds":
        """Those of the rows at ``index``."""
        return RowEnds(self.origin[index], self.planned_to[index], self.region_day)


class TrainingRows:
    """Open days with sales, each as of its own origin, and their sales (n,)."""

    def __init__(self, panel: Panel, rows: StoreDays, ends: RowEnds, sold: FloatArray) -> None:
        self._panel, self._ends = panel, ends
        self.rows, self.sold = rows, sold

    @property
    def day(self) -> npt.NDArray[np.int32]:
        """The day of each row (n,)."""
        return self.rows.day

    @cached_property
    def matrix(self) -> FeatureMatrix:
        """The features (n, 46)."""
        return self._panel.matrix(self.rows, *self._ends)

    def inputs(self) -> TrainingInputs:
        """What members learn from. The matrix is built for it alone and not kept.

        It takes seconds, and a chain's matrix hundreds of megabytes. The panel's pages that it is
        read from would be some more: they are let go of after each group of stores.
        """
        matrix = np.empty((len(self.sold), len(FEATURES)), np.float32)
        by_store = np.argsort(self.rows.store, kind="stable")
        for index in np.array_split(by_store, _STORE_GROUPS):
            matrix[index] = self.take(index).matrix
            self._panel.release_pages()
        return TrainingInputs.taking(matrix, self.sold)

    def known_at(self, origin: int) -> "TrainingRows":
        """Those whose sales were known at ``origin``, with the regions that were."""
        known = self.take(np.nonzero(self.day <= origin)[0])
        ends = known._ends._replace(region_day=origin)
        return TrainingRows(self._panel, known.rows, ends, known.sold)

    def take(self, index: npt.NDArray[np.integer]) -> "TrainingRows":
        """The rows at ``index``."""
        return TrainingRows(
            self._panel, self.rows.take(index), self._ends.take(index), self.sold[index]
        )


def sample_training_rows(panel: Panel, history_days: int, seed: int) -> TrainingRows:
    """Every open day with sales, each as of an origin drawn uniformly 1 to 48 days before it.

    Rows whose origin has fewer than ``history_days`` days of history are left out.
    """
    rows, sold = panel.sales_rows()
    horizon = np.random.default_rng(seed).integers(1, MAX_HORIZON + 1, len(rows))
    origin = rows.day - horizon
    kept = np.nonzero(origin - panel.first_day + 1 >= history_days)[0]
    part, since = rows.take(kept), origin[kept]
    ends = RowEnds(since, sample_schedule_ends(part.day, since, seed), panel.last_day)
    return TrainingRows(panel, part, ends, sold[kept])


def first_training_day(panel: Panel, history_days: int) -> int:
    """The first day of which ``sample_training_rows`` may keep a row."""
    return panel.first_day + history_days


def sample_schedule_ends(
    day: npt.NDArray[np.integer], origin: npt.NDArray[np.integer], seed: int
) -> npt.NDArray[np.int64]:
    """The day up to which each row's schedule counts as known, (n,).

    Most rows keep all of it; for one in five it ends at the origin, for one in five on one of the
    60 days from the row's own on. Members so learn to forecast without one.
    """
    rng = np.random.default_rng([seed, 1])
    draw = rng.random(len(day))
    soon = day + rng.integers(0, SCHOOL_CAP + 1, len(day))
    ends = np.where(draw < SCHEDULE_ENDS_AT_ORIGIN, origin, soon)
    return np.where(
        draw < SCHEDULE_ENDS_AT_ORIGIN + SCHEDULE_ENDS_SOON, ends, np.iinfo(np.int32).max
    )


def learner_seeds(seed: int) -> dict[str, int]:
    """A seed for each member, so that they do not sample the same rows."""
    return {name: seed + i for i, name in enumerate(LEARNERS)}


def fit_members(
    examples: TrainingRows, profile: Profile, seed: int, threads: int, report: ProgressReporter
) -> dict[str, BaseLearner]:
    """Fit each member of the profile, on a sample of its size if it has one.

    Members are fitted side by side, with an equal share of the ``threads`` each: one thread for
    each of two members takes about half the processor time of two threads for one.
    """
    if profile.rows and len(examples.sold) > profile.rows:
        sample = np.random.default_rng(seed).choice(len(examples.sold), profile.rows, replace=False)
        examples = examples.take(np.sort(sample))
    inputs, stopped = examples.inputs(), threading.Event()

    def fit_one(name: str) -> tuple[BaseLearner, float]:
        started = time.perf_counter()
        member = LEARNERS[name].fit(
            inputs,
            profile.members[name],
            learner_seeds(seed)[name],
            max(threads // len(profile.members), 1),
            _stopper(stopped),
        )
        release_freed_memory()
        return member, time.perf_counter() - started

    fitted: dict[str, BaseLearner] = {}
    with ThreadPoolExecutor(min(threads, len(profile.members))) as pool:
        try:
            # the last learner takes longest: it begins first, the others follow each other
            futures = {pool.submit(fit_one, name): name for name in reversed(profile.members)}
            for future in as_completed(futures):
                name = futures[future]
                fitted[name], seconds = future.result()
                report(f"  {name}: {len(examples.sold):,} rows, {seconds:.1f} s")
        finally:
            stopped.set()  # after an error or a signal, the other fits end with their next tree
    return {name: fitted[name] for name in profile.members}


class _FitStoppedError(Exception):
    """A fit that ended early, because another one failed or the process is to end."""


def _stopper(stopped: threading.Event) -> Progress:
    """Called after each tree: raises once the event is set."""

    def check(share: float) -> None:
        if stopped.is_set():
            raise _FitStoppedError(f"the fit was stopped after {share:.0%} of its rounds")

    return check
