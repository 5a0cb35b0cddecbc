"""The gate: whether a version may become Production, as a table with a verdict on each line.

It fails closed: what is missing, or is no number, has not passed.

MERGED: Two versions side by side: what they were made from, and which errs less, beyond luck.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rossmann.epoch_days import to_day
from rossmann.errors import CorruptModelError, DataError, VersionNotFoundError
from rossmann.models.ensemble.artifact_files import sha256
from rossmann.models.evaluation import metrics as paired
from rossmann.models.gate.accuracy_checks import (
    checks_against_baseline,
    checks_against_production,
    coverage_and_bias_checks,
    matched_windows,
)
from rossmann.models.gate.backtest_predictions import (
    PREDICTIONS_FILE,
    BacktestPredictions,
    WindowPredictions,
    read_evidence,
)
from rossmann.models.gate.verdict import CheckResult, Verdict, at_least, at_most, not_measured
from rossmann.models.registry.model_version import ModelVersion
from rossmann.models.registry.registry import Registry
from rossmann.schema import Dataset, FloatArray, Stage
from rossmann.settings import Settings

if TYPE_CHECKING:
    from rossmann.data.panel.panel import Panel
    from rossmann.models.gate.sanity_checks import SanityMetrics


WINDOWS_TAG = "windows"
"""Version tag with the backtest windows as JSON: origin, days, rows, RMSPE by model."""
EVIDENCE_TAG = "digest.evidence"
"""Version tag with the SHA-256 of the run's ``evidence.npz``."""
PASSED_TAG = "gate.passed"
"""``true`` or ``false``; ``unfinished`` while a version is judged."""
TABLE_TAG = "gate.table"
_APART = 1e-6
"""Two ways to one forecast may differ by this share of it."""


@dataclass(frozen=True)
class _Desk:
    """What judging needs at hand."""

    registry: Registry
    settings: Settings
    panel: "Callable[[str], Panel]"


def validate(registry: Registry, version: int | str, settings: Settings) -> Verdict:
    """Judge a version, and store the verdict on it (tags ``gate.passed``, ``gate.table``).

    It must beat seasonal naive on every window and, where another version of the same chain
    serves, that one too, by a paired test; its bands must hold what they promise, and it must be
    unbiased, fast, small and sane.

    Hand ``Verdict.against`` to ``Registry.promote``, so that a verdict about another version than
    the one that serves by then promotes nothing. Raises ``UnknownVersion`` or ``ServiceError``.
    """
    candidate = registry.find(int(version))
    serving = _serving(registry)
    if serving is not None and serving.version == candidate.version:
        serving = None
    # An earlier verdict must not stand for this one if it is cut short.
    registry.set_tags(candidate.version, {PASSED_TAG: "unfinished"})
    desk = _Desk(registry, settings, lambda chain: _open_panel(settings, chain))
    lines = [*_by_evidence(desk, candidate, serving), *_by_probes(desk, candidate)]
    verdict = Verdict(candidate.version, None if serving is None else serving.version, lines)
    registry.set_tags(
        candidate.version,
        {
            TABLE_TAG: json.dumps([asdict(line) for line in verdict.lines]),
            "gate.against": str(verdict.compared_with or ""),
            "gate.at": datetime.now(UTC).isoformat(timespec="seconds"),
            PASSED_TAG: "true" if verdict.passed else "false",
        },
    )
    return verdict


def load_predictions(registry: Registry, version: ModelVersion) -> BacktestPredictions:
    """What the version's backtest said of each row; raises ``DamagedModel`` where it has none."""
    digest = version.tags.get(EVIDENCE_TAG)
    if not digest:
        raise CorruptModelError(f"version {version.version} has no record of its backtest's rows")
    with tempfile.TemporaryDirectory(prefix="rossmann-") as folder:
        path = registry.run_file(version, PREDICTIONS_FILE, Path(folder))
        if sha256(path) != digest:
            raise CorruptModelError(
                f"the record of version {version.version}'s backtest was changed"
            )
        return read_evidence(path)


def _serving(registry: Registry) -> ModelVersion | None:
    try:
        return registry.find(Stage.PRODUCTION.value)
    except VersionNotFoundError:
        return None


def _by_evidence(
    desk: _Desk, candidate: ModelVersion, serving: ModelVersion | None
) -> list[CheckResult]:
    try:
        evidence = load_predictions(desk.registry, candidate)
    except CorruptModelError as error:
        return [not_measured("backtest windows", str(error))]
    if not evidence.windows:
        return [not_measured("backtest windows", "there are none")]
    lines = checks_against_baseline(evidence.windows, desk.settings)
    if serving is not None:
        lines += _beside(desk, candidate, evidence, serving)
    return [*lines, *coverage_and_bias_checks(evidence, desk.settings)]


