"""`rossmann tune`: honest, seeded, stopped early, and none the worse for a kill."""

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
from rossmann.models.evaluation.backtest import backtest
from rossmann.models.evaluation.metrics import rmspe
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
from rossmann.settings import Profile, Settings, load_settings, project_root

TRIALS = 6
PARAMS = project_root() / "config" / "params.yaml"
FEW_ROUNDS = {
    ("profiles", "quick", "members", member, "rounds"): 12
    for member in ("lightgbm", "xgboost", "catboost")
}

Home = Callable[[str], Settings]


@pytest.fixture
def home(chain_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Settings of a data folder of that name, with the small chain in it and few rounds."""
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


def look(settings: Settings, panel: Panel, **options: object) -> TuningResult:
    given_options = {"member": "lightgbm", "profile": "quick", "trials": TRIALS, "n_checks": 1}
    return tune(settings, panel, SearchConfig(**{**given_options, **options}), lambda line: None)  # type: ignore[arg-type]


def timeless(lines: list[TrialResult]) -> list[TrialResult]:
    return [replace(line, seconds=0.0) for line in lines]


def test_the_present_parameters_come_first_and_are_measured_as_backtest_does(
    home: Home, panel: Panel
) -> None:
    settings = home("one")
    found = look(settings, panel, trials=3)
    first = found.trials[0]
    members = settings.profile("quick").members
    assert first.params == found.current == members["lightgbm"]
    alone = Profile(
        rows=settings.profile("quick").rows,
        members={"lightgbm": members["lightgbm"]},
        weights={"lightgbm": 1.0},
    )
    examples = sample_training_rows(panel, settings.history_days, settings.seed)
    outcomes = backtest(settings, panel, examples, alone, lambda line: None)
    assert first.windows == {
        o.window.origin_date: rmspe(o.window.sold, o.forecasts["ensemble"]) for o in outcomes
    }
    assert first.error == sum(first.windows.values()) / 2
    assert min(line.error for line in found.trials if line.error is not None) <= first.error


@pytest.mark.parametrize("member", list(SEARCH_SPACE))
def test_each_member_is_searched_where_it_says(home: Home, panel: Panel, member: str) -> None:
    found = look(home("one"), panel, member=member, trials=3)
    assert len(found.trials) == 3
    for line in found.trials[1:]:
        assert line.params != found.current
        for name, value in line.params.items():
            low, high = SEARCH_SPACE[member][name].bounds(found.current[name])
            assert low * 0.99 <= value <= high * 1.01
            assert line.params == round_params(line.params)


def test_the_same_seed_proposes_the_same_and_another_seed_does_not(
    home: Home, panel: Panel
) -> None:
    one, two = (look(home(name), panel) for name in ("one", "two"))
    assert timeless(one.trials) == timeless(two.trials)
    assert (one.best, one.checks) == (two.best, two.checks)
    other = look(home("three").model_copy(update={"seed": 5}), panel)
    assert other.trials[1].params != one.trials[1].params


def test_a_hopeless_trial_is_stopped_after_its_first_window(
    home: Home, panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Rates so high that the member overshoots.
    monkeypatch.setitem(SEARCH_SPACE, "lightgbm", {"learning_rate": SearchRange(30, 0.1, 3)})
    found = look(home("one"), panel)
    stopped = [line for line in found.trials if line.error is None]
    assert stopped
    assert all(len(line.windows) == 1 for line in stopped)
    assert found.trials[0].error is not None
    oldest = min(found.trials[0].windows)
    least = min(line.windows[oldest] for line in found.trials)
    assert all(line.windows[oldest] > least + PRUNE_MARGIN for line in stopped)


def test_killed_in_the_middle_it_ends_as_if_never_killed(home: Home, panel: Panel) -> None:
    whole = look(home("whole"), panel)
    settings = home("killed")
    words = ["tune", "--member", "lightgbm", "--profile", "quick", "--checks", "1", "--dry-run"]
    command = [sys.executable, "-m", "rossmann.cli", *words, "--trials", str(TRIALS)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ.copy())
    assert process.stderr is not None
    in_trial = False
    for line in process.stderr:
        in_trial = in_trial or f"trial 3 of {TRIALS}" in line
        if in_trial and "    from " in line:  # one window is done, the next is under way
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stderr.close()
    assert in_trial
    assert process.returncode == -signal.SIGKILL

    told: list[str] = []
    search = SearchConfig("lightgbm", "quick", TRIALS, n_checks=1)
    resumed = tune(settings, panel, search, told.append)
    assert "going on after" in told[0]
    assert not any(f"trial 2 of {TRIALS}" in line for line in told)
    assert timeless(resumed.trials) == timeless(whole.trials)
    assert (resumed.study, resumed.best) == (whole.study, whole.best)
    assert resumed.checks == whole.checks


def test_a_trial_that_was_left_running_is_proposed_again(tmp_path: Path) -> None:
    present = {"learning_rate": 0.1, "num_leaves": 31}
    space = distributions("lightgbm", present)
    proposals = []
    for _ in range(3):
        with open_study(tmp_path, "one", fresh=False) as study:
            assert len(finished_trials(study)) == min(len(proposals), 1)
            trial = next_trial(study, space, present, 7)
            if not proposals:  # the first ends, the later ones are left as a kill leaves them
                assert trial.params == present
                study.tell(trial, 0.1)
            proposals.append(trial.params)
    assert proposals[1] == proposals[2] != present
    with open_study(tmp_path, "one", fresh=False) as study:
        states = [trial.state for trial in study.trials]
        assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL]


def proposals_of(folder: Path, trials: int, kills: int, seed: int = 7) -> list[dict[str, float]]:
    """What a search proposes that is left and taken up again ``kills`` times in each trial."""
    present = {"learning_rate": 0.1, "num_leaves": 31, "lambda_l2": 5}
    space = distributions("lightgbm", present)
    found: list[dict[str, float]] = []
    while len(found) < trials:
        for _ in range(kills):
            with open_study(folder, "one", fresh=False) as study:
                next_trial(study, space, present, seed).report(0.2, 0)
        with open_study(folder, "one", fresh=False) as study:
            trial = next_trial(study, space, present, seed)
            found.append(trial.params)
            study.tell(trial, abs(trial.params["learning_rate"] - 0.06))
    return found


def test_no_interruption_changes_what_the_sampler_proposes(tmp_path: Path) -> None:
    trials = N_STARTUP_TRIALS + 5  # the sampler is led by earlier trials only after the first few
    whole = proposals_of(tmp_path / "whole", trials, kills=0)
    assert len({str(params) for params in whole}) == trials
    assert proposals_of(tmp_path / "killed", trials, kills=2) == whole
    assert proposals_of(tmp_path / "other", 3, kills=0, seed=8)[1:] != whole[1:3]


def test_a_first_trial_that_was_left_running_has_the_present_parameters_again(
    tmp_path: Path,
) -> None:
    present = {"learning_rate": 0.1}
    for _ in range(2):
        with open_study(tmp_path, "one", fresh=False) as study:
            trial = next_trial(study, distributions("lightgbm", present), present, 7)
            assert trial.params == present


def test_a_finished_search_is_not_done_again_unless_fresh(home: Home, panel: Panel) -> None:
    settings = home("one")
    search = SearchConfig("xgboost", "quick", 2, n_checks=1)
    first = tune(settings, panel, search, lambda line: None)
    told: list[str] = []
    again = tune(settings, panel, search, told.append)
    assert again.trials == first.trials
    assert not any("trial " in line for line in told)
    tune(settings, panel, replace(search, fresh=True), told.append)
    assert any("trial 1 of 2" in line for line in told)


def test_another_question_is_another_study(home: Home, panel: Panel) -> None:
    settings = home("one")
    names = [
        look(settings, panel, trials=1).study,
        look(settings, panel, trials=1, offsets=(48,)).study,
        look(settings, panel, trials=1, member="xgboost").study,
        look(settings.model_copy(update={"seed": 3}), panel, trials=1).study,
    ]
    assert len(set(names)) == len(names)


def test_two_at_once_are_told(tmp_path: Path) -> None:
    with open_study(tmp_path, "one", fresh=False):
        with (
            pytest.raises(ModelError, match="another process tunes one"),
            open_study(tmp_path, "one", fresh=False),
        ):
            pass
        with open_study(tmp_path, "two", fresh=False) as study:
            assert not study.trials


def test_when_the_minutes_are_over_no_trial_begins(home: Home, panel: Panel) -> None:
    told: list[str] = []
    search = SearchConfig("lightgbm", "quick", 50, minutes=1e-9, n_checks=1)
    found = tune(home("one"), panel, search, told.append)
    assert len(found.trials) == 1
    assert found.best == found.current
    assert any("minutes are over after 1 trials" in line for line in told)


@pytest.mark.parametrize(("member", "profile"), [("prophet", "quick"), ("", "full")])
def test_a_wrong_member_is_refused_naming_those_there_are(
    home: Home, panel: Panel, member: str, profile: str
) -> None:
    with pytest.raises(SettingsError, match="there are: lightgbm, xgboost, catboost"):
        look(home("one"), panel, member=member, profile=profile)


def test_noise_is_not_worth_a_change() -> None:
    line = TrialResult(0, 0.1, {}, {}, 1.0)
    found = TuningResult("lightgbm", "", {}, {"rounds": 2}, [line], [(0.1, 0.0990), (0.1, 0.0994)])
    assert found.gain == pytest.approx(0.0008)
    assert found.is_significant
    assert not replace(found, checks=[(0.1, 0.0980), (0.1, 0.1001)]).is_significant
    assert not replace(found, checks=[(0.1, 0.1 - 0.9 * MIN_GAIN)] * 2).is_significant


@given(
    st.sampled_from([(m, n) for m, space in SEARCH_SPACE.items() for n in space]),
    st.floats(1e-4, 1e4),
)
def test_a_range_always_holds_the_present_value(place: tuple[str, str], value: float) -> None:
    span = SEARCH_SPACE[place[0]][place[1]]
    present = round(value) or 1 if span.integer else value
    low, high = span.bounds(present)
    assert 0 < low <= present <= high or (low == 0 and span.integer)


def test_a_parameter_that_is_zero_stays() -> None:
    assert list(distributions("lightgbm", {"lambda_l2": 0, "num_leaves": 7})) == ["num_leaves"]
