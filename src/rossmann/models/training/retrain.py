"""Check, features, train, gate, Staging: one run of what a scheduler starts.

Each step leaves either what was there or its whole result, so a run that was killed is simply run
again: tables, arrays and trained folders that are whole are used, a version that was trained and
not registered is registered, one that was registered and not judged is judged.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

from rossmann.data.make_dataset import make_dataset
from rossmann.data.panel.panel import build_panel
from rossmann.errors import AlreadyRunningError, RossmannError
from rossmann.filesystem.atomic_write import remove_stale
from rossmann.filesystem.locks import exclusive_process_lock
from rossmann.models.gate.gate import PASSED_TAG, validate
from rossmann.models.gate.verdict import Verdict
from rossmann.models.publishing.mlflow_client import complete_registration, drop_abandoned_runs
from rossmann.models.publishing.register import register
from rossmann.models.publishing.trained_model import find_unregistered, trained_dir
from rossmann.models.registry.lineage import FINGERPRINT_TAG, training_fingerprint
from rossmann.models.registry.model_version import CARD_DIGEST_TAG, ModelVersion
from rossmann.models.registry.registry import Registry
from rossmann.models.training.train import train
from rossmann.schema import MODEL_NAME, Stage
from rossmann.settings import Settings

RUNNING: Final = "running"


INTERRUPTED: Final = "died"


_STALE_DRAFT_SECONDS: Final = 60.0


class RetrainOutcome(IntEnum):
    """How a retraining ended; the value is the exit code."""

    STAGED = 0
    BROKEN = 1
    NOTHING_NEW = 10
    CANDIDATE_WORSE = 11
    ANOTHER_RUNS = AlreadyRunningError.exit_code

    @property
    def words(self) -> str:
        """As the report says it."""
        return self.name.lower().replace("_", " ")


class RetrainReport:
    """The report of one run, kept in ``folder`` and, where one is named, in ``copy``."""

    def __init__(self, folder: Path, copy: Path | None, about: Mapping[str, Any]) -> None:
        now = datetime.now(UTC)
        self._paths = [folder / f"{now:%Y%m%dT%H%M%S.%f}-{os.getpid()}.json"]
        self._paths += [] if copy is None else [copy]
        self._begun = time.monotonic()
        self._steps: list[dict[str, Any]] = []
        self._said: dict[str, Any] = {
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
            **about,
        }
        self._write()

    @property
    def path(self) -> Path:
        """Where the report is kept."""
        return self._paths[0]

    def update(self, **fields: Any) -> None:
        """Write down what is known now."""
        self._said.update(fields)
        self._write()

    def record_verdict(self, verdict: Verdict) -> None:
        """Write down the gate's verdict."""
        lines = [asdict(line) for line in verdict.lines]
        told = {"passed": verdict.passed, "against": verdict.compared_with, "lines": lines}
        self.update(verdict=told)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A step: its start, how long it took, and whether it was done."""
        begun = time.monotonic()
        step: dict[str, Any] = {
            "name": name,
            "begun": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": None,
            "outcome": RUNNING,
        }
        self._steps.append(step)
        self._write()
        done = False
        try:
            yield
            done = True
        finally:
            step["seconds"] = round(time.monotonic() - begun, 3)
            step["outcome"] = "done" if done else "failed"
            self._write()

    def end(self, exit_code: int, words: str, error: str | None = None) -> None:
        """Write down how it ended."""
        seconds = round(time.monotonic() - self._begun, 3)
        self.update(exit_code=exit_code, outcome=words, error=error, seconds=seconds)

    def _write(self) -> None:
        for path in self._paths:
            write_json_atomic(path, {**self._said, "steps": self._steps})


def write_json_atomic(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON beside the place and rename: who reads finds all of it or what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        draft.write_text(json.dumps(_plain(content), indent=1, allow_nan=False) + "\n", "utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def mark_interrupted(folder: Path, but: Path) -> None:
    """Mark the reports of runs that were killed; call it where no other run can be under way."""
    for draft in folder.glob(".*.draft"):
        if time.time() - draft.stat().st_mtime > _STALE_DRAFT_SECONDS:
            draft.unlink(missing_ok=True)
    for path in set(folder.glob("[!.]*.json")) - {but}:
        try:
            told = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(told, dict) and told.get("outcome") == RUNNING:
            for step in told.get("steps", []):
                step["outcome"] = INTERRUPTED if step["outcome"] == RUNNING else step["outcome"]
            write_json_atomic(path, {**told, "outcome": INTERRUPTED})


def _plain(value: Any) -> Any:
    """Numbers that are none (NaN, infinity) as null: JSON knows none of them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


_CTRL_C: Final = 130
_STALE_SECONDS: Final = 3600.0
"""Arrays that nobody has added a file to for so long are of a build that was killed."""
PROMOTION_REASON: Final = "retrained; the gate let it pass"


@dataclass(frozen=True)
class RetrainRequest:
    """What to do: which profile, whether to go on to Production, and in whose name.

    ``report``: a file for the report, beside the
    one that is kept. ``tell`` gets a line of progress for each piece of work.
    """

    profile: str
    who: str
    promote: bool = False
    report: Path | None = None
    progress: Callable[[str], None] = lambda line: None
    name: str = MODEL_NAME


