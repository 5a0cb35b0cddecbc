"""`rossmann tune` on the command line: what it writes, what it leaves alone, what it refuses."""

from datetime import date
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from rossmann.cli import app, main
from rossmann.cli.tune import _apply_change
from rossmann.data.panel.panel import Panel
from rossmann.errors import DataError, SettingsError
from rossmann.models.tuning.blend_weights import cross_validate, tune_weights, weight_grid
from rossmann.models.tuning.params_file import replace_numbers
from rossmann.models.tuning.search import TuningResult
from rossmann.settings import Settings, load_settings, project_root

PARAMS = project_root() / "config" / "params.yaml"
QUICK = ("profiles", "quick", "members")
RATE = (*QUICK, "lightgbm", "learning_rate")
FEW_ROUNDS = {(*QUICK, member, "rounds"): 12 for member in ("lightgbm", "xgboost", "catboost")}
BAD = {RATE: 1.2}
"""So high that nearly any other is better on any seed."""


@pytest.fixture
def params(chain_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The parameters file that the command line takes, for the small chain."""
    for part in ("demo", "processed"):
        (tmp_path / part).symlink_to(chain_settings.data_dir / part)
    path = tmp_path / "params.yaml"
    path.write_text(replace_numbers(PARAMS.read_text("utf-8"), FEW_ROUNDS), "utf-8")
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("ROSSMANN_PARAMS", str(path))
    monkeypatch.setenv("ROSSMANN_THREADS", "1")
    for name in ("ROSSMANN_DEMO", "ROSSMANN_PROFILES"):
        monkeypatch.delenv(name, raising=False)
    return path


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["tune", "--profile", "quick", *words])


def changed_lines(before: str, after: str) -> list[tuple[str, str]]:
    pairs = zip(before.split("\n"), after.split("\n"), strict=True)
    return [(one, two) for one, two in pairs if one != two]


def test_what_is_better_is_written_and_nothing_else_changes(params: Path) -> None:
    before = replace_numbers(params.read_text("utf-8"), BAD)
    params.write_text(before, "utf-8")
    words = ("--member", "lightgbm", "--trials", "4", "--checks", "1")

    dry = run(*words, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "not written (--dry-run)" in dry.output
    assert params.read_text("utf-8") == before

    wet = run(*words)
    assert wet.exit_code == 0, wet.output
    after = params.read_text("utf-8")
    ((one, two),) = changed_lines(before, after)
    assert one.strip().startswith("lightgbm: {rounds: 12, learning_rate: 1.2,")
    names = [part.partition(":")[0] for part in one.split(", ")]
    assert [part.partition(":")[0] for part in two.split(", ")] == names
    assert f"-{one}" in wet.stdout
    assert f"+{two}" in wet.stdout
    assert "written to" in wet.stdout
    best = load_settings().profile("quick").members["lightgbm"]
    assert best["learning_rate"] < 1.2
    assert "0  0." in wet.stdout  # the present parameters' trial heads the table


def test_nothing_is_written_where_nothing_is_better(params: Path) -> None:
    before = params.read_bytes()
    answer = run("--member", "xgboost", "--trials", "1")
    assert answer.exit_code == 0, answer.output
    assert "no trial was better than the present parameters" in answer.stdout
    assert params.read_bytes() == before


def test_without_a_name_each_member_is_searched(params: Path) -> None:
    answer = run("--trials", "1")
    assert answer.exit_code == 0, answer.output
    for member in ("lightgbm", "xgboost", "catboost"):
        assert f"{member}: no trial was better" in answer.stdout


def test_the_origins_are_named_by_day(params: Path, panel: Panel) -> None:
    origin = panel.info.last_day.replace(day=1)
    answer = run("--member", "catboost", "--trials", "1", "--origins", origin.isoformat())
    assert answer.exit_code == 0, answer.output
    assert f"from {origin}" in answer.output
    assert params.is_file()


@pytest.mark.usefixtures("params")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--member", "prophet"], "there are: lightgbm, xgboost, catboost"),
        (["--profile", "huge"], "no profile 'huge'"),
        (["--member", "lightgbm", "--weights"], "leave --member out"),
        (["--origins", "tomorrow"], "days as YYYY-MM-DD"),
        (["--origins", "2031-01-01"], "an origin must be from"),
        (["--trials", "0"], "--trials"),
    ],
)
def test_what_makes_no_sense_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", *words]) != 0
    error = capsys.readouterr().err.strip().split("\n")[-1]
    assert error.startswith("error: ")
    assert said in error


def test_a_file_that_cannot_be_changed_is_refused_before_any_work(
    params: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params.chmod(0o444)
    assert main(["tune", "--trials", "1"]) == 1
    assert "is not writable" in capsys.readouterr().err
    assert not (params.parent / "tuning").exists()


def test_profiles_from_the_environment_can_only_be_tried(
    params: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROSSMANN_PROFILES", '{"quick": {"rows": 5000}}')
    refused = run("--trials", "1")
    assert refused.exit_code == 1
    assert isinstance(refused.exception, SettingsError)
    assert "ROSSMANN_PROFILES is set" in str(refused.exception)
    tried = run("--trials", "1", "--member", "catboost", "--dry-run")
    assert tried.exit_code == 0, tried.output
    assert params.is_file()


def test_a_file_that_was_changed_meanwhile_is_left_alone(params: Path) -> None:
    before = params.read_bytes()
    result = TuningResult("lightgbm", "", {"learning_rate": 0.07}, {"learning_rate": 0.2}, [], [])
    with pytest.raises(
        SettingsError, match=r"changed meanwhile; not written: .*learning_rate: 0.2"
    ):
        _apply_change((*QUICK, "lightgbm"), result, "lightgbm", dry_run=False)
    assert params.read_bytes() == before


def test_the_simplex_holds_every_mix_once() -> None:
    mixes = list(weight_grid(["a", "b", "c"], 10))
    assert len(mixes) == len({tuple(mix.values()) for mix in mixes}) == 66
    assert all(sum(mix.values()) == pytest.approx(1) for mix in mixes)
    assert list(weight_grid(["a"])) == [{"a": 1.0}]


def test_weights_are_judged_by_windows_that_did_not_choose_them() -> None:
    mixes = [{"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}]
    days = [date(2015, 1, 1), date(2015, 2, 1)]
    # each window likes another mix: what one chooses, the other pays for
    torn = cross_validate(np.array([[0.10, 0.09], [0.10, 0.12]]), mixes, mixes[0], days)
    assert torn.best == mixes[0]
    assert torn.gain < 0
    assert not torn.is_significant
    agreed = cross_validate(np.array([[0.10, 0.09], [0.10, 0.098]]), mixes, mixes[0], days)
    assert agreed.best == mixes[1]
    assert agreed.gain == pytest.approx(0.006)
    assert agreed.is_significant


def test_weights_are_tuned_by_the_blend_that_serves(params: Path, panel: Panel) -> None:
    answer = run("--weights", "--dry-run")
    assert answer.exit_code == 0, answer.output
    assert "trying 231 mixes" in answer.output
    assert "chosen by the others" in answer.stdout
    with pytest.raises(DataError, match="two windows or more"):
        tune_weights(load_settings(), panel, "quick", (48,), lambda line: None)
    assert params.is_file()
