"""The study: trials in SQLite, proposals that outlive a kill, a pruner, one process at a time."""

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from rossmann.errors import ModelError
from rossmann.models.tune_space import Params

STARTUP: Final = 6
"""Proposals that are drawn at random before earlier trials lead them."""
BEHIND: Final = 0.002
"""RMSPE by which a trial may lie behind the best one after the same windows before it is stopped:
well beyond what another seed changes on one window."""
PRESENT: Final = "present"
PARAMS: Final = "params"
SECONDS: Final = "seconds"


class BehindTheBest(optuna.pruners.BasePruner):
    """Stops a trial that lies ``margin`` behind the best finished one after the same windows."""

    def __init__(self, margin: float = BEHIND) -> None:
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
            pruner=BehindTheBest(),
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
    study.sampler = optuna.samplers.TPESampler(seed=int(own), n_startup_trials=STARTUP)
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    if place == 0 and not waiting:
        study.enqueue_trial({name: present[name] for name in space}, user_attrs={PRESENT: True})
    return study.ask(space)


def _error(trial: FrozenTrial) -> float:
    return float("inf") if trial.value is None else trial.value
