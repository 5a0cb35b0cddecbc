"""Retraining as a scheduler sees it: real processes, killed in every step, against real MLflow."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rossmann.cli import main
from rossmann.data.demo.write_tables import write_demo
from rossmann.errors import (
    AlreadyRunningError,
    DataValidationError,
    PromotionConflictError,
    ServiceError,
)
from rossmann.filesystem.locks import exclusive_process_lock
from rossmann.launcher.stop_signals import Interrupted
from rossmann.models.gate.verdict import CheckResult, Verdict
from rossmann.models.publishing.trained_model import trained_dir
from rossmann.models.registry.registry import Registry
from rossmann.models.training import retrain as module
from rossmann.models.training.retrain import RetrainOutcome, RetrainRequest, retrain, retrain_dir
from rossmann.schema import Stage
from rossmann.settings import Settings, load_settings

PROFILE = {
    "members": {
        "lightgbm": {"rounds": 20, "learning_rate": 0.1, "num_leaves": 7},
        "xgboost": {"rounds": 15, "max_depth": 3, "eta": 0.2},
        "catboost": {"rounds": 15, "depth": 3, "learning_rate": 0.2},
    },
    "weights": {"lightgbm": 0.4, "xgboost": 0.3, "catboost": 0.3},
}
SETTINGS: dict[str, Any] = {
    "threads": 1,
    "demo": True,
    "profiles": {"quick": PROFILE},
    "windows": (30, 62),
    "window_days": 30,
    # So small a chain and so few trees keep no promise; the gate's own tests are elsewhere.
    **{"gate_coverage": 1.0, "gate_bias": 1.0, "gate_promotion": 0.0, "gate_chance": 0.5},
    **{"gate_record": 50, "gate_rows_per_second": 1},
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    write_demo(folder, seed=5, stores=14, days=330, schedule_days=20)
    return folder


class Site:
    """A data folder with tables of its own, and a model name on the shared server."""

    def __init__(self, folder: Path, tables: Path, uri: str) -> None:
        self.folder, self.name = folder, f"retrain-{time.time_ns()}"
        self.changes = {**SETTINGS, "data_dir": str(folder), "mlflow_tracking_uri": uri}
        self.settings: Settings = load_settings(**self.changes)
        raw = self.settings.demo_raw_dir
        raw.mkdir(parents=True)
        for table in tables.iterdir():
            (raw / table.name).symlink_to(table)
        self.registry = Registry(uri, self.name, timeout=30)

    def run(self, settings: Settings | None = None, **changes: Any) -> RetrainOutcome:
        order = replace(RetrainRequest("quick", "scheduler", name=self.name), **changes)
        return retrain(settings or self.settings, order).outcome

    def reports(self) -> list[dict[str, Any]]:
        return [
            json.loads(path.read_text())
            for path in sorted(retrain_dir(self.settings).glob("*.json"))
        ]

    def stages(self) -> dict[int, str]:
        return {v.version: v.stage.value for v in self.registry.versions()}

    def left_over(self) -> list[str]:
        names = [".draft-*", ".*.draft", "*.tmp"]
        return [str(path) for name in names for path in self.folder.rglob(name)]


@pytest.fixture
def site(tmp_path: Path, tables: Path, each_server: str) -> Iterator[Site]:
    site = Site(tmp_path / "data", tables, each_server)
    yield site
    site.registry.close()


def steps(report: dict[str, Any]) -> dict[str, str]:
    return {step["name"]: step["outcome"] for step in report["steps"]}


class Zygote:
    """Forks retrainings and kills them; see ``retrain_zygote``."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("retrain_forks.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def start(self, site: Site, pause: str = "", promote: bool = True) -> int:
        (site.folder / "paused").unlink(missing_ok=True)
        told = {
            "settings": site.changes, "name": site.name, "promote": promote, "pause": pause,
            "folder": str(site.folder),
        }  # fmt: skip
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(told) + "\n")
        self.process.stdin.flush()
        return int(self.line())

    def start_and_kill(self, site: Site, pause: str) -> None:
        child = self.start(site, pause)
        deadline = time.monotonic() + 120
        while not (site.folder / "paused").exists():
            assert time.monotonic() < deadline, pause
            assert Path(f"/proc/{child}/stat").read_text().split()[2] != "Z", pause
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        assert int(self.line()) == -signal.SIGKILL


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    zygote = Zygote()
    yield zygote
    zygote.process.kill()
    zygote.process.communicate()


