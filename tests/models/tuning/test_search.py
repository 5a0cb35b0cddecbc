"""The search of `rossmann tune`: reproducible, pruned, resumable after a kill."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from rossmann.data.panel.panel import Panel
from rossmann.errors import ModelError, SettingsError
from rossmann.installation import project_root
from rossmann.models.evaluation.backtest import backtest
from rossmann.models.evaluation.metrics import capped_rmspe
from rossmann.models.members.fit import sample_training_rows
from rossmann.models.tuning.params_file import replace_numbers
from rossmann.models.tuning.search import MIN_GAIN, SearchConfig, TrialResult, TuningResult, tune
from rossmann.models.tuning.study import (
    N_STARTUP_TRIALS,
    PRUNE_MARGIN,
    SEARCH_SPACE,
    SearchRange,
    distributions,
    finished_trials,
    next_trial,
    open_study,
    round_params,
)
from rossmann.settings import Profile, Settings, load_settings

TRIALS = 6
PARAMS = project_root() / "config" / "params.yaml"
FEW_ROUNDS = {
    ("profiles", "quick", "members", member, "rounds"): 12
    for member in ("lightgbm", "xgboost", "catboost")
}

MakeSettings = Callable[[str], Settings]


@pytest.fixture
def make_settings(
    chain_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> MakeSettings:
    """Makes settings of a named data folder with the small chain; few boosting rounds."""
    params = tmp_path / "params.yaml"
    params.write_text(replace_numbers(PARAMS.read_text("utf-8"), FEW_ROUNDS), "utf-8")
    monkeypatch.setenv("ROSSMANN_PARAMS", str(params))
    monkeypatch.setenv("ROSSMANN_THREADS", "1")
    for name in ("ROSSMANN_DEMO", "ROSSMANN_PROFILES"):
        monkeypatch.delenv(name, raising=False)

    def make(name: str) -> Settings:
        folder = tmp_path / name
        folder.mkdir()
        for part in ("demo", "processed"):
            (folder / part).symlink_to(chain_settings.data_dir / part)
        monkeypatch.setenv("ROSSMANN_DATA_DIR", str(folder))
        return load_settings()

    return make


def run_search(settings: Settings, panel: Panel, **options: object) -> TuningResult:
    defaults = {"member": "lightgbm", "profile": "quick", "trials": TRIALS, "n_checks": 1}
    return tune(settings, panel, SearchConfig(**{**defaults, **options}), lambda line: None)  # type: ignore[arg-type]


def without_times(lines: list[TrialResult]) -> list[TrialResult]:
    return [replace(line, seconds=0.0) for line in lines]


def test_first_trial_has_the_current_parameters_and_the_backtest_error(
    make_settings: MakeSettings, panel: Panel
) -> None:
    settings = make_settings("one")
    result = run_search(settings, panel, trials=3)
    first = result.trials[0]
    members = settings.profile("quick").members
    assert first.params == result.current == members["lightgbm"]
    alone = Profile(
        rows=settings.profile("quick").rows,
        members={"lightgbm": members["lightgbm"]},
        weights={"lightgbm": 1.0},
    )
    examples = sample_training_rows(panel, settings.history_days, settings.seed)
    outcomes = backtest(settings, panel, examples, alone, lambda line: None)
    assert first.windows == {
        o.window.origin_date: capped_rmspe(o.window.sold, o.forecasts["ensemble"]) for o in outcomes
    }
    assert first.error == sum(first.windows.values()) / 2
    assert min(line.error for line in result.trials if line.error is not None) <= first.error


@pytest.mark.parametrize("member", list(SEARCH_SPACE))
def test_trials_stay_in_the_search_space_of_the_member(
    make_settings: MakeSettings, panel: Panel, member: str
) -> None:
    result = run_search(make_settings("one"), panel, member=member, trials=3)
    assert len(result.trials) == 3
    for line in result.trials[1:]:
        assert line.params != result.current
        for name, value in line.params.items():
            low, high = SEARCH_SPACE[member][name].bounds(result.current[name])
            assert low * 0.99 <= value <= high * 1.01
            assert line.params == round_params(line.params)


@pytest.mark.nightly
def test_trials_depend_on_the_seed_only(make_settings: MakeSettings, panel: Panel) -> None:
    one, two = (run_search(make_settings(name), panel) for name in ("one", "two"))
    assert without_times(one.trials) == without_times(two.trials)
    assert (one.best, one.checks) == (two.best, two.checks)
    other = run_search(make_settings("three").model_copy(update={"seed": 5}), panel)
    assert other.trials[1].params != one.trials[1].params


def test_bad_trials_are_pruned_after_their_first_window(
    make_settings: MakeSettings, panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Learning rates so high that the error is large.
    monkeypatch.setitem(SEARCH_SPACE, "lightgbm", {"learning_rate": SearchRange(30, 0.1, 3)})
    result = run_search(make_settings("one"), panel)
    pruned = [line for line in result.trials if line.error is None]
    assert pruned
    assert all(len(line.windows) == 1 for line in pruned)
    assert result.trials[0].error is not None
    oldest = min(result.trials[0].windows)
    best = min(line.windows[oldest] for line in result.trials)
    assert all(line.windows[oldest] > best + PRUNE_MARGIN for line in pruned)


def test_killed_search_resumes_with_the_same_result(
    make_settings: MakeSettings, panel: Panel
) -> None:
    uninterrupted = run_search(make_settings("whole"), panel)
    settings = make_settings("killed")
    arguments = ["tune", "--member", "lightgbm", "--profile", "quick", "--checks", "1", "--dry-run"]
    command = [sys.executable, "-m", "rossmann.cli", *arguments, "--trials", str(TRIALS)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ.copy())
    assert process.stderr is not None
    in_trial = False
    for line in process.stderr:
        in_trial = in_trial or f"trial 3 of {TRIALS}" in line
        if in_trial and "    from " in line:  # the first window is done
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stderr.close()
    assert in_trial
    assert process.returncode == -signal.SIGKILL

    lines: list[str] = []
    search = SearchConfig("lightgbm", "quick", TRIALS, n_checks=1)
    resumed = tune(settings, panel, search, lines.append)
    assert "going on after" in lines[0]
    assert not any(f"trial 2 of {TRIALS}" in line for line in lines)
    assert without_times(resumed.trials) == without_times(uninterrupted.trials)
    assert (resumed.study, resumed.best) == (uninterrupted.study, uninterrupted.best)
    assert resumed.checks == uninterrupted.checks


def test_interrupted_trial_is_proposed_again(tmp_path: Path) -> None:
    current = {"learning_rate": 0.1, "num_leaves": 31}
    space = distributions("lightgbm", current)
    proposals = []
    for _ in range(3):
        with open_study(tmp_path, "one", fresh=False) as study:
            assert len(finished_trials(study)) == min(len(proposals), 1)
            trial = next_trial(study, space, current, 7)
            if not proposals:  # the first ends, the later ones are interrupted
                assert trial.params == current
                study.tell(trial, 0.1)
            proposals.append(trial.params)
    assert proposals[1] == proposals[2] != current
    with open_study(tmp_path, "one", fresh=False) as study:
        states = [trial.state for trial in study.trials]
        assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL]


def run_study(
    folder: Path, trials: int, interruptions: int, seed: int = 7
) -> list[dict[str, float]]:
    """The proposals of a search that is interrupted ``interruptions`` times in each trial."""
    current = {"learning_rate": 0.1, "num_leaves": 31, "lambda_l2": 5}
    space = distributions("lightgbm", current)
    params: list[dict[str, float]] = []
    while len(params) < trials:
        for _ in range(interruptions):
            with open_study(folder, "one", fresh=False) as study:
                next_trial(study, space, current, seed).report(0.2, 0)
        with open_study(folder, "one", fresh=False) as study:
            trial = next_trial(study, space, current, seed)
            params.append(trial.params)
            study.tell(trial, abs(trial.params["learning_rate"] - 0.06))
    return params


def test_interruptions_do_not_change_the_proposals(tmp_path: Path) -> None:
    trials = N_STARTUP_TRIALS + 5  # only later proposals depend on earlier trials
    uninterrupted = run_study(tmp_path / "whole", trials, interruptions=0)
    assert len({str(params) for params in uninterrupted}) == trials
    assert run_study(tmp_path / "killed", trials, interruptions=2) == uninterrupted
    assert run_study(tmp_path / "other", 3, interruptions=0, seed=8)[1:] != uninterrupted[1:3]


def test_interrupted_first_trial_has_the_current_parameters_again(tmp_path: Path) -> None:
    current = {"learning_rate": 0.1}
    for _ in range(2):
        with open_study(tmp_path, "one", fresh=False) as study:
            trial = next_trial(study, distributions("lightgbm", current), current, 7)
            assert trial.params == current


def test_finished_search_is_repeated_only_with_fresh(
    make_settings: MakeSettings, panel: Panel
) -> None:
    settings = make_settings("one")
    search = SearchConfig("xgboost", "quick", 2, n_checks=1)
    first = tune(settings, panel, search, lambda line: None)
    lines: list[str] = []
    again = tune(settings, panel, search, lines.append)
    assert again.trials == first.trials
    assert not any("trial " in line for line in lines)
    tune(settings, panel, replace(search, fresh=True), lines.append)
    assert any("trial 1 of 2" in line for line in lines)


def test_study_name_depends_on_windows_member_and_seed(
    make_settings: MakeSettings, panel: Panel
) -> None:
    settings = make_settings("one")
    names = [
        run_search(settings, panel, trials=1).study,
        run_search(settings, panel, trials=1, offsets=(48,)).study,
        run_search(settings, panel, trials=1, member="xgboost").study,
        run_search(settings.model_copy(update={"seed": 3}), panel, trials=1).study,
    ]
    assert len(set(names)) == len(names)


def test_concurrent_search_of_the_same_study_raises(tmp_path: Path) -> None:
    with open_study(tmp_path, "one", fresh=False):
        with (
            pytest.raises(ModelError, match="another process tunes one"),
            open_study(tmp_path, "one", fresh=False),
        ):
            pass
        with open_study(tmp_path, "two", fresh=False) as study:
            assert not study.trials


def test_no_trial_begins_after_the_time_limit(make_settings: MakeSettings, panel: Panel) -> None:
    lines: list[str] = []
    search = SearchConfig("lightgbm", "quick", 50, minutes=1e-9, n_checks=1)
    result = tune(make_settings("one"), panel, search, lines.append)
    assert len(result.trials) == 1
    assert result.best == result.current
    assert any("minutes are over after 1 trials" in line for line in lines)


@pytest.mark.parametrize(("member", "profile"), [("prophet", "quick"), ("", "full")])
def test_unknown_member_raises_with_the_known_ones(
    make_settings: MakeSettings, panel: Panel, member: str, profile: str
) -> None:
    with pytest.raises(SettingsError, match="there are: lightgbm, xgboost, catboost"):
        run_search(make_settings("one"), panel, member=member, profile=profile)


def test_gain_is_significant_only_above_the_minimum_in_all_checks() -> None:
    line = TrialResult(0, 0.1, {}, {}, 1.0)
    result = TuningResult("lightgbm", "", {}, {"rounds": 2}, [line], [(0.1, 0.0990), (0.1, 0.0994)])
    assert result.gain == pytest.approx(0.0008)
    assert result.is_significant
    assert not replace(result, checks=[(0.1, 0.0980), (0.1, 0.1001)]).is_significant
    assert not replace(result, checks=[(0.1, 0.1 - 0.9 * MIN_GAIN)] * 2).is_significant


@given(
    st.sampled_from([(m, n) for m, space in SEARCH_SPACE.items() for n in space]),
    st.floats(1e-4, 1e4),
)
def test_search_range_contains_the_current_value(parameter: tuple[str, str], value: float) -> None:
    search_range = SEARCH_SPACE[parameter[0]][parameter[1]]
    current = round(value) or 1 if search_range.integer else value
    low, high = search_range.bounds(current)
    assert 0 < low <= current <= high or (low == 0 and search_range.integer)


def test_parameter_of_zero_is_not_searched() -> None:
    assert list(distributions("lightgbm", {"lambda_l2": 0, "num_leaves": 7})) == ["num_leaves"]
