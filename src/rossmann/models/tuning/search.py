"""Tuning: look for better parameters of one member, by the error that ``backtest`` measures.

A trial fits the member as of each window's origin, oldest window first, and forecasts the window
by the way that serves; its error is the mean RMSPE over windows. Trial 0 has the present
parameters, so the best is never worse. Because the best of many trials owes a part of its lead to
luck, best and present are then compared again with seeds that the search did not use.
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
from rossmann.models.evaluation.backtest import backtest
from rossmann.models.evaluation.metrics import rmspe
from rossmann.models.members.fit import TrainingRows, sample_training_rows
from rossmann.models.tuning.study import (
    PARAMS,
    PRESENT,
    SECONDS,
    SPACE,
    Number,
    Params,
    best_trial,
    distributions,
    finished,
    next_trial,
    open_study,
    round_params,
    study_name,
)
from rossmann.schema import ProgressReporter, feature_fingerprint
from rossmann.settings import Profile, Settings

MIN_GAIN: Final = 0.0003
"""RMSPE, mean of windows and fresh seeds, that a change of parameters must gain to be worth it."""
SEED_STRIDE: Final = 1000
"""Between the seeds of a check: members take the next few seeds each for themselves."""
_LIBRARY: Final = {"lightgbm": "lightgbm", "xgboost": "xgboost-cpu", "catboost": "catboost"}


@dataclass(frozen=True)
class SearchConfig:
    """What to look for, and for how long.

    ``trials`` counts those of an earlier, interrupted run too. ``minutes`` 0 is no limit: after
    them no further trial begins. ``ends`` are origins as days before the last day of history,
    empty takes the settings'. ``checks`` is the number of fresh seeds at the end.
    """

    member: str
    profile: str = "full"
    trials: int = 20
    minutes: float = 0.0
    ends: tuple[int, ...] = ()
    checks: int = 4
    fresh: bool = False


@dataclass(frozen=True)
class TrialResult:
    """One finished trial: error is the mean over ``windows``, ``None`` where it was stopped."""

    place: int
    error: float | None
    windows: dict[date, float]
    params: Params
    seconds: float


@dataclass(frozen=True)
class TuningResult:
    """What a search found. ``checks`` are errors of present and best with each fresh seed."""

    member: str
    study: str
    present: Params
    best: Params
    trials: list[TrialResult]
    checks: list[tuple[float, float]]

    @property
    def gain(self) -> float:
        """RMSPE that the best gains on the present parameters, mean of the fresh seeds; 0 if none.

        Without a check, what the search itself measured.
        """
        errors = [line.error for line in self.trials if line.error is not None]
        pairs = self.checks or [(errors[0], min(errors))]
        return sum(present - best for present, best in pairs) / len(pairs)

    @property
    def is_significant(self) -> bool:
        """Whether the best beats the present by more than noise: every fresh seed must agree."""
        return self.gain >= MIN_GAIN and all(best < present for present, best in self.checks)


class TrialEvaluator:
    """The error of a member's parameters on one window, by the path that ``backtest`` takes."""

    def __init__(
        self, settings: Settings, panel: Panel, member: str, rows: int, ends: Sequence[int]
    ) -> None:
        self._settings, self._panel, self._member, self._rows = settings, panel, member, rows
        self.ends = tuple(sorted(set(ends), reverse=True))
        self._drawn: tuple[int, TrainingRows] | None = None

    def origin(self, end: int) -> date:
        """The last day whose sales the window's forecasts may use."""
        return to_date(self._panel.last_day - end)

    def error(self, params: Mapping[str, Number], end: int, seed: int) -> float:
        """RMSPE of the window whose origin lies ``end`` days before the end of history."""
        profile = Profile(
            rows=self._rows, members={self._member: dict(params)}, weights={self._member: 1.0}
        )
        settings = self._settings.model_copy(update={"seed": seed})
        (outcome,) = backtest(
            settings, self._panel, self._examples(seed), profile, lambda line: None, (end,)
        )
        return rmspe(outcome.window.sold, outcome.forecasts["ensemble"])

    def _examples(self, seed: int) -> TrainingRows:
        """Drawn once for a seed, as training does; the last ones are kept."""
        if self._drawn is None or self._drawn[0] != seed:
            self._drawn = None
            drawn = sample_training_rows(self._panel, self._settings.history_days, seed)
            self._drawn = (seed, drawn)
        return self._drawn[1]


def tune(
    settings: Settings, panel: Panel, search: SearchConfig, report: ProgressReporter
) -> TuningResult:
    """Search one member's parameters; writes nothing but the study in ``data_dir/tuning``.

    Raises ``SettingsError`` for a member or a profile that there is not, ``ModelError`` where
    another process works on the same study, ``DataError`` where history is too short.
    """
    present = present_params(settings, search.profile, search.member)
    rows = settings.profile(search.profile).rows
    yard = TrialEvaluator(settings, panel, search.member, rows, search.ends or settings.windows)
    name = study_name(search.member, search.profile, _question(settings, panel, search, yard))
    folder = settings.data_dir / "tuning"
    with open_study(folder, name, fresh=search.fresh) as study:
        if done := len(finished(study)):
            report(f"{search.member}: going on after {done} trials (study {name})")
        _run_trials(study, yard, present, search, settings.seed, report)
        best = _params_of(best_trial(study).user_attrs)
        checks: list[tuple[float, float]] = []
        if best != present:
            checks = _check(study, yard, (present, best), search, settings.seed, report)
        return TuningResult(search.member, name, present, best, trial_lines(study, yard), checks)


