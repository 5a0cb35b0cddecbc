"""Hyper-parameter search of one member, by the error that ``backtest`` measures.

A trial fits the member as of each window's origin, oldest window first, and forecasts the window
as in serving; its error is the mean capped RMSPE over windows. Trial 0 has the current parameters,
so the best is never worse. The best of many trials is selected for its random errors too, so best
and current are compared again with seeds that the search did not use.
"""

import importlib.metadata
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import optuna
from optuna.trial import Trial, TrialState

from rossmann.data.panel.panel import Panel
from rossmann.epoch_days import to_date
from rossmann.errors import SettingsError
from rossmann.models.evaluation.backtest import BacktestPlan, backtest, offsets_to_choose_by
from rossmann.models.evaluation.metrics import capped_rmspe
from rossmann.models.members.fit import TrainingRows, sample_training_rows
from rossmann.models.tuning.study import (
    IS_CURRENT,
    PARAMS_ATTRIBUTE,
    SEARCH_SPACE,
    SECONDS_ATTRIBUTE,
    WINDOWS_ATTRIBUTE,
    Number,
    Params,
    best_trial,
    distributions,
    finished_trials,
    next_trial,
    open_study,
    round_params,
    study_name,
)
from rossmann.schema import ProgressReporter, feature_fingerprint
from rossmann.setting_groups import Profile
from rossmann.settings import Settings

MIN_GAIN: Final = 0.0003
"""Gain in capped RMSPE, mean of windows and fresh seeds, from which on parameters are written."""
SEED_STRIDE: Final = 1000
"""Distance of fresh seeds: each member uses the next few seeds too."""
_LIBRARY: Final = {"lightgbm": "lightgbm", "xgboost": "xgboost-cpu", "catboost": "catboost"}


@dataclass(frozen=True)
class SearchConfig:
    """What to search, and for how long.

    ``trials`` counts those of an earlier, interrupted run too. After ``minutes`` no further trial
    begins; 0 is no limit. ``offsets`` are origins as days before the last day of history, empty
    takes the settings'. ``n_checks`` is the number of fresh seeds at the end.
    """

    member: str
    profile: str = "full"
    trials: int = 20
    minutes: float = 0.0
    offsets: tuple[int, ...] = ()
    n_checks: int = 4
    fresh: bool = False


@dataclass(frozen=True)
class TrialResult:
    """One finished trial: error is the mean over ``windows``, ``None`` where it was stopped."""

    index: int
    error: float | None
    windows: dict[date, float]
    params: Params
    seconds: float


@dataclass(frozen=True)
class TuningResult:
    """Result of a search. ``checks`` are errors of current and best with each fresh seed."""

    member: str
    study: str
    current: Params
    best: Params
    trials: list[TrialResult]
    checks: list[tuple[float, float]]

    @property
    def gain(self) -> float:
        """Capped RMSPE that the best gains on the current parameters, mean of the fresh seeds.

        Without a check, what the search itself measured.
        """
        errors = [trial.error for trial in self.trials if trial.error is not None]
        pairs = self.checks or [(errors[0], min(errors))]
        return sum(current - best for current, best in pairs) / len(pairs)

    @property
    def is_significant(self) -> bool:
        """Whether the gain is large enough and the best wins with every fresh seed."""
        return self.gain >= MIN_GAIN and all(best < current for current, best in self.checks)


