"""Reweighting: a version of the same members, with what is learned from windows learned anew.

Members learn from years of sales, and their fit takes minutes. The weights of the filter, the
intervals, the covariance of totals and the bias correction are learned from some windows, in
seconds. Recent windows show how the members forecast days that they never saw. The new version's
member files are those of the version it comes from, byte for byte; the gate judges it as any other.
"""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rossmann.data.make_dataset import current_dataset
from rossmann.data.panel.panel import Panel, build_panel, open_panel
from rossmann.errors import DataError, ModelError
from rossmann.installation import shell_command
from rossmann.models.calibration.filter_weights import cross_validate_filter_weights
from rossmann.models.ensemble.artifact_files import CARD_FILE, member_files, sha256, write_card
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.evaluation.backtest import WindowForecasts, score_window
from rossmann.models.gate.backtest_predictions import BacktestPredictions
from rossmann.models.gate.gate import load_predictions
from rossmann.models.inference.row_warnings import TrainingSpan, training_span
from rossmann.models.publishing.mlflow_client import drop_abandoned_runs
from rossmann.models.publishing.trained_model import (
    TrainedModel,
    find_unregistered,
    publish_folder,
    trained_dir,
)
from rossmann.models.registry.lineage import (
    FINGERPRINT_TAG,
    RECENT_WINDOWS_TAG,
    REWEIGHTED_KEY,
    code_digest,
    members_recipe,
    reweighting_fingerprint,
)
from rossmann.models.registry.model_version import CARD_DIGEST_TAG, ModelVersion
from rossmann.models.registry.registry import Registry
from rossmann.models.reports.segments import build_report_data
from rossmann.models.training.stored_windows import forecast_recent_windows, restore_windows
from rossmann.models.training.train import (
    card_metrics,
    data_summary,
    learned_tables,
    utc_now,
    write_evaluation,
)
from rossmann.schema import MODEL_NAME, ProgressReporter
from rossmann.settings import Settings

_SAME: Final = 1e-4
"""Relative difference of numbers that is rounding: factors are stored in single precision. A table
without any other stays the version's own."""
_TINY: Final = 1e-9


@dataclass(frozen=True)
class Reweighting:
    """What became of a version.

    ``card``: of the version, ``tables``: what was learned anew, under the card's keys. ``trained``:
    the new version's folder, None where there is nothing to register: ``registered`` is the version
    that came from the same before, or None where the tables are the version's own.
    """

    source: ModelVersion
    card: Mapping[str, Any]
    tables: Mapping[str, Any]
    recent_windows: int
    trained: TrainedModel | None = None
    registered: ModelVersion | None = None


@dataclass(frozen=True)
class _Source:
    """The version to reweight, as registered, and the panel of the current dataset."""

    version: ModelVersion
    folder: Path
    ensemble: Ensemble
    stored: BacktestPredictions
    panel: Panel

    @property
    def card(self) -> dict[str, Any]:
        """The version's card."""
        return self.ensemble.card

    @property
    def span(self) -> TrainingSpan:
        """First and last day that its members learned from."""
        first, last = training_span(self.card, self.panel.info.dataset)
        return TrainingSpan(first + int(self.card["params"]["history_days"]), last)

    def fingerprint(self, settings: Settings) -> str:
        """Of this reweighting."""
        return reweighting_fingerprint(
            settings, sha256(self.folder / CARD_FILE), self.panel.info.version
        )


def reweight(
    settings: Settings,
    version: str | int,
    report: ProgressReporter = lambda line: None,
    name: str = MODEL_NAME,
) -> Reweighting:
    """Learn the tables of a version's card anew and save it as another version, not yet registered.

    ``version``: a number or a stage. A model that a killed run left unregistered is returned
    instead of a new one. Raises ``VersionNotFoundError``, ``CorruptModelError`` and
    ``ServiceError`` where the version cannot be had, ``ModelError`` where an earlier release made
    it, and ``DataError`` where the tables at hand are not its chain's.
    """
    with Registry.from_settings(settings, name) as registry:
        source = _load(registry, settings, version, report)
        versions = registry.versions()
    made = _find_made(source, settings, versions)
    if made is not None:
        return made
    outcomes, recent = _blended_windows(source, settings, report)
    card, span, weights = source.card, source.span, source.card["weights"]
    report(f"learning from {len(outcomes)} windows and their follow-ups")
    learned = learned_tables(source.panel, outcomes, weights, span, settings.chain_floor)
    tables = {
        key: card[key] if _is_same(value, card.get(key)) else value
        for key, value in json.loads(json.dumps(learned)).items()
    }
    if all(value is card.get(key) for key, value in tables.items()):
        return Reweighting(source.version, card, tables, recent)
    trained = _save(source, settings, outcomes, tables, recent)
    return Reweighting(source.version, card, tables, recent, trained)


