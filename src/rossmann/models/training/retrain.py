"""One scheduled retraining: check, features, train, gate, Staging; with a JSON report of its steps.

Each step leaves either the previous state or its whole result, so a run that was killed is simply
started again: complete tables, arrays and trained folders are reused, a model that was trained and
not registered is registered, a version that was registered and not judged is judged.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

from rossmann.data.make_dataset import make_dataset
from rossmann.data.panel.panel import build_panel
from rossmann.errors import AlreadyRunningError, RossmannError
from rossmann.filesystem.atomic_write import remove_stale, write_text_atomic
from rossmann.filesystem.locks import exclusive_process_lock
from rossmann.models.gate.gate import PASSED_TAG, validate
from rossmann.models.gate.verdict import Verdict
from rossmann.models.publishing.mlflow_client import complete_registration, drop_abandoned_runs
from rossmann.models.publishing.register import register
from rossmann.models.publishing.trained_model import find_unregistered, trained_dir
from rossmann.models.registry.lineage import (
    FINGERPRINT_TAG,
    is_reweighted,
    members_recipe,
    training_fingerprint,
)
from rossmann.models.registry.model_version import CARD_DIGEST_TAG, ModelVersion
from rossmann.models.registry.registry import Registry
from rossmann.models.reports.segments import nan_to_none
from rossmann.models.training.train import train
from rossmann.schema import MODEL_NAME, ProgressReporter, Stage
from rossmann.settings import Settings

PROMOTION_REASON: Final = "retrained; the gate let it pass"
RUNNING: Final = "running"
INTERRUPTED: Final = "died"
_SIGINT_EXIT_CODE: Final = 130
_STALE_REPORT_SECONDS: Final = 60.0
_STALE_ARRAYS_SECONDS: Final = 3600.0
"""Arrays to which no file was added for so long belong to a build that was killed."""


class RetrainOutcome(IntEnum):
    """How a retraining ended; the value is the exit code."""

    STAGED = 0
    BROKEN = 1
    NOTHING_NEW = 10
    CANDIDATE_WORSE = 11
    ANOTHER_RUNS = AlreadyRunningError.exit_code

    @property
    def words(self) -> str:
        """The outcome in the report."""
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True)
class RetrainRequest:
    """The profile to train, whether to promote the version to Production, and in whose name.

    ``report``: a second file for the report, besides the one in the data folder. ``progress`` gets
    a line for each piece of work.
    """

    profile: str
    who: str
    promote: bool = False
    report: Path | None = None
    progress: ProgressReporter = lambda line: None
    name: str = MODEL_NAME


@dataclass(frozen=True)
class RetrainResult:
    """The outcome, the version that it is about (None: there is none), and the report's path."""

    outcome: RetrainOutcome
    version: ModelVersion | None
    report: Path


