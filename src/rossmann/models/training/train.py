"""Training: fit the members by the measured scheme, backtest, blend, save."""

import time
from typing import Any

from rossmann.data.make_dataset import current_dataset
from rossmann.data.panel.panel import Panel, build_panel, open_panel
from rossmann.models.calibration.bias_correction import CORRECTION, calibrate_bias, measure_bias
from rossmann.models.calibration.interval_coverage import calibrate_windows, measure_coverage
from rossmann.models.calibration.totals_fit import calibrate_totals
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.evaluation.backtest import backtest, score
from rossmann.models.evaluation.windows import Outcome
from rossmann.models.gate.backtest_predictions import collect, write_evidence
from rossmann.models.members.fit import draw_examples, fit_members
from rossmann.models.publishing.trained_model import Trained, new_folder, trained_dir, write_windows
from rossmann.models.registry.lineage import described
from rossmann.models.reports import html_report as report_html
from rossmann.models.reports.figures import write_report
from rossmann.models.reports.segments import summarize
from rossmann.schema import FEATURES, MAX_HORIZON, Report, feature_fingerprint
from rossmann.settings import Settings


def train(settings: Settings, profile: str = "full", report: Report = lambda line: None) -> Trained:
    """Train the profile on the current dataset and save it, not yet registered.

    Raises ``MissingData`` without data, ``SettingsError`` for an unknown profile, ``DataError``
    where history is too short for the backtest windows.
    """
    chosen = settings.profile(profile)
    info = current_dataset(settings)
    build_panel(info, settings.thread_count, report)
    panel = open_panel(info)
    report(f"features: 46 for every open day of {info.stores:,} stores")
    examples = draw_examples(panel, settings.history_days, settings.seed)
    outcomes = backtest(settings, panel, examples, chosen, report, later=settings.later_windows)
    scores = [score(outcome) for outcome in outcomes]
    table = calibrate_windows(outcomes)
    report("final fit on all of history")
    members = fit_members(examples, chosen, settings.seed, settings.thread_count, report)
    card = make_card(settings, profile, panel, len(examples.sold), outcomes, table)
    card["totals"] = calibrate_totals(panel, outcomes, table)
    ensemble = Ensemble(members, card)
    with new_folder(trained_dir(settings)) as place:
        ensemble.save(place.draft)
        write_evidence(place.draft, collect(outcomes))
        write_windows(place.draft, scores)
        write_report(place.draft, card, scores)
        report_html.write(place.draft, summarize(panel, outcomes, about(profile, panel)))
    return Trained(place.folder, ensemble.card, scores)


def about(profile: str, panel: Panel) -> dict[str, Any]:
    """What a fit was made with and from: the profile and the data, as JSON."""
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
    outcomes: list[Outcome],
    intervals: dict[str, Any],
) -> dict[str, Any]:
    """What a version is and comes from, as JSON."""
    chosen = settings.profile(profile)
    return {
        "model": "rossmann-ensemble",
        **described(settings, profile, panel.info.version),
        "params": {**chosen.model_dump(), "seed": settings.seed, "horizon": MAX_HORIZON,
                   "history_days": settings.history_days, "training_rows": rows,
                   "threads": settings.thread_count},
        "weights": chosen.weights,
        "features": list(FEATURES),
        "fingerprint": feature_fingerprint(),
        **about(profile, panel),
        "intervals": intervals,
        CORRECTION: calibrate_bias(outcomes),
        "metrics": {
            "windows": [score(outcome).as_dict() for outcome in outcomes],
            "coverage": measure_coverage(outcomes),
            "totals_bias": measure_bias(outcomes),
        },
        "trained": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip
