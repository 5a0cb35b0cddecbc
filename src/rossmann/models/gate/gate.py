"""The gate: whether a version may become Production, as a table with a verdict on each check.

It fails closed: what is missing, or is no number, has not passed. ``compare_versions`` shows the
same paired tests, and what two versions were made from, for any two versions.
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
from rossmann.models.evaluation.paired_test import PairedTest, paired_test
from rossmann.models.gate.accuracy_checks import (
    ProductionVersion,
    checks_against_baseline,
    checks_against_production,
    coverage_and_bias_checks,
    matched_windows,
    pair_rows,
)
from rossmann.models.gate.backtest_predictions import (
    PREDICTIONS_FILE,
    BacktestPredictions,
    WindowPredictions,
    read_predictions,
)
from rossmann.models.gate.verdict import CheckResult, Verdict, at_least, at_most, not_measured
from rossmann.models.registry.model_version import ModelVersion
from rossmann.models.registry.registry import Registry
from rossmann.schema import Dataset, FloatArray, Stage
from rossmann.settings import Settings

if TYPE_CHECKING:
    from rossmann.data.panel.panel import Panel


WINDOWS_TAG = "windows"
"""Version tag with the backtest windows as JSON: origin, days, rows, RMSPE by model."""
PREDICTIONS_DIGEST_TAG = "digest.evidence"
"""Version tag with the SHA-256 of the run's ``evidence.npz``."""
PASSED_TAG = "gate.passed"
"""``true`` or ``false``; ``unfinished`` while the checks of a version run."""
TABLE_TAG = "gate.table"
_SERVICE_TOLERANCE = 1e-6
"""Largest relative difference between the service's forecast and the model's."""
_NOT_LINEAGE = ("gate.", "rmspe.", "windows", "promotion", "digest.", "stage", "trained")
"""Prefixes of tags that do not say what a version was made from."""


@dataclass(frozen=True)
class _GateContext:
    """What the checks read from; ``open_panel``: the panel of a dataset by name."""

    registry: Registry
    settings: Settings
    open_panel: "Callable[[str], Panel]"


def validate(registry: Registry, version: int | str, settings: Settings) -> Verdict:
    """Check a version, and store the verdict on it (tags ``gate.passed``, ``gate.table``).

    It must beat seasonal naive on every window and, where another version of the same chain is in
    Production, that one too, by a paired test; its intervals must have the coverage that they
    state, and it must be unbiased, fast, small and sane.

    Hand ``Verdict.compared_to`` to ``Registry.promote``, so that a verdict about another version
    than the one in Production at that time promotes nothing. Raises ``VersionNotFoundError`` or
    ``ServiceError``.
    """
    candidate = registry.find(int(version))
    production = _find_production(registry)
    if production is not None and production.version == candidate.version:
        production = None
    # an earlier verdict must not stand for this one if it is cut short
    registry.set_tags(candidate.version, {PASSED_TAG: "unfinished"})
    context = _GateContext(registry, settings, lambda dataset: _open_panel_of(settings, dataset))
    results = [
        *_backtest_checks(context, candidate, production),
        *_sanity_checks(context, candidate),
    ]
    verdict = Verdict(
        candidate.version, None if production is None else production.version, results
    )
    registry.set_tags(
        candidate.version,
        {
            TABLE_TAG: json.dumps([asdict(result) for result in verdict.results]),
            "gate.against": str(verdict.compared_to or ""),
            "gate.at": datetime.now(UTC).isoformat(timespec="seconds"),
            PASSED_TAG: "true" if verdict.passed else "false",
        },
    )
    return verdict


def load_predictions(
    registry: Registry, version: ModelVersion, with_log_factors: bool = False
) -> BacktestPredictions:
    """The version's backtest, row by row; raises ``CorruptModelError`` where it has none."""
    digest = version.tags.get(PREDICTIONS_DIGEST_TAG)
    if not digest:
        raise CorruptModelError(f"version {version.version} has no record of its backtest's rows")
    with tempfile.TemporaryDirectory(prefix="rossmann-") as folder:
        path = registry.run_file(version, PREDICTIONS_FILE, Path(folder))
        if sha256(path) != digest:
            raise CorruptModelError(
                f"the record of version {version.version}'s backtest was changed"
            )
        return read_predictions(path, with_log_factors)


def _find_production(registry: Registry) -> ModelVersion | None:
    try:
        return registry.find(Stage.PRODUCTION.value)
    except VersionNotFoundError:
        return None


def _backtest_checks(
    context: _GateContext, candidate: ModelVersion, production: ModelVersion | None
) -> list[CheckResult]:
    try:
        predictions = load_predictions(context.registry, candidate)
    except CorruptModelError as error:
        return [not_measured("backtest windows", str(error))]
    if not predictions.windows:
        return [not_measured("backtest windows", "there are none")]
    results = checks_against_baseline(predictions.windows, context.settings)
    if production is not None:
        results += _production_checks(context, candidate, predictions, production)
    return [*results, *coverage_and_bias_checks(predictions, context.settings)]