class RetrainReport:
    """The JSON report of one run, kept in ``folder`` and in ``copy``; rewritten at every change."""

    def __init__(self, folder: Path, copy: Path | None, profile: str) -> None:
        now = datetime.now(UTC)
        self._paths = [folder / f"{now:%Y%m%dT%H%M%S.%f}-{os.getpid()}.json"]
        self._paths += [] if copy is None else [copy]
        self._started = time.monotonic()
        self._steps: list[dict[str, Any]] = []
        self._fields: dict[str, Any] = {
            "begun": now.isoformat(timespec="seconds"),
            "process": os.getpid(),
            "outcome": RUNNING,
            "exit_code": None,
            "error": None,
            "seconds": None,
            "data": None,
            "recipe": None,
            "version": None,
            "stage": None,
            "verdict": None,
            "profile": profile,
        }
        self._write()

    @property
    def path(self) -> Path:
        """The report's file in the data folder."""
        return self._paths[0]

    def update(self, **fields: Any) -> None:
        """Set fields of the report."""
        self._fields.update(fields)
        self._write()

    def record_version(self, version: ModelVersion) -> None:
        """Set the version and its stage."""
        self.update(version=version.version, stage=version.stage.value)

    def record_verdict(self, verdict: Verdict) -> None:
        """Set the gate's verdict."""
        results = [asdict(result) for result in verdict.results]
        fields = {"passed": verdict.passed, "against": verdict.compared_to, "lines": results}
        self.update(verdict=fields)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Record a step: its start, its duration, and whether it was completed."""
        started = time.monotonic()
        step: dict[str, Any] = {
            "name": name,
            "begun": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": None,
            "outcome": RUNNING,
        }
        self._steps.append(step)
        self._write()
        outcome = "failed"
        try:
            yield
            outcome = "done"
        finally:
            step["seconds"] = round(time.monotonic() - started, 3)
            step["outcome"] = outcome
            self._write()

    def end(self, result: RetrainResult | None, error: BaseException | None) -> None:
        """Record how the run ended: with a result, or by an error or a signal."""
        exit_code, outcome, message = _ending(result, error)
        seconds = round(time.monotonic() - self._started, 3)
        self.update(exit_code=exit_code, outcome=outcome, error=message, seconds=seconds)

    def _write(self) -> None:
        for path in self._paths:
            _write_report(path, {**self._fields, "steps": self._steps})


def _ending(
    result: RetrainResult | None, error: BaseException | None
) -> tuple[int, str, str | None]:
    """Exit code, outcome and error message."""
    if result is not None:
        return int(result.outcome), result.outcome.words, None
    if isinstance(error, AlreadyRunningError):
        return error.exit_code, RetrainOutcome.ANOTHER_RUNS.words, str(error)
    if isinstance(error, RossmannError):
        return error.exit_code, RetrainOutcome.BROKEN.words, str(error)
    if isinstance(error, Exception):
        broken = RetrainOutcome.BROKEN
        return int(broken), broken.words, f"{type(error).__name__}: {error}"
    return getattr(error, "exit_code", _SIGINT_EXIT_CODE), "stopped", None


def _write_report(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the JSON file in one step; NaN and infinity become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(nan_to_none(content), indent=1, allow_nan=False)
    write_text_atomic(path, f"{text}\n")


def mark_interrupted(folder: Path, but: Path) -> None:
    """Mark the reports of killed runs, all but one; to be called while no other run is active."""
    for draft in folder.glob(".*.draft"):
        if time.time() - draft.stat().st_mtime > _STALE_REPORT_SECONDS:
            draft.unlink(missing_ok=True)
    for path in set(folder.glob("[!.]*.json")) - {but}:
        try:
            report = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(report, dict) and report.get("outcome") == RUNNING:
            for step in report.get("steps", []):
                step["outcome"] = INTERRUPTED if step["outcome"] == RUNNING else step["outcome"]
            _write_report(path, {**report, "outcome": INTERRUPTED})


def retrain_dir(settings: Settings) -> Path:
    """The folder of the lock and the reports."""
    return settings.data_dir / "retrain"


def retrain(settings: Settings, request: RetrainRequest) -> RetrainResult:
    """Make a new version from the current tables, judge it, and move it to Staging if it passes.

    Raises ``AlreadyRunningError`` where another retraining uses the data folder, and the errors of
    its steps; the report is written in any case.
    """
    folder = retrain_dir(settings)
    report = RetrainReport(folder, request.report, request.profile)
    result = None
    try:
        with exclusive_process_lock(folder, "retrains"):
            mark_interrupted(folder, but=report.path)
            settings.profile(request.profile)
            with Registry.from_settings(settings, request.name) as registry:
                result = _RetrainRun(settings, request, report, registry).execute()
        return result
    finally:
        report.end(result, sys.exc_info()[1])


@dataclass(frozen=True)
class _RetrainRun:
    """The steps of one retraining."""

    settings: Settings
    request: RetrainRequest
    report: RetrainReport
    registry: Registry

    def execute(self) -> RetrainResult:
        with self.report.step("registry"):
            self.registry.ping()
        fingerprint = self._prepare_data()
        version = self._latest_version(fingerprint)
        if version is None:
            version = self._train(fingerprint)
        elif self._is_unfinished(version) and not self._has_successor(fingerprint):
            complete_registration(version, self.settings, self.request.name)
        else:
            self.report.record_version(version)
            return RetrainResult(RetrainOutcome.NOTHING_NEW, version, self.report.path)
        return self._judge(version)

    def _prepare_data(self) -> str:
        """Make the dataset and its arrays; returns the training fingerprint."""
        with self.report.step("check"):
            info = make_dataset(self.settings, self.request.progress)
        fingerprint = training_fingerprint(self.settings, self.request.profile, info.version)
        data = {
            "dataset": info.dataset.value,
            "version": info.version,
            "rows": info.rows,
            "last_day": info.last_day.isoformat(),
        }
        self.report.update(data=data, recipe=fingerprint)
        with self.report.step("features"):
            remove_stale(info.folder, _STALE_ARRAYS_SECONDS)
            build_panel(info, self.settings.thread_count, self.request.progress)
        return fingerprint

    def _latest_version(self, fingerprint: str) -> ModelVersion | None:
        """The profile's latest version, if training would give the same one again.

        A reweighted version is none that training could give: its members' version counts.
        """
        profile = self.request.profile
        versions = self.registry.versions()
        trained = (v for v in versions if v.tags.get("profile") == profile and not is_reweighted(v))
        latest = next(trained, None)
        is_current = latest is not None and latest.tags.get(FINGERPRINT_TAG) == fingerprint
        return latest if is_current else None

    def _is_unfinished(self, version: ModelVersion) -> bool:
        """Whether a run that was cut short left steps to do for the version."""
        if version.stage is Stage.NONE:
            return version.tags.get(PASSED_TAG) != "false"
        return version.stage is Stage.STAGING and self.request.promote

    def _has_successor(self, fingerprint: str) -> bool:
        """Whether a version that was reweighted from it has a stage, and so takes its place."""
        return any(
            is_reweighted(version)
            and version.stage in {Stage.STAGING, Stage.PRODUCTION}
            and members_recipe(version.tags) == fingerprint
            for version in self.registry.versions()
        )

    def _train(self, fingerprint: str) -> ModelVersion:
        """Train and register; a model that a killed run trained is registered instead."""
        registered = {v.tags.get(CARD_DIGEST_TAG, "") for v in self.registry.versions()}
        trained = find_unregistered(trained_dir(self.settings), fingerprint, registered)
        if trained is None:
            with self.report.step("train"):
                trained = train(self.settings, self.request.profile, self.request.progress)
        else:
            with self.report.step("mend"):
                drop_abandoned_runs(trained, self.settings)
        with self.report.step("register"):
            return register(trained, self.settings, self.request.name, self.request.progress)

    def _judge(self, version: ModelVersion) -> RetrainResult:
        """Run the gate and, where the version passes, change its stage."""
        number = version.version
        self.report.record_version(version)
        with self.report.step("gate"):
            verdict = validate(self.registry, number, self.settings)
            self.report.record_verdict(verdict)
        if not verdict.passed:
            rejected = self.registry.find(number)
            return RetrainResult(RetrainOutcome.CANDIDATE_WORSE, rejected, self.report.path)
        if version.stage is not Stage.STAGING:
            with self.report.step("staging"):
                version = self.registry.stage(number)
                self.report.record_version(version)
        if self.request.promote:
            with self.report.step("promotion"):
                version = self.registry.promote(
                    number, PROMOTION_REASON, self.request.who, expected=verdict.compared_to
                )
                self.report.record_version(version)
        return RetrainResult(RetrainOutcome.STAGED, version, self.report.path)