@dataclass(frozen=True)
class RetrainResult:
    """How it ended, the version that it is about (None: there is none), and the kept report."""

    outcome: RetrainOutcome
    version: ModelVersion | None
    report: Path


def retrain_dir(settings: Settings) -> Path:
    """Where the lock and the reports lie."""
    return settings.data_dir / "retrain"


def retrain(settings: Settings, order: RetrainRequest) -> RetrainResult:
    """Make a new version from the tables at hand, judge it, and put it into Staging if it may.

    Raises ``AnotherRuns`` where another retraining is under way in the data folder, and what its
    steps raise; the report is written all the same.
    """
    folder = retrain_dir(settings)
    journal = RetrainReport(folder, order.report, {"profile": order.profile})
    done = None
    try:
        with exclusive_process_lock(folder):
            done = _run(settings, order, journal)
        return done
    finally:
        journal.end(*_ending(done, sys.exc_info()[1]))


def _ending(done: RetrainResult | None, error: BaseException | None) -> tuple[int, str, str | None]:
    """Exit code, outcome and error for the report."""
    if done is not None:
        return int(done.outcome), done.outcome.words, None
    if isinstance(error, AlreadyRunningError):
        return error.exit_code, RetrainOutcome.ANOTHER_RUNS.words, str(error)
    if isinstance(error, RossmannError):
        return error.exit_code, RetrainOutcome.BROKEN.words, str(error)
    if isinstance(error, Exception):
        return (
            int(RetrainOutcome.BROKEN),
            RetrainOutcome.BROKEN.words,
            f"{type(error).__name__}: {error}",
        )
    return getattr(error, "exit_code", _CTRL_C), "stopped", None


def _run(settings: Settings, order: RetrainRequest, journal: RetrainReport) -> RetrainResult:
    mark_interrupted(retrain_dir(settings), but=journal.path)
    settings.profile(order.profile)
    with Registry(settings.tracking_uri, order.name) as registry:
        with journal.step("registry"):
            registry.ping()
        with journal.step("check"):
            info = make_dataset(settings, order.progress)
        wanted = training_fingerprint(settings, order.profile, info.version)
        about = {"dataset": info.dataset.value, "version": info.version, "rows": info.rows}
        journal.update(data={**about, "last_day": info.last_day.isoformat()}, recipe=wanted)
        with journal.step("features"):
            remove_stale(info.folder, _STALE_SECONDS)
            build_panel(info, settings.thread_count, order.progress)
        found = _latest(registry, order.profile, wanted)
        if found is not None and _is_open(found, order):
            complete_registration(found, settings, order.name)
        elif found is not None:
            journal.update(version=found.version, stage=found.stage.value)
            return RetrainResult(RetrainOutcome.NOTHING_NEW, found, journal.path)
        if found is None:
            found = _make(registry, settings, order, journal, wanted)
        return _judge(registry, settings, order, journal, found)


def _latest(registry: Registry, profile: str, wanted: str) -> ModelVersion | None:
    """The latest version of the profile, if it is what a training now would give again."""
    mine = (v for v in registry.versions() if v.tags.get("profile") == profile)
    latest = next(mine, None)
    return latest if latest is not None and latest.tags.get(FINGERPRINT_TAG) == wanted else None


def _is_open(version: ModelVersion, order: RetrainRequest) -> bool:
    """Whether a run that was cut short has left something to do for the version."""
    judged = version.tags.get(PASSED_TAG)
    if version.stage is Stage.NONE:
        return judged != "false"
    return version.stage is Stage.STAGING and order.promote


def _make(
    registry: Registry,
    settings: Settings,
    order: RetrainRequest,
    journal: RetrainReport,
    wanted: str,
) -> ModelVersion:
    registered = {v.tags.get(CARD_DIGEST_TAG, "") for v in registry.versions()}
    trained = find_unregistered(trained_dir(settings), wanted, registered)
    if trained is None:
        with journal.step("train"):
            trained = train(settings, order.profile, order.progress)
    else:
        with journal.step("mend"):
            drop_abandoned_runs(trained, settings)
    with journal.step("register"):
        return register(trained, settings, order.name, order.progress)


def _judge(
    registry: Registry,
    settings: Settings,
    order: RetrainRequest,
    journal: RetrainReport,
    version: ModelVersion,
) -> RetrainResult:
    journal.update(version=version.version, stage=version.stage.value)
    with journal.step("gate"):
        verdict = validate(registry, version.version, settings)
        journal.record_verdict(verdict)
    if not verdict.passed:
        return RetrainResult(
            RetrainOutcome.CANDIDATE_WORSE, registry.find(version.version), journal.path
        )
    if version.stage is not Stage.STAGING:
        with journal.step("staging"):
            version = registry.stage(version.version)
            journal.update(stage=version.stage.value)
    if order.promote:
        with journal.step("promotion"):
            version = registry.promote(
                version.version, PROMOTION_REASON, order.who, expected=verdict.compared_with
            )
            journal.update(stage=version.stage.value)
    return RetrainResult(RetrainOutcome.STAGED, version, journal.path)