def _find_made(
    source: _Source, settings: Settings, versions: Sequence[ModelVersion]
) -> Reweighting | None:
    """The same reweighting where it was made before, whether it was registered or not."""
    recipe, card = source.fingerprint(settings), source.card
    for other in versions:
        if other.tags.get(FINGERPRINT_TAG) == recipe:
            recent = int(other.tags[RECENT_WINDOWS_TAG])
            return Reweighting(source.version, card, {}, recent, registered=other)
    digests = {other.tags.get(CARD_DIGEST_TAG, "") for other in versions}
    trained = find_unregistered(trained_dir(settings), recipe, digests)
    if trained is None:
        return None
    drop_abandoned_runs(trained, settings)
    recent = trained.card[REWEIGHTED_KEY]["recent_windows"]
    return Reweighting(source.version, card, trained.card, recent, trained)


def _load(
    registry: Registry, settings: Settings, version: str | int, report: ProgressReporter
) -> _Source:
    """The version with its files, digests verified, and the panel of the current dataset."""
    found = registry.find(version)
    folder = registry.fetch(found.version, settings.model_cache_dir)
    stored = load_predictions(registry, found, with_log_factors=True)
    if not stored.members:
        raise ModelError(
            f"version {found.version} was made by an earlier release, which did not store what the"
            f" members forecast in its backtest: train a new version with: {shell_command('train')}"
        )
    ensemble = Ensemble.load(folder)
    info = current_dataset(settings)
    dataset = ensemble.card["data"]["dataset"]
    if info.dataset.value != dataset:
        raise DataError(
            f"version {found.version} was made from {dataset} tables; those at hand are"
            f" {info.dataset}: reweight it where its own tables are"
        )
    build_panel(info, settings.thread_count, report)
    return _Source(found, folder, ensemble, stored, open_panel(info))


def _blended_windows(
    source: _Source, settings: Settings, report: ProgressReporter
) -> tuple[list[WindowForecasts], int]:
    """All windows, each blended by the filter weights of the others; and how many are recent."""
    panel, ensemble, last_day = source.panel, source.ensemble, source.span.last
    report(f"looking up the windows of version {source.version.version}'s backtest")
    outcomes = restore_windows(panel, ensemble, source.stored, last_day)
    recent = forecast_recent_windows(panel, ensemble, last_day, settings)
    for outcome in recent:
        report(f"  recent window from {outcome.window.origin_date}, {outcome.age_days} days old")
    outcomes += recent
    weights = source.card["weights"]
    return cross_validate_filter_weights(outcomes, source.span.first, weights), len(recent)


def _save(
    source: _Source,
    settings: Settings,
    outcomes: Sequence[WindowForecasts],
    tables: Mapping[str, Any],
    recent_windows: int,
) -> TrainedModel:
    """Write the new version's folder: the members' files as they are, a card, the evaluation."""
    card, panel = source.card, source.panel
    summary = data_summary(card["profile"], panel)
    evaluation = build_report_data(panel, outcomes, summary, settings.chain_floor)
    new_card = {
        **card,
        **tables,
        # what age costs was measured with newer fits of the backtest, which are not stored
        "metrics": {**card_metrics(evaluation), "age": card["metrics"].get("age", [])},
        "recipe": source.fingerprint(settings),
        REWEIGHTED_KEY: {
            "from_version": source.version.version,
            "recipe": members_recipe(source.version.tags),
            "data_version": panel.info.version,
            "last_day": panel.info.last_day.isoformat(),
            "recent_windows": recent_windows,
            "window_days": settings.window_days,
            "chain_floor": settings.chain_floor,
            "code": code_digest(),
            "at": utc_now(),
        },
    }
    names = list(member_files(source.folder))
    scores = [score_window(outcome) for outcome in outcomes]
    with publish_folder(trained_dir(settings)) as pending:
        for file in names:
            shutil.copy2(source.folder / file, pending.draft / file)
        new_card = write_card(pending.draft, new_card, names)
        write_evaluation(pending.draft, new_card, scores, outcomes, evaluation)
    return TrainedModel(pending.folder, new_card, scores)


def _is_same(value: Any, other: Any) -> bool:
    """Whether two values of JSON are the same but for rounding."""
    if isinstance(value, dict) and isinstance(other, dict):
        return value.keys() == other.keys() and all(_is_same(value[k], other[k]) for k in value)
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(_is_same, value, other))
    if isinstance(value, float) and isinstance(other, float):
        return math.isclose(value, other, rel_tol=_SAME, abs_tol=_TINY)
    return bool(value == other)