def _production_checks(
    context: _GateContext,
    candidate: ModelVersion,
    predictions: BacktestPredictions,
    production: ModelVersion,
) -> list[CheckResult]:
    name = f"version {production.version}"
    dataset, other = (v.tags.get("data.dataset") for v in (candidate, production))
    if dataset is None or other is None:
        return [not_measured(f"against {name}", "which chain it was made from is not known")]
    if dataset != other:
        return [_check_other_dataset(name, dataset, other, context.settings)]
    try:
        production_predictions = load_predictions(context.registry, production)
    except CorruptModelError:
        production_predictions = None
    try:
        last_day = to_day(date.fromisoformat(production.tags["data.last_day"]))
    except (KeyError, ValueError):
        last_day = None

    def forecast(rows: WindowPredictions) -> FloatArray:
        return _forecast_by_production(context, production, dataset, rows)

    compared = ProductionVersion(
        name, production_predictions, last_day, forecast, replaceable=dataset == Dataset.DEMO.value
    )
    try:
        return checks_against_production(predictions, compared, context.settings)
    except (CorruptModelError, DataError) as error:
        return [not_measured(f"against {name}", str(error))]


def _check_other_dataset(name: str, dataset: str, other: str, settings: Settings) -> CheckResult:
    """Passed where the real chain replaces the demo, or the demo was requested.

    Real tables that are missing for a night (a disk that is not mounted) leave the demo chain's: a
    version made from these must not replace the real one by itself.
    """
    check, note = f"against {name}", f"another chain: {dataset}, not {other}"
    if dataset == Dataset.REAL.value or settings.demo:
        return CheckResult(check, None, None, True, note)
    return not_measured(check, f"{note}; if that is meant, set ROSSMANN_DEMO=1")


def _forecast_by_production(
    context: _GateContext, production: ModelVersion, dataset: str, window: WindowPredictions
) -> FloatArray:
    """Forecasts (n,) of the Production version for a window's rows, as of its origin."""
    from rossmann.models.ensemble.ensemble import Ensemble

    panel = context.open_panel(dataset)
    if (panel.store_indices(window.store) < 0).any():
        raise DataError("the tables at hand lack stores of the backtest")
    origin = window.origin_day
    if not panel.first_day <= origin <= panel.last_day or window.day.max() > panel.furthest_day:
        raise DataError("the tables at hand do not reach the days of the backtest")
    folder = context.registry.fetch(production.version, context.settings.model_cache_dir)
    ensemble = Ensemble.load(folder)
    rows = panel.schedule(window.store, window.day)
    return ensemble.predict(panel.matrix(rows, origin), context.settings.thread_count)


def _sanity_checks(context: _GateContext, candidate: ModelVersion) -> list[CheckResult]:
    from rossmann.models.ensemble.ensemble import Ensemble
    from rossmann.models.gate.sanity_checks import run_sanity_checks

    settings = context.settings
    try:
        panel = context.open_panel(candidate.tags.get("data.dataset", ""))
        folder = context.registry.fetch(candidate.version, settings.model_cache_dir)
        metrics = run_sanity_checks(panel, Ensemble.load(folder), folder, settings.thread_count)
    except (CorruptModelError, DataError) as error:
        return [not_measured("sanity probes", str(error))]
    service = metrics.service
    return [
        at_most("a closed day is zero: highest", service.max_closed_sales, 0.0),
        at_most("service and model differ by", service.max_difference, _SERVICE_TOLERANCE),
        at_least("a promotion raises the chain's sales by", metrics.promotion_uplift,
                 settings.gate_promotion),
        at_most("highest forecast over its store's record", metrics.max_record_ratio,
                settings.gate_record),
        at_least("lowest forecast of an open day", metrics.min_sales, 0.0),
        at_least("rows per second", metrics.rows_per_second, settings.gate_rows_per_second),
        at_most("megabytes", metrics.megabytes, settings.gate_size_mb),
    ]  # fmt: skip


def _open_panel_of(settings: Settings, dataset: str) -> "Panel":
    from rossmann.data.make_dataset import current_dataset
    from rossmann.data.panel.panel import open_panel

    info = current_dataset(settings)
    if info.dataset.value != dataset:
        raise DataError(
            f"made from {dataset or 'unknown'} tables; those at hand are {info.dataset}"
        )
    return open_panel(info)


@dataclass(frozen=True)
class Comparison:
    """``lineage``: what differs, as (name, first, second). ``windows``: the same days, forecast by
    both backtests, as (origin, test), and all of them together last. ``note`` says why where there
    are none.
    """

    lineage: list[tuple[str, str, str]]
    windows: list[tuple[str, PairedTest]]
    note: str = ""


def compare_versions(registry: Registry, first: ModelVersion, second: ModelVersion) -> Comparison:
    """Compare two versions; each window's p-value is of ``first`` being better.

    Raises ``ServiceError`` when the registry is away.
    """
    lineage = _lineage_differences(first.tags, second.tags)
    try:
        pairs = matched_windows(
            load_predictions(registry, first), load_predictions(registry, second)
        )
    except CorruptModelError as error:
        return Comparison(lineage, [], str(error))
    found = [(rows, other) for _, rows, other in pairs if len(other)]
    windows = [(rows.origin, paired_test(pair_rows([(rows, other)]))) for rows, other in found]
    if len(found) > 1:
        windows.append(("all windows", paired_test(pair_rows(found))))
    note = "" if windows else "their backtests have no day of the same window in common"
    return Comparison(lineage, windows, note)


def _lineage_differences(
    first: dict[str, str], second: dict[str, str]
) -> list[tuple[str, str, str]]:
    names = sorted(name for name in {*first, *second} if not name.startswith(_NOT_LINEAGE))
    rows = ((name, first.get(name, "-"), second.get(name, "-")) for name in names)
    return [row for row in rows if row[1] != row[2]]
