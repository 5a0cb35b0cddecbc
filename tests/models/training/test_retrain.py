"""Retraining with a real MLflow server: killed in every step, concurrent, failing."""

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
from tests.fixtures.models import LENIENT_SETTINGS


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    write_demo(folder, seed=5, stores=14, days=330, schedule_days=20)
    return folder


class Site:
    """A data folder with tables of its own, and a model name on the shared server."""

    def __init__(self, folder: Path, tables: Path, uri: str) -> None:
        self.folder, self.name = folder, f"retrain-{time.time_ns()}"
        self.changes = {**LENIENT_SETTINGS, "data_dir": str(folder), "mlflow_tracking_uri": uri}
        self.settings: Settings = load_settings(**self.changes)
        raw = self.settings.demo_raw_dir
        raw.mkdir(parents=True)
        for table in tables.iterdir():
            (raw / table.name).symlink_to(table)
        self.registry = Registry(uri, self.name, timeout=30)

    def run(self, settings: Settings | None = None, **changes: Any) -> RetrainOutcome:
        request = replace(RetrainRequest("quick", "scheduler", name=self.name), **changes)
        return retrain(settings or self.settings, request).outcome

    def reports(self) -> list[dict[str, Any]]:
        return [
            json.loads(path.read_text())
            for path in sorted(retrain_dir(self.settings).glob("*.json"))
        ]

    def stages(self) -> dict[int, str]:
        return {v.version: v.stage.value for v in self.registry.versions()}

    def drafts(self) -> list[str]:
        patterns = [".draft-*", ".*.draft", "*.tmp"]
        return [str(path) for pattern in patterns for path in self.folder.rglob(pattern)]


@pytest.fixture
def site(tmp_path: Path, tables: Path, each_server: str) -> Iterator[Site]:
    site = Site(tmp_path / "data", tables, each_server)
    yield site
    site.registry.close()


def steps(report: dict[str, Any]) -> dict[str, str]:
    return {step["name"]: step["outcome"] for step in report["steps"]}