KILLS = (
    # where the process is killed, and in which step its report then ends
    ("rossmann.data.make_dataset:_put", "check"),
    ("rossmann.models.training.retrain:build_panel", "features"),
    ("rossmann.models.training.train:make_card", "train"),
    ("rossmann.models.training.train:write_summary", "train"),
    ("rossmann.models.training.retrain:register", "register"),
    ("rossmann.models.publishing.register:_log_model", "register"),
    ("rossmann.models.publishing.register:_create_version", "register"),
    ("rossmann.models.publishing.register:link_logged_model", "register"),
    ("rossmann.models.gate.gate:_by_probes", "gate"),
    ("rest:POST registered-models/alias", "staging"),
    ("rossmann.models.registry.registry:Registry.promote", "promotion"),
)


def test_a_kill_in_any_step_leaves_nothing_half_done_and_the_next_run_goes_on(
    site: Site, zygote: Zygote
) -> None:
    for pause, step in KILLS:
        zygote.start_and_kill(site, pause)
        last = site.reports()[-1]
        assert (last["outcome"], steps(last)[step]) == ("running", "running"), pause
        assert "Production" not in site.stages().values()
        assert len(site.stages()) == (step in {"gate", "staging", "promotion"} or "link" in pause)
    assert site.stages() == {1: "Staging"}
    assert site.run(promote=True) is RetrainOutcome.STAGED
    assert site.stages() == {1: "Production"}
    *dead, last = site.reports()
    assert {report["outcome"] for report in dead} == {"died"}
    assert (last["outcome"], last["version"], last["stage"]) == ("staged", 1, "Production")
    # It was trained once, and all that was begun in vain is gone.
    assert [steps(r).get("train") for r in dead].count("done") == 1
    assert len(list(trained_dir(site.settings).iterdir())) == 1
    assert site.left_over() == []
    version = site.registry.find(1)
    from mlflow import MlflowClient

    client = MlflowClient(site.settings.tracking_uri)
    experiment = client.get_experiment_by_name("rossmann")
    assert experiment is not None
    digest = f"tags.`digest.card` = '{version.tags['digest.card']}'"
    runs = client.search_runs([experiment.experiment_id], digest)
    assert [(run.info.run_id, run.info.status) for run in runs] == [(version.run_id, "FINISHED")]
    assert site.run(promote=True) is RetrainOutcome.NOTHING_NEW


def test_two_at_once_one_is_told_who_runs(site: Site, zygote: Zygote, tmp_path: Path) -> None:
    child = zygote.start(site, "rossmann.models.training.retrain:make_dataset")
    while not (site.folder / "paused").exists():
        time.sleep(0.01)
    with pytest.raises(AlreadyRunningError, match=f"process {child} on .* since 20"):
        site.run(report=tmp_path / "report.json")
    told = json.loads((tmp_path / "report.json").read_text())
    assert (told["exit_code"], told["outcome"]) == (12, "another runs")
    assert f"process {child}" in told["error"]
    os.kill(child, signal.SIGKILL)
    assert int(zygote.line()) == -signal.SIGKILL
    with exclusive_process_lock(retrain_dir(site.settings)):
        pass  # the lock went with its process


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory, tables: Path, each_server: str) -> Site:
    """A site whose first version is in Production and whose tables are known."""
    site = Site(tmp_path_factory.mktemp("staged") / "data", tables, each_server)
    assert site.run() is RetrainOutcome.STAGED
    assert site.stages() == {1: "Staging"}
    return site


def test_the_report_says_all(staged: Site) -> None:
    report = staged.reports()[0]
    assert (report["exit_code"], report["outcome"], report["error"]) == (0, "staged", None)
    names = ["registry", "check", "features", "train", "register", "gate", "staging"]
    assert list(steps(report)) == names
    assert set(steps(report).values()) == {"done"}
    assert all(step["begun"] and step["seconds"] >= 0 for step in report["steps"])
    assert report["seconds"] >= sum(step["seconds"] for step in report["steps"]) - 0.1
    version = staged.registry.find(1)
    assert report["version"] == 1
    assert report["data"]["version"] == version.tags["data.version"]
    assert report["recipe"] == version.tags["recipe"]
    assert report["verdict"]["passed"] is True
    stored = json.loads(version.tags["gate.table"])
    assert report["verdict"]["lines"] == stored


