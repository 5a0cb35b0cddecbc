"""The study: trials in SQLite, proposals that outlive a kill, a pruner, one process at a time.

MERGED: Where better parameters are looked for: around the present ones, each within sane limits.

Only what stands in the parameters file is searched; a parameter that a person adds there joins
the search if it is named below. Every range is on the log scale, so that half and double are
equally far; a parameter that is 0 or less has no such range, and stays.
"""

import fcntl
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from rossmann.errors import ModelError

Number = float | int
Params = dict[str, Number]
SIGNIFICANT_DIGITS: Final = 3
"""Significant digits of a proposal: more would be noise in the parameters file."""


@dataclass(frozen=True)
class SearchRange:
    """From the present value over ``factor`` to the present value times it, within limits."""

    factor: float
    least: float
    most: float
    whole: bool = False

    def bounds(self, present: Number) -> tuple[Number, Number]:
        """Lowest and highest value to try; the present one lies between, even beyond limits."""
        low = min(max(present / self.factor, self.least), present)
        high = max(min(present * self.factor, self.most), present)
        return (math.floor(low), math.ceil(high)) if self.whole else (low, high)


SPACE: Final[dict[str, dict[str, SearchRange]]] = {
    "lightgbm": {
        "rounds": SearchRange(1.5, 1, 5000, whole=True),
        "learning_rate": SearchRange(2, 0.001, 1),
        "num_leaves": SearchRange(2, 3, 1024, whole=True),
        "feature_fraction": SearchRange(2, 0.05, 1),
        "bagging_fraction": SearchRange(1.6, 0.1, 1),
        "min_data_in_leaf": SearchRange(3, 1, 5000, whole=True),
        "lambda_l2": SearchRange(5, 0.001, 1000),
        "path_smooth": SearchRange(5, 0.001, 1000),
        "max_bin": SearchRange(2, 15, 255, whole=True),
    },
    "xgboost": {
        "rounds": SearchRange(1.5, 1, 5000, whole=True),
        "eta": SearchRange(2, 0.001, 1),
        "max_depth": SearchRange(1.3, 2, 14, whole=True),
        "colsample_bytree": SearchRange(2, 0.05, 1),
        "subsample": SearchRange(1.6, 0.1, 1),
        "min_child_weight": SearchRange(3, 0.1, 5000),
        "lambda": SearchRange(5, 0.001, 1000),
        "gamma": SearchRange(5, 0.001, 100),
        "max_bin": SearchRange(2, 15, 1024, whole=True),
    },
    "catboost": {
        "rounds": SearchRange(1.5, 1, 5000, whole=True),
        "learning_rate": SearchRange(2, 0.001, 1),
        "depth": SearchRange(1.3, 2, 12, whole=True),
        "rsm": SearchRange(2, 0.05, 1),
        "l2_leaf_reg": SearchRange(5, 0.01, 1000),
        "border_count": SearchRange(2, 15, 254, whole=True),
        "random_strength": SearchRange(5, 0.01, 100),
        "bagging_temperature": SearchRange(5, 0.01, 10),
    },
}


def distributions(member: str, present: Mapping[str, Number]) -> dict[str, BaseDistribution]:
    """What Optuna draws from, by parameter, in the order of ``SPACE``."""
    found: dict[str, BaseDistribution] = {}
    for name, span in SPACE[member].items():
        if name not in present or present[name] <= 0:
            continue
        low, high = span.bounds(present[name])
        if low == high:
            continue
        kind = IntDistribution if span.whole else FloatDistribution
        found[name] = kind(low, high, log=True)  # type: ignore[arg-type]
    return found


def round_params(params: Mapping[str, Number]) -> Params:
    """The proposal with few digits: what is tried is, to the digit, what would be written."""
    return {
        name: value if isinstance(value, int) else float(f"{value:.{SIGNIFICANT_DIGITS}g}")
        for name, value in params.items()
    }


N_STARTUP_TRIALS: Final = 6
"""Proposals that are drawn at random before earlier trials lead them."""
PRUNE_MARGIN: Final = 0.002
"""RMSPE by which a trial may lie behind the best one after the same windows before it is stopped:
well beyond what another seed changes on one window."""
PRESENT: Final = "present"
PARAMS: Final = "params"
SECONDS: Final = "seconds"


class ThresholdPruner(optuna.pruners.BasePruner):
    """Stops a trial that lies ``margin`` behind the best finished one after the same windows."""

    def __init__(self, margin: float = PRUNE_MARGIN) -> None:
        self._margin = margin

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """See ``BasePruner``; the steps are windows, the values mean errors up to each."""
        step = trial.last_step
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if step is None or not done:
            return False
        best = min(done, key=_error)
        return trial.intermediate_values[step] > best.intermediate_values[step] + self._margin


def study_name(member: str, profile: str, question: Mapping[str, Any]) -> str:
    """One name for one question: any other data, window, seed, range or release gets another."""
    text = json.dumps(question, sort_keys=True, default=str)
    return f"{member}-{profile}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@contextmanager
def open_study(folder: Path, name: str, *, fresh: bool) -> Iterator[optuna.Study]:
    """The study of that name in ``folder``, alone: resumed where it was begun, unless ``fresh``.

    A trial that a kill left running is marked as failed; its place is taken again. Raises
    ``ModelError`` where another process works on the study.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with _alone(folder / f"{name}.lock", name):
        # Waits for the database where other studies in it are worked on at the same time.
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{folder / 'studies.db'}", engine_kwargs={"connect_args": {"timeout": 60}}
        )
        known = [summary.study_name for summary in optuna.get_all_study_summaries(storage)]
        if fresh and name in known:
            optuna.delete_study(study_name=name, storage=storage)
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            pruner=ThresholdPruner(),
            direction="minimize",
            load_if_exists=True,
        )
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            study.tell(trial.number, state=TrialState.FAIL)
        try:
            yield study
        finally:
            storage.engine.dispose()


@contextmanager
def _alone(path: Path, name: str) -> Iterator[None]:
    """Hold the lock; it ends with the process, however that ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ModelError(
                f"another process tunes {name}: wait for it, or tune another member"
            ) from error
        yield


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that ended by themselves, in their order: pruned ones count, failed ones do not."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def best_trial(study: optuna.Study) -> FrozenTrial:
    """The trial with the least error; the earliest of equals, so that present parameters win."""
    return min(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)), key=_error)


def next_trial(
    study: optuna.Study, space: dict[str, BaseDistribution], present: Params, seed: int
) -> Trial:
    """Ask for the next trial: the present parameters first, then what the sampler proposes.

    A proposal depends on the seed and the trials that have finished, and on nothing else: the
    sampler is made anew for each place, because its random state does not outlive the process.
    """
    place = len(finished(study))
    own = np.random.SeedSequence([seed, place]).generate_state(1)[0]
    study.sampler = optuna.samplers.TPESampler(seed=int(own), n_startup_trials=N_STARTUP_TRIALS)
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    if place == 0 and not waiting:
        study.enqueue_trial({name: present[name] for name in space}, user_attrs={PRESENT: True})
    return study.ask(space)


def _error(trial: FrozenTrial) -> float:
    return float("inf") if trial.value is None else trial.value
