"""Optuna study of one member's parameters: search space, pruner, storage in SQLite, proposals.

Only parameters in the parameters file are searched; one that a person adds there joins the search
if ``SEARCH_SPACE`` names it. Every range is on the log scale, so that half and double are equally
far; a parameter that is 0 or less has no such range, and stays. A study outlives a killed process:
proposals depend only on the seed and the finished trials. One process at a time works on it.
"""

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

from rossmann.addresses import sqlite_url
from rossmann.errors import ModelError
from rossmann.filesystem.locks import exclusive_lock

Number = float | int
Params = dict[str, Number]
SIGNIFICANT_DIGITS: Final = 3
"""Significant digits of a proposal: more would be noise in the parameters file."""
N_STARTUP_TRIALS: Final = 6
"""Trials that are drawn at random before the sampler uses earlier trials."""
PRUNE_MARGIN: Final = 0.002
"""Capped RMSPE by which a trial may be worse than the best one after the same windows before it is
stopped: well beyond what another seed changes on one window."""
IS_CURRENT: Final = "present"
"""Attribute of the trial that has the current parameters."""
PARAMS_ATTRIBUTE: Final = "params"
SECONDS_ATTRIBUTE: Final = "seconds"
WINDOWS_ATTRIBUTE: Final = "windows"


@dataclass(frozen=True)
class SearchRange:
    """From the current value over ``factor`` to the current value times it, within limits."""

    factor: float
    minimum: float
    maximum: float
    integer: bool = False

    def bounds(self, current: Number) -> tuple[Number, Number]:
        """Lowest and highest value to try; they contain the current one, even beyond limits."""
        low = min(max(current / self.factor, self.minimum), current)
        high = max(min(current * self.factor, self.maximum), current)
        return (math.floor(low), math.ceil(high)) if self.integer else (low, high)

    def __str__(self) -> str:
        """The text that goes into a study's name: another text would start searches anew."""
        return (
            f"Range(factor={self.factor!r}, least={self.minimum!r}, most={self.maximum!r}, "
            f"whole={self.integer!r})"
        )


SEARCH_SPACE: Final[dict[str, dict[str, SearchRange]]] = {
    "lightgbm": {
        "rounds": SearchRange(1.5, 1, 5000, integer=True),
        "learning_rate": SearchRange(2, 0.001, 1),
        "num_leaves": SearchRange(2, 3, 1024, integer=True),
        "feature_fraction": SearchRange(2, 0.05, 1),
        "bagging_fraction": SearchRange(1.6, 0.1, 1),
        "min_data_in_leaf": SearchRange(3, 1, 5000, integer=True),
        "lambda_l2": SearchRange(5, 0.001, 1000),
        "path_smooth": SearchRange(5, 0.001, 1000),
        "max_bin": SearchRange(2, 15, 255, integer=True),
    },
    "xgboost": {
        "rounds": SearchRange(1.5, 1, 5000, integer=True),
        "eta": SearchRange(2, 0.001, 1),
        "max_depth": SearchRange(1.3, 2, 14, integer=True),
        "colsample_bytree": SearchRange(2, 0.05, 1),
        "subsample": SearchRange(1.6, 0.1, 1),
        "min_child_weight": SearchRange(3, 0.1, 5000),
        "lambda": SearchRange(5, 0.001, 1000),
        "gamma": SearchRange(5, 0.001, 100),
        "max_bin": SearchRange(2, 15, 1024, integer=True),
    },
    "catboost": {
        "rounds": SearchRange(1.5, 1, 5000, integer=True),
        "learning_rate": SearchRange(2, 0.001, 1),
        "depth": SearchRange(1.3, 2, 12, integer=True),
        "rsm": SearchRange(2, 0.05, 1),
        "l2_leaf_reg": SearchRange(5, 0.01, 1000),
        "border_count": SearchRange(2, 15, 254, integer=True),
        "random_strength": SearchRange(5, 0.01, 100),
        "bagging_temperature": SearchRange(5, 0.01, 10),
        "subsample": SearchRange(1.6, 0.1, 1),
    },
}


def distributions(member: str, current: Mapping[str, Number]) -> dict[str, BaseDistribution]:
    """Optuna's distribution of each searched parameter, in the order of ``SEARCH_SPACE``."""
    space: dict[str, BaseDistribution] = {}
    for name, search_range in SEARCH_SPACE[member].items():
        if name not in current or current[name] <= 0:
            continue
        low, high = search_range.bounds(current[name])
        if low == high:
            continue
        distribution = IntDistribution if search_range.integer else FloatDistribution
        space[name] = distribution(low, high, log=True)  # type: ignore[arg-type]
    return space


def round_params(params: Mapping[str, Number]) -> Params:
    """The proposal with few digits, exactly as it would be written to the parameters file."""
    return {
        name: value if isinstance(value, int) else float(f"{value:.{SIGNIFICANT_DIGITS}g}")
        for name, value in params.items()
    }


class ThresholdPruner(optuna.pruners.BasePruner):
    """Stops a trial that is ``margin`` worse than the best one after the same windows."""

    def __init__(self, margin: float = PRUNE_MARGIN) -> None:
        self._margin = margin

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """See ``BasePruner``; the steps are windows, the values mean errors up to each."""
        step = trial.last_step
        completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if step is None or not completed:
            return False
        best = min(completed, key=_error)
        return trial.intermediate_values[step] > best.intermediate_values[step] + self._margin


def study_name(member: str, profile: str, inputs: Mapping[str, Any]) -> str:
    """The study's name, with a digest of all that a trial's error depends on."""
    text = json.dumps(inputs, sort_keys=True, default=str)
    return f"{member}-{profile}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@contextmanager
def open_study(folder: Path, name: str, *, fresh: bool) -> Iterator[optuna.Study]:
    """The study of that name in ``folder``, locked: resumed if it exists, unless ``fresh``.

    A trial that a kill left running is marked as failed and proposed again. Raises ``ModelError``
    where another process works on the study.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with exclusive_lock(
        folder / f"{name}.lock",
        lambda: ModelError(f"another process tunes {name}: wait for it, or tune another member"),
    ):
        # the timeout waits for processes that work on other studies in the same database
        storage = optuna.storages.RDBStorage(
            sqlite_url(folder / "studies.db"), engine_kwargs={"connect_args": {"timeout": 60}}
        )
        names = [summary.study_name for summary in optuna.get_all_study_summaries(storage)]
        if fresh and name in names:
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


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Completed and pruned trials in their order; failed ones do not count."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def best_trial(study: optuna.Study) -> FrozenTrial:
    """The trial with the least error; the earliest of equals, so that current parameters win."""
    return min(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)), key=_error)


def next_trial(
    study: optuna.Study, space: dict[str, BaseDistribution], current: Params, seed: int
) -> Trial:
    """The next trial: the current parameters first, then what the sampler proposes.

    A proposal depends on the seed and the finished trials only: the sampler is made anew for each
    trial, because its random state does not outlive the process.
    """
    index = len(finished_trials(study))
    sampler_seed = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
    study.sampler = optuna.samplers.TPESampler(seed=sampler_seed, n_startup_trials=N_STARTUP_TRIALS)
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    if index == 0 and not waiting:
        study.enqueue_trial({name: current[name] for name in space}, user_attrs={IS_CURRENT: True})
    return study.ask(space)


def _error(trial: FrozenTrial) -> float:
    return float("inf") if trial.value is None else trial.value
