"""``rossmann tune``: written parameters, dry runs, rejected options, and blend weights."""

import re
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from rossmann.cli import app, main
from rossmann.cli.tune import _apply_change
from rossmann.data.panel.panel import Panel
from rossmann.errors import DataError, SettingsError
from rossmann.installation import project_root
from rossmann.models.tuning.blend_weights import cross_validate, tune_weights, weight_grid
from rossmann.models.tuning.params_file import replace_numbers
from rossmann.models.tuning.search import TuningResult
from rossmann.settings import Settings, load_settings

PARAMS = project_root() / "config" / "params.yaml"
QUICK = ("profiles", "quick", "members")
RATE = (*QUICK, "lightgbm", "learning_rate")
REDUCED_ROUNDS = {(*QUICK, member, "rounds"): 12 for member in ("lightgbm", "xgboost", "catboost")}
BAD_RATE = {RATE: 1.2}
"""So high that a trial with another value is better for any seed."""


@pytest.fixture
def params(chain_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The parameters file of the command line, with the small chain's data."""
    for part in ("demo", "processed"):
        (tmp_path / part).symlink_to(chain_settings.data_dir / part)
    path = tmp_path / "params.yaml"
    path.write_text(replace_numbers(PARAMS.read_text("utf-8"), REDUCED_ROUNDS), "utf-8")
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("ROSSMANN_PARAMS", str(path))
    monkeypatch.setenv("ROSSMANN_THREADS", "1")
    for name in ("ROSSMANN_DEMO", "ROSSMANN_PROFILES"):
        monkeypatch.delenv(name, raising=False)
    return path


def run(*options: str) -> Result:
    return CliRunner().invoke(app, ["tune", "--profile", "quick", *options])


def changed_lines(before: str, after: str) -> list[tuple[str, str]]:
    pairs = zip(before.split("\n"), after.split("\n"), strict=True)
    return [(old, new) for old, new in pairs if old != new]


def test_better_parameters_are_written_and_no_other_line_changes(params: Path) -> None:
    before = replace_numbers(params.read_text("utf-8"), BAD_RATE)
    params.write_text(before, "utf-8")
    options = ("--member", "lightgbm", "--trials", "4", "--checks", "1")

    dry_run = run(*options, "--dry-run")
    assert dry_run.exit_code == 0, dry_run.output
    assert "not written (--dry-run)" in dry_run.output
    assert params.read_text("utf-8") == before

    result = run(*options)
    assert result.exit_code == 0, result.output
    after = params.read_text("utf-8")
    ((old, new),) = changed_lines(before, after)
    assert old.strip().startswith("lightgbm: {rounds: 12, learning_rate: 1.2,")
    names = [part.partition(":")[0] for part in old.split(", ")]
    assert [part.partition(":")[0] for part in new.split(", ")] == names
    assert f"-{old}" in result.stdout
    assert f"+{new}" in result.stdout
    assert "written to" in result.stdout
    best = load_settings().profile("quick").members["lightgbm"]
    assert best["learning_rate"] < 1.2
    assert re.search(
        r"^ *0 +0\.\d+ ", result.stdout, re.MULTILINE
    )  # the first trial has the present parameters


def test_file_is_unchanged_when_no_trial_is_better(params: Path) -> None:
    before = params.read_bytes()
    result = run("--member", "xgboost", "--trials", "1")
    assert result.exit_code == 0, result.output
    assert "no trial was better than the present parameters" in result.stdout
    assert params.read_bytes() == before


def test_every_member_is_searched_by_default(params: Path) -> None:
    result = run("--trials", "1")
    assert result.exit_code == 0, result.output
    for member in ("lightgbm", "xgboost", "catboost"):
        assert f"{member}: no trial was better" in result.stdout


def test_origins_option_sets_the_windows(params: Path, panel: Panel) -> None:
    origin = panel.info.last_day.replace(day=1)
    result = run("--member", "catboost", "--trials", "1", "--origins", origin.isoformat())
    assert result.exit_code == 0, result.output
    assert f"from {origin}" in result.output
    assert params.is_file()


@pytest.mark.usefixtures("params")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--member", "prophet"], "there are: lightgbm, xgboost, catboost"),
        (["--profile", "huge"], "no profile 'huge'"),
        (["--member", "lightgbm", "--weights"], "leave --member out"),
        (["--origins", "tomorrow"], "days as YYYY-MM-DD"),
        (["--origins", "2031-01-01"], "an origin must be from"),
        (["--trials", "0"], "--trials"),
    ],
)
def test_invalid_options_are_rejected(
    options: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", *options]) != 0
    error = capsys.readouterr().err.strip().split("\n")[-1]
    assert error.startswith("error: ")
    assert expected in error


def test_read_only_parameters_file_is_rejected_before_the_search(
    params: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params.chmod(0o444)
    assert main(["tune", "--trials", "1"]) == 1
    assert "is not writable" in capsys.readouterr().err
    assert not (params.parent / "tuning").exists()


def test_profiles_from_the_environment_need_a_dry_run(
    params: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROSSMANN_PROFILES", '{"quick": {"rows": 5000}}')
    result = run("--trials", "1")
    assert result.exit_code == 1
    assert isinstance(result.exception, SettingsError)
    assert "ROSSMANN_PROFILES is set" in str(result.exception)
    dry_run = run("--trials", "1", "--member", "catboost", "--dry-run")
    assert dry_run.exit_code == 0, dry_run.output
    assert params.is_file()


def test_parameters_file_changed_during_the_search_is_not_overwritten(params: Path) -> None:
    before = params.read_bytes()
    result = TuningResult("lightgbm", "", {"learning_rate": 0.07}, {"learning_rate": 0.2}, [], [])
    with pytest.raises(
        SettingsError, match=r"changed meanwhile; not written: .*learning_rate: 0.2"
    ):
        _apply_change((*QUICK, "lightgbm"), result, "lightgbm", dry_run=False)
    assert params.read_bytes() == before


def test_weight_grid_has_every_combination_once() -> None:
    mixes = list(weight_grid(["a", "b", "c"], 10))
    assert len(mixes) == len({tuple(mix.values()) for mix in mixes}) == 66
    assert all(sum(mix.values()) == pytest.approx(1) for mix in mixes)
    assert list(weight_grid(["a"])) == [{"a": 1.0}]


def test_weights_are_evaluated_on_held_out_windows() -> None:
    mixes = [{"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}]
    days = [date(2015, 1, 1), date(2015, 2, 1)]
    # each window has another best mix, which is worse on the other window
    conflicting = cross_validate(np.array([[0.10, 0.09], [0.10, 0.12]]), mixes, mixes[0], days)
    assert conflicting.best == mixes[0]
    assert conflicting.gain < 0
    assert not conflicting.is_significant
    consistent = cross_validate(np.array([[0.10, 0.09], [0.10, 0.098]]), mixes, mixes[0], days)
    assert consistent.best == mixes[1]
    assert consistent.gain == pytest.approx(0.006)
    assert consistent.is_significant


def test_weights_option_evaluates_the_serving_blend(params: Path, panel: Panel) -> None:
    result = run("--weights", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "trying 231 mixes" in result.output
    assert "chosen by the others" in result.stdout
    with pytest.raises(DataError, match="two windows or more"):
        tune_weights(load_settings(), panel, "quick", (48,), lambda line: None)
    assert params.is_file()