class TrialEvaluator:
    """Backtest error of a member's parameters; ``offsets`` are those of the windows."""

    def __init__(
        self, settings: Settings, panel: Panel, config: SearchConfig, report: ProgressReporter
    ) -> None:
        self._settings, self._panel, self._member = settings, panel, config.member
        self._rows = settings.profile(config.profile).rows
        self.offsets = offsets_to_choose_by(settings, panel, config.offsets, report)
        self._sampled: tuple[int, TrainingRows] | None = None

    def origin(self, offset: int) -> date:
        """The last day whose sales the window's forecasts may use."""
        return to_date(self._panel.last_day - offset)

    def error(self, params: Mapping[str, Number], offset: int, seed: int) -> float:
        """Capped RMSPE of the window whose origin lies ``offset`` days before the last one."""
        profile = Profile(
            rows=self._rows, members={self._member: dict(params)}, weights={self._member: 1.0}
        )
        settings = self._settings.model_copy(update={"seed": seed})
        examples, plan = self._examples(seed), BacktestPlan((offset,))
        (outcome,) = backtest(settings, self._panel, examples, profile, lambda line: None, plan)
        return capped_rmspe(outcome.window.sold, outcome.forecasts["ensemble"])

    def mean_error(self, params: Mapping[str, Number], seed: int) -> float:
        """Mean capped RMSPE over the windows."""
        errors = [self.error(params, offset, seed) for offset in self.offsets]
        return sum(errors) / len(errors)

    def _examples(self, seed: int) -> TrainingRows:
        """Sampled as in training; those of the latest seed are kept."""
        if self._sampled is None or self._sampled[0] != seed:
            self._sampled = None
            examples = sample_training_rows(self._panel, self._settings.history_days, seed)
            self._sampled = (seed, examples)
        return self._sampled[1]


def tune(
    settings: Settings, panel: Panel, config: SearchConfig, report: ProgressReporter
) -> TuningResult:
    """Search one member's parameters; writes nothing but the study in ``data_dir/tuning``.

    Raises ``SettingsError`` for an unknown member or profile, ``ModelError`` where another process
    works on the same study, ``DataError`` where history is too short.
    """
    current = current_params(settings, config.profile, config.member)
    evaluator = TrialEvaluator(settings, panel, config, report)
    inputs = _study_inputs(settings, panel, config, evaluator.offsets)
    name = study_name(config.member, config.profile, inputs)
    with open_study(settings.data_dir / "tuning", name, fresh=config.fresh) as study:
        if count := len(finished_trials(study)):
            report(f"{config.member}: going on after {count} trials (study {name})")
        _run_trials(study, evaluator, current, config, settings.seed, report)
        best = _params_of(best_trial(study).user_attrs)
        checks: list[tuple[float, float]] = []
        if best != current:
            checks = _check_with_fresh_seeds(
                study, evaluator, (current, best), config, settings.seed, report
            )
        results = trial_results(study, evaluator)
        return TuningResult(config.member, name, current, best, results, checks)


def current_params(settings: Settings, profile: str, member: str) -> Params:
    """The member's parameters now; raises ``SettingsError`` naming the members that there are."""
    members = settings.profile(profile).members
    if member not in members or member not in SEARCH_SPACE:
        names = ", ".join(name for name in members if name in SEARCH_SPACE)
        raise SettingsError(f"profile {profile} has no member {member!r}; there are: {names}")
    return dict(members[member])


def trial_results(study: optuna.Study, evaluator: TrialEvaluator) -> list[TrialResult]:
    """The finished trials in their order."""
    return [
        TrialResult(
            index,
            trial.value if trial.state is TrialState.COMPLETE else None,
            {
                evaluator.origin(int(offset)): error
                for offset, error in trial.user_attrs[WINDOWS_ATTRIBUTE].items()
            },
            _params_of(trial.user_attrs),
            trial.user_attrs[SECONDS_ATTRIBUTE],
        )
        for index, trial in enumerate(finished_trials(study))
    ]


def _run_trials(
    study: optuna.Study,
    evaluator: TrialEvaluator,
    current: Params,
    config: SearchConfig,
    seed: int,
    report: ProgressReporter,
) -> None:
    space = distributions(config.member, current)
    start = time.monotonic()
    # the trial of the current parameters runs however short the time: without it there is no best
    while (count := len(finished_trials(study))) < max(config.trials, 1):
        elapsed = (time.monotonic() - start) / 60
        if count and config.minutes and elapsed >= config.minutes:
            report(f"{config.member}: {config.minutes:g} minutes are over after {count} trials")
            return
        trial = next_trial(study, space, current, seed)
        is_current = trial.user_attrs.get(IS_CURRENT, False)
        params = current if is_current else {**current, **round_params(trial.params)}
        remaining = _remaining_time(study, config.trials - count)
        report(f"{config.member}: trial {count + 1} of {config.trials}{remaining}")
        report(f"  {describe_params(params, current)}")
        _run_trial(study, trial, evaluator, params, seed, report)


