"""Training: backtest, calibration on its windows, final fit of the members, saving with report."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rossmann.data.make_dataset import current_dataset
from rossmann.data.panel.panel import Panel, build_panel, open_panel
from rossmann.models.calibration.bias_correction import BIAS_CORRECTION_KEY, fit_bias_correction
from rossmann.models.calibration.filter_weights import (
    collect_errors,
    cross_validate_filter_weights,
    fit_filter_weights,
    training_years,
)
from rossmann.models.calibration.interval_coverage import calibrate_windows
from rossmann.models.calibration.totals_fit import calibrate_totals
from rossmann.models.ensemble.ensemble import FILTER_WEIGHTS_KEY, Ensemble
from rossmann.models.evaluation.backtest import (
    BacktestPlan,
    WindowForecasts,
    WindowScore,
    backtest,
    measure_age,
    score_window,
    with_follow_ups,
)
from rossmann.models.gate.backtest_predictions import from_outcomes, write_predictions
from rossmann.models.members.fit import first_training_day, fit_members, sample_training_rows
from rossmann.models.publishing.trained_model import (
    TrainedModel,
    publish_folder,
    trained_dir,
    write_windows,
)
from rossmann.models.registry.lineage import lineage_fields
from rossmann.models.reports.figures import write_summary
from rossmann.models.reports.html_report import write_html_report
from rossmann.models.reports.segments import build_report_data
from rossmann.schema import FEATURES, MAX_HORIZON, ProgressReporter, feature_fingerprint
from rossmann.settings import Settings


def train(
    settings: Settings, profile: str = "full", report: ProgressReporter = lambda line: None
) -> TrainedModel:
    """Train the profile on the current dataset and save it, not yet registered.

    Raises ``DataNotFoundError`` without data, ``SettingsError`` for an unknown profile,
    ``DataError`` where history is too short for the backtest windows.
    """
    params = settings.profile(profile)
    info = current_dataset(settings)
    build_panel(info, settings.thread_count, report)
    panel = open_panel(info)
    report(f"features: 46 for every open day of {info.stores:,} stores")
    examples = sample_training_rows(panel, settings.history_days, settings.seed)
    plan = BacktestPlan(follow_ups=settings.later_windows)
    outcomes = backtest(settings, panel, examples, params, report, plan)
    first_day = first_training_day(panel, settings.history_days)
    outcomes = cross_validate_filter_weights(outcomes, first_day, params.weights)
    scores = [score_window(outcome) for outcome in outcomes]
    summary = data_summary(profile, panel)
    evaluation = build_report_data(panel, outcomes, summary, settings.chain_floor)
    report("final fit on all of history")
    members = fit_members(examples, params, settings.seed, settings.thread_count, report)
    card = make_card(settings, profile, panel, len(examples.sold), outcomes, evaluation)
    ensemble = Ensemble(members, card)
    with publish_folder(trained_dir(settings)) as pending:
        ensemble.save(pending.draft)
        write_evaluation(pending.draft, card, scores, outcomes, evaluation)
    return TrainedModel(pending.folder, ensemble.card, scores)


def write_evaluation(
    folder: Path,
    card: dict[str, Any],
    scores: list[WindowScore],
    outcomes: Sequence[WindowForecasts],
    evaluation: dict[str, Any],
) -> None:
    """Write the backtest's rows, scores, pictures and report into a version's folder.

    ``scores``: of the windows of ``outcomes``; ``evaluation``: of ``build_report_data``.
    """
    write_predictions(folder, from_outcomes(outcomes, evaluation["coverage"]))
    write_windows(folder, scores)
    write_summary(folder, card, scores)
    write_html_report(folder, evaluation)


def data_summary(profile: str, panel: Panel) -> dict[str, Any]:
    """Profile and data of a fit, as JSON."""
    info = panel.info
    return {
        "profile": profile,
        "data": {
            "dataset": info.dataset.value,
            "version": info.version,
            "rows": info.rows,
            "stores": info.stores,
            "first_day": info.first_day.isoformat(),
            "last_day": info.last_day.isoformat(),
            "files": info.files,
        },
    }


def make_card(
    settings: Settings,
    profile: str,
    panel: Panel,
    rows: int,
    outcomes: list[WindowForecasts],
    evaluation: Mapping[str, Any],
) -> dict[str, Any]:
    """The card of a model, as JSON: contents, lineage, calibration and measures.

    ``evaluation``: the content of the backtest's report, of ``build_report_data``.
    """
    params = settings.profile(profile)
    span = (first_training_day(panel, settings.history_days), panel.last_day)
    return {
        "model": "rossmann-ensemble",
        **lineage_fields(settings, profile, panel.info.version),
        "params": {**params.model_dump(), "seed": settings.seed, "horizon": MAX_HORIZON,
                   "history_days": settings.history_days, "training_rows": rows,
                   "threads": settings.thread_count},
        "weights": params.weights,
        **learned_tables(panel, outcomes, params.weights, span, settings.chain_floor),
        "features": list(FEATURES),
        "fingerprint": feature_fingerprint(),
        **data_summary(profile, panel),
        "metrics": {
            **card_metrics(evaluation),
            "age": [measure_age(one) for one in outcomes if one.next_fit is not None],
        },
        "trained": utc_now(),
    }  # fmt: skip


def learned_tables(
    panel: Panel,
    outcomes: Sequence[WindowForecasts],
    weights: Mapping[str, float],
    span: tuple[int, int],
    chain_floor: float,
) -> dict[str, Any]:
    """What a card learns from windows, as JSON: weights of the filter, intervals, totals, bias.

    ``outcomes``: of ``cross_validate_filter_weights``; ``weights``: of the members; ``span``: the
    first and the last day that the members learned from.
    """
    windows = with_follow_ups(outcomes)
    intervals = calibrate_windows(windows)
    errors = collect_errors(outcomes, span[0], weights)
    return {
        FILTER_WEIGHTS_KEY: fit_filter_weights(errors, training_years(*span)),
        "intervals": intervals,
        "totals": calibrate_totals(panel, windows, intervals, chain_floor),
        BIAS_CORRECTION_KEY: fit_bias_correction(windows),
    }


def card_metrics(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What a card has of its backtest's report."""
    return {name: evaluation[name] for name in ("windows", "coverage", "totals_bias")}


def utc_now() -> str:
    """The time as cards have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