def test_nothing_new_trains_nothing(staged: Site, tmp_path: Path) -> None:
    before = set(trained_dir(staged.settings).iterdir())
    report = tmp_path / "deep" / "report.json"
    assert staged.run(report=report) is RetrainOutcome.NOTHING_NEW
    assert set(trained_dir(staged.settings).iterdir()) == before
    assert len(staged.stages()) == 1
    told = json.loads(report.read_text())
    assert (told["exit_code"], told["outcome"], told["version"]) == (10, "nothing new", 1)
    assert told == staged.reports()[-1]


def test_a_candidate_that_is_no_better_stays_without_a_stage(staged: Site) -> None:
    staged.registry.promote(1, "first", "me")
    changed = staged.settings.model_copy(update={"seed": 1, "gate_chance": 1e-9})
    assert staged.run(changed, promote=True) is RetrainOutcome.CANDIDATE_WORSE
    assert staged.stages() == {1: "Production", 2: "None"}
    told = staged.reports()[-1]
    assert (told["exit_code"], told["outcome"], told["stage"]) == (11, "candidate worse", "None")
    assert told["verdict"]["against"] == 1
    assert not told["verdict"]["passed"]
    assert staged.run(changed) is RetrainOutcome.NOTHING_NEW


def test_a_stale_verdict_does_not_promote(staged: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Production was moved between the gate's comparison and the promotion."""
    latest = max(staged.stages())
    staged.registry.promote(1, "known", "me")
    staged.registry.stage(latest)
    verdict = Verdict(latest, 99, [CheckResult("better", 1, 1, True)])
    monkeypatch.setattr(module, "validate", lambda *_: verdict)
    profile = staged.registry.find(latest).tags["params"]
    changed = staged.settings.model_copy(update={"seed": json.loads(profile)["seed"]})
    with pytest.raises(
        PromotionConflictError, match=r"judged against version 99.*version 1 serves"
    ):
        staged.run(changed, promote=True)
    assert staged.registry.find("Production").version == 1
    assert staged.reports()[-1]["exit_code"] == 1


def test_what_is_broken_is_told_and_kept(site: Site, tmp_path: Path) -> None:
    raw = site.settings.demo_raw_dir / "store.csv"
    text = raw.read_text()
    raw.unlink()
    raw.write_text(text.replace("\n2,", "\n1,", 1))
    report = tmp_path / "report.json"
    with pytest.raises(DataValidationError):
        site.run(report=report)
    told = json.loads(report.read_text())
    assert (told["exit_code"], told["outcome"]) == (1, "broken")
    assert steps(told) == {"registry": "done", "check": "failed"}
    assert "rule" in told["error"]
    away = site.settings.model_copy(update={"mlflow_tracking_uri": "http://127.0.0.1:9"})
    with pytest.raises(ServiceError):
        site.run(away)
    assert steps(site.reports()[-1]) == {"registry": "failed"}
    assert site.left_over() == []


def test_a_fault_of_the_program_is_kept_too(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object) -> None:
        raise KeyError("oven")

    monkeypatch.setattr(module, "make_dataset", fails)
    with pytest.raises(KeyError):
        site.run()
    told = site.reports()[-1]
    assert (told["exit_code"], told["outcome"], told["error"]) == (1, "broken", "KeyError: 'oven'")


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt(), 130), (Interrupted(15), 143)])
def test_a_signal_is_kept_as_a_stop(
    site: Site, stop: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: object) -> None:
        raise stop

    monkeypatch.setattr(module, "make_dataset", stopped)
    with pytest.raises(type(stop)):
        site.run()
    told = site.reports()[-1]
    assert (told["exit_code"], told["outcome"], told["error"]) == (code, "stopped", None)


@pytest.mark.parametrize(
    ("outcome", "code", "words"),
    [
        (RetrainOutcome.STAGED, 0, "version 1 is in Staging"),
        (RetrainOutcome.NOTHING_NEW, 10, "nothing new"),
        (RetrainOutcome.CANDIDATE_WORSE, 11, "did not pass the gate"),
    ],
)
def test_the_verb_exits_with_what_happened(
    outcome: RetrainOutcome, code: int, words: str, staged: Site,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    version = replace(staged.registry.find(1), stage=Stage.STAGING)
    monkeypatch.setattr(
        module, "retrain", lambda *_: module.RetrainResult(outcome, version, Path("r.json"))
    )
    assert main(["retrain"]) == code
    said = capsys.readouterr().out
    assert words in said
    assert "report: r.json" in said


def test_the_verb_is_told_that_another_runs(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(site.folder))
    with exclusive_process_lock(retrain_dir(site.settings)):
        assert main(["retrain", "--profile", "quick"]) == 12
    assert f"process {os.getpid()}" in capsys.readouterr().err