def present_params(settings: Settings, profile: str, member: str) -> Params:
    """The member's parameters now; raises ``SettingsError`` naming the members that there are."""
    members = settings.profile(profile).members
    if member not in members or member not in SPACE:
        there = ", ".join(name for name in members if name in SPACE)
        raise SettingsError(f"profile {profile} has no member {member!r}; there are: {there}")
    return dict(members[member])


def trial_lines(study: optuna.Study, yard: TrialEvaluator) -> list[TrialResult]:
    """The finished trials in their order."""
    return [
        TrialResult(
            place,
            trial.value if trial.state is TrialState.COMPLETE else None,
            {yard.origin(int(end)): error for end, error in trial.user_attrs["windows"].items()},
            _params_of(trial.user_attrs),
            trial.user_attrs[SECONDS],
        )
        for place, trial in enumerate(finished(study))
    ]


def _run_trials(
    study: optuna.Study,
    yard: TrialEvaluator,
    present: Params,
    search: SearchConfig,
    seed: int,
    report: ProgressReporter,
) -> None:
    space = distributions(search.member, present)
    begun = time.monotonic()
    # The present parameters' trial is run however short the time: without it there is no best.
    while (place := len(finished(study))) < max(search.trials, 1):
        spent = (time.monotonic() - begun) / 60
        if place and search.minutes and spent >= search.minutes:
            report(f"{search.member}: {search.minutes:g} minutes are over after {place} trials")
            return
        trial = next_trial(study, space, present, seed)
        first = trial.user_attrs.get(PRESENT, False)
        params = present if first else {**present, **round_params(trial.params)}
        left = _left(study, search.trials - place)
        report(f"{search.member}: trial {place + 1} of {search.trials}{left}")
        report(f"  {describe_params(params, present)}")
        _run(study, trial, yard, params, seed, report)


def _left(study: optuna.Study, trials: int) -> str:
    """How long the trials to come may take, by the mean of those that have finished."""
    seconds = [trial.user_attrs[SECONDS] for trial in finished(study)]
    if not seconds:
        return ""
    minutes = trials * sum(seconds) / len(seconds) / 60
    return f", about {minutes:.0f} min left" if minutes >= 1 else ", less than a minute left"


def _run(
    study: optuna.Study,
    trial: Trial,
    yard: TrialEvaluator,
    params: Params,
    seed: int,
    report: ProgressReporter,
) -> None:
    """Run one trial window by window; the last thing told to the study is that it has finished."""
    trial.set_user_attr(PARAMS, params)
    begun = time.monotonic()
    errors: dict[int, float] = {}
    mean = float("inf")
    for step, end in enumerate(yard.ends):
        errors[end] = yard.error(params, end, seed)
        mean = sum(errors.values()) / len(errors)
        trial.report(mean, step)
        last = step == len(yard.ends) - 1
        stopped = not last and trial.should_prune()
        note = ", stopped: far behind the best" if stopped else ""
        report(f"  from {yard.origin(end)}: {errors[end]:.4f} (mean {mean:.4f}){note}")
        if stopped:
            break
    trial.set_user_attr("windows", {str(end): error for end, error in errors.items()})
    trial.set_user_attr(SECONDS, round(time.monotonic() - begun, 1))
    if len(errors) < len(yard.ends):
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, mean)


def _check(
    study: optuna.Study,
    yard: TrialEvaluator,
    pair: tuple[Params, Params],
    search: SearchConfig,
    seed: int,
    report: ProgressReporter,
) -> list[tuple[float, float]]:
    """Mean errors of present and best with each fresh seed; kept in the study, for a resume."""
    errors: list[tuple[float, float]] = []
    for k in range(1, search.checks + 1):
        report(f"{search.member}: present and best again, with fresh seed {k} of {search.checks}")
        mine = seed + SEED_STRIDE * k
        present, best = (_mean_error(study, yard, params, mine) for params in pair)
        report(f"  present {present:.4f}, best {best:.4f}")
        errors.append((present, best))
    return errors


def _mean_error(study: optuna.Study, yard: TrialEvaluator, params: Params, seed: int) -> float:
    key = f"check {seed} {sorted(params.items())}"
    known = study.user_attrs.get(key)
    if known is None:
        known = sum(yard.error(params, end, seed) for end in yard.ends) / len(yard.ends)
        study.set_user_attr(key, known)
    return float(known)


def _question(
    settings: Settings, panel: Panel, search: SearchConfig, yard: TrialEvaluator
) -> dict[str, Any]:
    """All that a trial's error depends on, so that only like is compared with like."""
    profile = settings.profile(search.profile)
    return {
        "data": panel.info.version,
        "features": feature_fingerprint(),
        "history_days": settings.history_days,
        "windows": yard.ends,
        "window_days": settings.window_days,
        "seed": settings.seed,
        "rows": profile.rows,
        "present": profile.members[search.member],
        "space": {name: str(span) for name, span in SPACE[search.member].items()},
        "libraries": [
            importlib.metadata.version(name) for name in (_LIBRARY[search.member], "optuna")
        ],
    }


def _params_of(attributes: Mapping[str, Any]) -> Params:
    return dict(attributes[PARAMS])


def describe_params(params: Mapping[str, Number], present: Mapping[str, Number]) -> str:
    """Parameters in one line; only "present parameters" where none differs."""
    if params == present:
        return "present parameters"
    return ", ".join(f"{name} {value:g}" for name, value in params.items())