def _remaining_time(study: optuna.Study, trials: int) -> str:
    """An estimate for the remaining trials, by the mean of those that have finished."""
    seconds = [trial.user_attrs[SECONDS_ATTRIBUTE] for trial in finished_trials(study)]
    if not seconds:
        return ""
    minutes = trials * sum(seconds) / len(seconds) / 60
    return f", about {minutes:.0f} min left" if minutes >= 1 else ", less than a minute left"


def _run_trial(
    study: optuna.Study,
    trial: Trial,
    evaluator: TrialEvaluator,
    params: Params,
    seed: int,
    report: ProgressReporter,
) -> None:
    """Run one trial window by window; its state is stored last, after all its attributes."""
    trial.set_user_attr(PARAMS_ATTRIBUTE, params)
    start = time.monotonic()
    errors: dict[int, float] = {}
    mean = float("inf")
    for step, offset in enumerate(evaluator.offsets):
        errors[offset] = evaluator.error(params, offset, seed)
        mean = sum(errors.values()) / len(errors)
        trial.report(mean, step)
        is_last = step == len(evaluator.offsets) - 1
        pruned = not is_last and trial.should_prune()
        note = ", stopped: far behind the best" if pruned else ""
        origin = evaluator.origin(offset)
        report(f"  from {origin}: {errors[offset]:.4f} (mean {mean:.4f}){note}")
        if pruned:
            break
    windows = {str(offset): error for offset, error in errors.items()}
    trial.set_user_attr(WINDOWS_ATTRIBUTE, windows)
    trial.set_user_attr(SECONDS_ATTRIBUTE, round(time.monotonic() - start, 1))
    if len(errors) < len(evaluator.offsets):
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, mean)


def _check_with_fresh_seeds(
    study: optuna.Study,
    evaluator: TrialEvaluator,
    pair: tuple[Params, Params],
    config: SearchConfig,
    seed: int,
    report: ProgressReporter,
) -> list[tuple[float, float]]:
    """Mean errors of current and best with each fresh seed."""
    checks: list[tuple[float, float]] = []
    for k in range(1, config.n_checks + 1):
        report(f"{config.member}: present and best again, with fresh seed {k} of {config.n_checks}")
        fresh_seed = seed + SEED_STRIDE * k
        current, best = (_stored_error(study, evaluator, params, fresh_seed) for params in pair)
        report(f"  present {current:.4f}, best {best:.4f}")
        checks.append((current, best))
    return checks


def _stored_error(
    study: optuna.Study, evaluator: TrialEvaluator, params: Params, seed: int
) -> float:
    """The mean error, kept in the study so that a resumed search need not measure it again."""
    key = f"check {seed} {sorted(params.items())}"
    error = study.user_attrs.get(key)
    if error is None:
        error = evaluator.mean_error(params, seed)
        study.set_user_attr(key, error)
    return float(error)


def _study_inputs(
    settings: Settings, panel: Panel, config: SearchConfig, offsets: Sequence[int]
) -> dict[str, Any]:
    """All that a trial's error depends on, so that only equal conditions share a study."""
    profile = settings.profile(config.profile)
    return {
        "metric": "capped RMSPE",
        "data": panel.info.version,
        "features": feature_fingerprint(),
        "history_days": settings.history_days,
        "windows": offsets,
        "window_days": settings.window_days,
        "seed": settings.seed,
        "rows": profile.rows,
        "present": profile.members[config.member],
        "space": {name: str(bounds) for name, bounds in SEARCH_SPACE[config.member].items()},
        "libraries": [
            importlib.metadata.version(name) for name in (_LIBRARY[config.member], "optuna")
        ],
    }


def _params_of(attributes: Mapping[str, Any]) -> Params:
    return dict(attributes[PARAMS_ATTRIBUTE])


def describe_params(params: Mapping[str, Number], current: Mapping[str, Number]) -> str:
    """Parameters in one line; only "present parameters" where none differs."""
    if params == current:
        return "present parameters"
    return ", ".join(f"{name} {value:g}" for name, value in params.items())
