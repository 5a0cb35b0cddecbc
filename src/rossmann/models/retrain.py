"""Check, features, train, gate, Staging: one run of what a scheduler starts.

Each step leaves either what was there or its whole result, so a run that was killed is simply run
again: tables, arrays and trained folders that are whole are used, a version that was trained and
not registered is registered, one that was registered and not judged is judged.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rossmann.data.drafts import sweep
from rossmann.data.make_dataset import make_dataset
from rossmann.data.panel import build_panel
from rossmann.errors import AnotherRuns, RossmannError
from rossmann.models.gate import PASSED_TAG, validate
from rossmann.models.lineage import RECIPE_TAG, recipe
from rossmann.models.mlflow_client import drop_abandoned_runs, finish_version
from rossmann.models.model_versions import CARD_DIGEST_TAG
from rossmann.models.packaging import register
from rossmann.models.registry import ModelVersion, Registry
from rossmann.models.retrain_lock import only_one
from rossmann.models.retrain_report import Journal, Outcome, mark_dead
from rossmann.models.train import train
from rossmann.models.trained_folders import left_behind, trained_dir
from rossmann.schema import MODEL_NAME, Stage
from rossmann.settings import Settings

if TYPE_CHECKING:
    from rossmann.models.probes import Answer

_CTRL_C: Final = 130
_STALE_SECONDS: Final = 3600.0
"""Arrays that nobody has added a file to for so long are of a build that was killed."""
REASON: Final = "retrained; the gate let it pass"


@dataclass(frozen=True)
class Order:
    """What to do: which profile, whether to go on to Production, and in whose name.

    ``answer``: the way that serves, for the gate. ``report``: a file for the report, beside the
    one that is kept. ``tell`` gets a line of progress for each piece of work.
    """

    profile: str
    answer: "Answer"
    who: str
    promote: bool = False
    report: Path | None = None
    tell: Callable[[str], None] = lambda line: None
    name: str = MODEL_NAME


@dataclass(frozen=True)
class Done:
    """How it ended, the version that it is about (None: there is none), and the kept report."""

    outcome: Outcome
    version: ModelVersion | None
    report: Path


def retrain_dir(settings: Settings) -> Path:
    """Where the lock and the reports lie."""
    return settings.data_dir / "retrain"


def retrain(settings: Settings, order: Order) -> Done:
    """Make a new version from the tables at hand, judge it, and put it into Staging if it may.

    Raises ``AnotherRuns`` where another retraining is under way in the data folder, and what its
    steps raise; the report is written all the same.
    """
    folder = retrain_dir(settings)
    journal = Journal(folder, order.report, {"profile": order.profile})
    done = None
    try:
        with only_one(folder):
            done = _run(settings, order, journal)
        return done
    finally:
        journal.end(*_ending(done, sys.exc_info()[1]))


def _ending(done: Done | None, error: BaseException | None) -> tuple[int, str, str | None]:
    """Exit code, outcome and error for the report."""
    if done is not None:
        return int(done.outcome), done.outcome.words, None
    if isinstance(error, AnotherRuns):
        return error.exit_code, Outcome.ANOTHER_RUNS.words, str(error)
    if isinstance(error, RossmannError):
        return error.exit_code, Outcome.BROKEN.words, str(error)
    if isinstance(error, Exception):
        return int(Outcome.BROKEN), Outcome.BROKEN.words, f"{type(error).__name__}: {error}"
    return getattr(error, "exit_code", _CTRL_C), "stopped", None


def _run(settings: Settings, order: Order, journal: Journal) -> Done:
    mark_dead(retrain_dir(settings), but=journal.path)
    settings.profile(order.profile)
    with Registry(settings.tracking_uri, order.name) as registry:
        with journal.step("registry"):
            registry.ping()
        with journal.step("check"):
            info = make_dataset(settings, order.tell)
        wanted = recipe(settings, order.profile, info.version)
        about = {"dataset": info.dataset.value, "version": info.version, "rows": info.rows}
        journal.note(data={**about, "last_day": info.last_day.isoformat()}, recipe=wanted)
        with journal.step("features"):
            sweep(info.folder, _STALE_SECONDS)
            build_panel(info, settings.thread_count, order.tell)
        found = _latest(registry, order.profile, wanted)
        if found is not None and _is_open(found, order):
            finish_version(found, settings, order.name)
        elif found is not None:
            journal.note(version=found.version, stage=found.stage.value)
            return Done(Outcome.NOTHING_NEW, found, journal.path)
        if found is None:
            found = _make(registry, settings, order, journal, wanted)
        return _judge(registry, settings, order, journal, found)


def _latest(registry: Registry, profile: str, wanted: str) -> ModelVersion | None:
    """The latest version of the profile, if it is what a training now would give again."""
    mine = (v for v in registry.versions() if v.tags.get("profile") == profile)
    latest = next(mine, None)
    return latest if latest is not None and latest.tags.get(RECIPE_TAG) == wanted else None


def _is_open(version: ModelVersion, order: Order) -> bool:
    """Whether a run that was cut short has left something to do for the version."""
    judged = version.tags.get(PASSED_TAG)
    if version.stage is Stage.NONE:
        return judged != "false"
    return version.stage is Stage.STAGING and order.promote


def _make(
    registry: Registry, settings: Settings, order: Order, journal: Journal, wanted: str
) -> ModelVersion:
    registered = {v.tags.get(CARD_DIGEST_TAG, "") for v in registry.versions()}
    trained = left_behind(trained_dir(settings), wanted, registered)
    if trained is None:
        with journal.step("train"):
            trained = train(settings, order.profile, order.tell)
    else:
        with journal.step("mend"):
            drop_abandoned_runs(trained, settings)
    with journal.step("register"):
        return register(trained, settings, order.name, order.tell)


def _judge(
    registry: Registry, settings: Settings, order: Order, journal: Journal, version: ModelVersion
) -> Done:
    journal.note(version=version.version, stage=version.stage.value)
    with journal.step("gate"):
        verdict = validate(registry, version.version, settings, order.answer)
        journal.judged(verdict)
    if not verdict.passed:
        return Done(Outcome.CANDIDATE_WORSE, registry.find(version.version), journal.path)
    if version.stage is not Stage.STAGING:
        with journal.step("staging"):
            version = registry.to_staging(version.version)
            journal.note(stage=version.stage.value)
    if order.promote:
        with journal.step("promotion"):
            version = registry.promote(version.version, REASON, order.who, expected=verdict.against)
            journal.note(stage=version.stage.value)
    return Done(Outcome.STAGED, version, journal.path)