class ForkServer:
    """Forks retrainings and kills them; see ``retrain_forks``."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("retrain_forks.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.read_line() == "ready"

    def read_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def start(self, site: Site, pause: str = "", promote: bool = True) -> int:
        (site.folder / "paused").unlink(missing_ok=True)
        task = {
            "settings": site.changes, "name": site.name, "promote": promote, "pause": pause,
            "folder": str(site.folder),
        }  # fmt: skip
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        return int(self.read_line())

    def start_and_kill(self, site: Site, pause: str) -> None:
        child = self.start(site, pause)
        deadline = time.monotonic() + 120
        while not (site.folder / "paused").exists():
            assert time.monotonic() < deadline, pause
            assert Path(f"/proc/{child}/stat").read_text().split()[2] != "Z", pause
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        assert int(self.read_line()) == -signal.SIGKILL


@pytest.fixture(scope="module")
def fork_server() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.process.kill()
    server.process.communicate()


NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
KILLS = (
    # The call at which the process is killed, and the step in which its report ends.
    ("rossmann.data.make_dataset:_publish", "check"),
    ("rossmann.models.training.retrain:build_panel", "features"),
    ("rossmann.models.training.train:make_card", "train"),
    ("rossmann.models.training.train:write_summary", "train"),
    ("rossmann.models.training.retrain:register", "register"),
    ("rossmann.models.publishing.register:_log_model", "register"),
    ("rossmann.models.publishing.register:_create_version", "register"),
    ("rossmann.models.publishing.register:link_logged_model", "register"),
    ("rossmann.models.gate.gate:_sanity_checks", "gate"),
    ("rest:POST registered-models/alias", "staging"),
    ("rossmann.models.registry.registry:Registry.promote", "promotion"),
)


def test_killed_run_is_completed_by_the_next_one(site: Site, fork_server: ForkServer) -> None:
    for pause, step in KILLS if NIGHTLY else KILLS[::2]:
        fork_server.start_and_kill(site, pause)
        last = site.reports()[-1]
        assert (last["outcome"], steps(last)[step]) == ("running", "running"), pause
        assert "Production" not in site.stages().values()
        assert len(site.stages()) == (step in {"gate", "staging", "promotion"} or "link" in pause)
    assert site.stages() == {1: "Staging"}
    assert site.run(promote=True) is RetrainOutcome.STAGED
    assert site.stages() == {1: "Production"}
    *interrupted, last = site.reports()
    assert {report["outcome"] for report in interrupted} == {"died"}
    assert (last["outcome"], last["version"], last["stage"]) == ("staged", 1, "Production")
    # Trained once; drafts and abandoned runs are removed.
    assert [steps(r).get("train") for r in interrupted].count("done") == 1
    assert len(list(trained_dir(site.settings).iterdir())) == 1
    assert site.drafts() == []
    version = site.registry.find(1)
    from mlflow import MlflowClient

    client = MlflowClient(site.settings.tracking_uri)
    experiment = client.get_experiment_by_name("rossmann")
    assert experiment is not None
    digest = f"tags.`digest.card` = '{version.tags['digest.card']}'"
    runs = client.search_runs([experiment.experiment_id], digest)
    assert [(run.info.run_id, run.info.status) for run in runs] == [(version.run_id, "FINISHED")]
    assert site.run(promote=True) is RetrainOutcome.NOTHING_NEW


def test_concurrent_run_fails_and_names_the_other(
    site: Site, fork_server: ForkServer, tmp_path: Path
) -> None:
    child = fork_server.start(site, "rossmann.models.training.retrain:make_dataset")
    while not (site.folder / "paused").exists():
        time.sleep(0.01)
    with pytest.raises(AlreadyRunningError, match=f"process {child} on .* since 20"):
        site.run(report=tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["exit_code"], report["outcome"]) == (12, "another runs")
    assert f"process {child}" in report["error"]
    os.kill(child, signal.SIGKILL)
    assert int(fork_server.read_line()) == -signal.SIGKILL
    with exclusive_process_lock(retrain_dir(site.settings), "retrains"):
        pass  # the lock was released with its process


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory, tables: Path, each_server: str) -> Site:
    """A site whose first version is in Production and whose tables are known."""
    site = Site(tmp_path_factory.mktemp("staged") / "data", tables, each_server)
    assert site.run() is RetrainOutcome.STAGED
    assert site.stages() == {1: "Staging"}
    return site


def test_report_holds_steps_data_and_verdict(staged: Site) -> None:
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


def test_unchanged_inputs_train_nothing(staged: Site, tmp_path: Path) -> None:
    before = set(trained_dir(staged.settings).iterdir())
    path = tmp_path / "deep" / "report.json"
    assert staged.run(report=path) is RetrainOutcome.NOTHING_NEW
    assert set(trained_dir(staged.settings).iterdir()) == before
    assert len(staged.stages()) == 1
    report = json.loads(path.read_text())
    assert (report["exit_code"], report["outcome"], report["version"]) == (10, "nothing new", 1)
    assert report == staged.reports()[-1]


def test_candidate_that_is_no_better_gets_no_stage(staged: Site) -> None:
    staged.registry.promote(1, "first", "me")
    changed = staged.settings.model_copy(update={"seed": 1, "gate_chance": 1e-9})
    assert staged.run(changed, promote=True) is RetrainOutcome.CANDIDATE_WORSE
    assert staged.stages() == {1: "Production", 2: "None"}
    report = staged.reports()[-1]
    assert (report["exit_code"], report["outcome"], report["stage"]) == (
        11,
        "candidate worse",
        "None",
    )
    assert report["verdict"]["against"] == 1
    assert not report["verdict"]["passed"]
    assert staged.run(changed) is RetrainOutcome.NOTHING_NEW


def test_stale_verdict_does_not_promote(staged: Site, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_failure_is_raised_and_reported(site: Site, tmp_path: Path) -> None:
    raw = site.settings.demo_raw_dir / "store.csv"
    text = raw.read_text()
    raw.unlink()
    raw.write_text(text.replace("\n2,", "\n1,", 1))
    path = tmp_path / "report.json"
    with pytest.raises(DataValidationError):
        site.run(report=path)
    report = json.loads(path.read_text())
    assert (report["exit_code"], report["outcome"]) == (1, "broken")
    assert steps(report) == {"registry": "done", "check": "failed"}
    assert "rule" in report["error"]
    away = site.settings.model_copy(update={"mlflow_tracking_uri": "http://127.0.0.1:9"})
    with pytest.raises(ServiceError):
        site.run(away)
    assert steps(site.reports()[-1]) == {"registry": "failed"}
    assert site.drafts() == []


def test_unexpected_exception_is_reported(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object) -> None:
        raise KeyError("oven")

    monkeypatch.setattr(module, "make_dataset", fails)
    with pytest.raises(KeyError):
        site.run()
    report = site.reports()[-1]
    assert (report["exit_code"], report["outcome"], report["error"]) == (
        1,
        "broken",
        "KeyError: 'oven'",
    )


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt(), 130), (Interrupted(15), 143)])
def test_signal_is_reported_as_stopped(
    site: Site, stop: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: object) -> None:
        raise stop

    monkeypatch.setattr(module, "make_dataset", stopped)
    with pytest.raises(type(stop)):
        site.run()
    report = site.reports()[-1]
    assert (report["exit_code"], report["outcome"], report["error"]) == (code, "stopped", None)


@pytest.mark.parametrize(
    ("outcome", "code", "words"),
    [
        (RetrainOutcome.STAGED, 0, "version 1 is in Staging"),
        (RetrainOutcome.NOTHING_NEW, 10, "nothing new"),
        (RetrainOutcome.CANDIDATE_WORSE, 11, "did not pass the gate"),
    ],
)
def test_retrain_command_exits_with_the_outcome(
    outcome: RetrainOutcome, code: int, words: str, staged: Site,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    version = replace(staged.registry.find(1), stage=Stage.STAGING)
    monkeypatch.setattr(
        module, "retrain", lambda *_: module.RetrainResult(outcome, version, Path("r.json"))
    )
    assert main(["retrain"]) == code
    output = capsys.readouterr().out
    assert words in output
    assert "report: r.json" in output


def test_retrain_command_fails_while_another_runs(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(site.folder))
    with exclusive_process_lock(retrain_dir(site.settings), "retrains"):
        assert main(["retrain", "--profile", "quick"]) == 12
    assert f"process {os.getpid()}" in capsys.readouterr().err