def _beside(
    desk: _Desk, candidate: ModelVersion, evidence: BacktestPredictions, serving: ModelVersion
) -> list[CheckResult]:
    name = f"version {serving.version}"
    mine, other = (v.tags.get("data.dataset") for v in (candidate, serving))
    if mine is None or other is None:
        return [not_measured(f"against {name}", "which chain it was made from is not known")]
    if mine != other:
        return [_another_chain(name, mine, other, desk.settings)]
    try:
        theirs = load_predictions(desk.registry, serving)
    except CorruptModelError:
        theirs = None
    try:
        last_day = to_day(date.fromisoformat(serving.tags["data.last_day"]))
    except (KeyError, ValueError):
        last_day = None

    def score(rows: WindowPredictions) -> FloatArray:
        return _score(desk, serving, mine, rows)

    try:
        return checks_against_production(
            evidence, theirs, name, last_day, score, desk.settings, mine == Dataset.DEMO.value
        )
    except (CorruptModelError, DataError) as error:
        return [not_measured(f"against {name}", str(error))]


def _another_chain(name: str, mine: str, other: str, settings: Settings) -> CheckResult:
    """Nothing to compare with: fine where the real chain follows the demo, or demo was asked for.

    Real tables that are gone for a night (a disk that is not mounted) leave the demo chain's: a
    version made from these must not replace the real one by itself.
    """
    check, note = f"against {name}", f"another chain: {mine}, not {other}"
    if mine == Dataset.REAL.value or settings.demo:
        return CheckResult(check, None, None, True, note)
    return not_measured(check, f"{note}; if that is meant, set ROSSMANN_DEMO=1")


def _score(desk: _Desk, serving: ModelVersion, chain: str, window: WindowPredictions) -> FloatArray:
    """What the version that serves says of a window's rows, as of its origin."""
    from rossmann.models.ensemble.ensemble import Ensemble

    panel = desk.panel(chain)
    if (panel.store_indices(window.store) < 0).any():
        raise DataError("the tables at hand lack stores of the backtest")
    origin = to_day(date.fromisoformat(window.origin))
    if not panel.first_day <= origin <= panel.last_day or window.day.max() > panel.furthest_day:
        raise DataError("the tables at hand do not reach the days of the backtest")
    ensemble = Ensemble.load(desk.registry.fetch(serving.version, desk.settings.model_cache_dir))
    rows = panel.schedule(window.store, window.day)
    return ensemble.predict(panel.matrix(rows, origin), desk.settings.thread_count)


def _by_probes(desk: _Desk, candidate: ModelVersion) -> list[CheckResult]:
    from rossmann.models.ensemble.ensemble import Ensemble
    from rossmann.models.gate.sanity_checks import run_sanity_checks

    settings = desk.settings
    try:
        panel = desk.panel(candidate.tags.get("data.dataset", ""))
        folder = desk.registry.fetch(candidate.version, settings.model_cache_dir)
        found = run_sanity_checks(panel, Ensemble.load(folder), folder, settings.thread_count)
    except (CorruptModelError, DataError) as error:
        return [not_measured("sanity probes", str(error))]
    return [
        *_of_service(found),
        at_least(
            "a promotion raises the chain's sales by", found.promotion, settings.gate_promotion
        ),
        at_most("highest forecast over its store's record", found.record, settings.gate_record),
        at_least("lowest forecast of an open day", found.lowest, 0.0),
        at_least("rows per second", found.speed, settings.gate_rows_per_second),
        at_most("megabytes", found.size, settings.gate_size_mb),
    ]


def _of_service(found: "SanityMetrics") -> list[CheckResult]:
    return [
        at_most("a closed day is zero: highest", found.served.closed, 0.0),
        at_most("service and model differ by", found.served.apart, _APART),
    ]


def _open_panel(settings: Settings, chain: str) -> "Panel":
    from rossmann.data.make_dataset import current_dataset
    from rossmann.data.panel.panel import open_panel

    info = current_dataset(settings)
    if info.dataset.value != chain:
        raise DataError(f"made from {chain or 'unknown'} tables; those at hand are {info.dataset}")
    return open_panel(info)


_TOLD_ELSEWHERE = ("gate.", "rmspe.", "windows", "promotion", "digest.", "stage", "trained")


@dataclass(frozen=True)
class Comparison:
    """``lineage``: what differs, as (name, first, second). ``windows``: the same days, forecast by
    both backtests, as (origin, test). ``note`` says why where there are none.
    """

    lineage: list[tuple[str, str, str]]
    windows: list[tuple[str, paired.PermutationTest]]
    note: str = ""


def compare_versions(registry: Registry, first: ModelVersion, second: ModelVersion) -> Comparison:
    """Compare ``first`` with ``second``; ``p`` is the chance that the first is only luckier.

    Raises ``ServiceError`` when the registry is away.
    """
    lineage = _differences(first.tags, second.tags)
    try:
        pairs = matched_windows(
            load_predictions(registry, first), load_predictions(registry, second)
        )
    except CorruptModelError as error:
        return Comparison(lineage, [], str(error))
    windows = [
        (
            rows.origin,
            paired.permutation_test(rows.store, rows.day, rows.sold, rows.forecast, other),
        )
        for _, rows, other in pairs
        if len(other)
    ]
    note = "" if windows else "their backtests have no day of the same window in common"
    return Comparison(lineage, windows, note)


def _differences(first: dict[str, str], second: dict[str, str]) -> list[tuple[str, str, str]]:
    names = sorted(name for name in {*first, *second} if not name.startswith(_TOLD_ELSEWHERE))
    both = ((name, first.get(name, "-"), second.get(name, "-")) for name in names)
    return [(name, mine, other) for name, mine, other in both if mine != other]
