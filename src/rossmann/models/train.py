"""Training: fit the members by the measured scheme, backtest, blend, save."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rossmann.data.make_dataset import current_dataset
from rossmann.data.panel import Panel, build_panel, open_panel
from rossmann.models import report_html
from rossmann.models.backtest import (
    Outcome,
    WindowScore,
    forecast_window,
    later_windows,
    open_windows,
    score,
)
from rossmann.models.backtest_slices import summarize
from rossmann.models.coverage import calibrate_windows, measure_coverage
from rossmann.models.ensemble import Ensemble
from rossmann.models.evidence import collect, write_evidence
from rossmann.models.examples import Examples, draw_examples
from rossmann.models.lineage import described
from rossmann.models.member import Member
from rossmann.models.members import MEMBERS, seeds
from rossmann.models.metrics import rmspe
from rossmann.models.objective import CORRECTION, calibrate_bias, measure_bias
from rossmann.models.report import write_report
from rossmann.models.totals_past import calibrate_totals
from rossmann.models.trained_folders import new_folder, trained_dir, write_windows
from rossmann.schema import FEATURES, MAX_HORIZON, feature_fingerprint
from rossmann.settings import Profile, Settings

Report = Callable[[str], None]


@dataclass(frozen=True)
class Trained:
    """A trained version on disk: the ensemble's folder, its card and its windows."""

    folder: Path
    card: dict[str, Any]
    windows: list[WindowScore]


def fit_members(
    examples: Examples, profile: Profile, seed: int, threads: int, report: Report
) -> dict[str, Member]:
    """Fit each member of the profile, on a sample of its size where it names one."""
    if profile.rows and len(examples.sold) > profile.rows:
        chosen = np.random.default_rng(seed).choice(len(examples.sold), profile.rows, replace=False)
        examples = examples.take(np.sort(chosen))
    members: dict[str, Member] = {}
    for name, params in profile.members.items():
        begun = time.perf_counter()
        members[name] = MEMBERS[name].fit(
            examples.matrix, examples.sold, params, seeds(seed)[name], threads, lambda share: None
        )
        took = time.perf_counter() - begun
        report(f"  {name}: {len(examples.sold):,} rows, {took:.1f} s")
    return members


def backtest(
    settings: Settings,
    panel: Panel,
    examples: Examples,
    profile: Profile,
    report: Report,
    ends: Sequence[int] = (),
    days: int = 0,
    later: int = 0,
) -> list[Outcome]:
    """Fit as of each window's origin and forecast it, oldest first.

    ``ends``: the origins as days before the last day of history, ``days``: the windows' length;
    empty and 0 take the settings'. ``later``: windows that each fit forecasts after its own, as
    far as no newer fit saw them.
    """
    outcomes = []
    examples.prepare(profile.rows)
    windows = open_windows(
        panel, ends or settings.windows, days or settings.window_days, settings.history_days
    )
    for window in windows:
        report(f"backtest from {window.origin_date}, {window.days} days")
        members = fit_members(
            examples.until(window.origin), profile, settings.seed, settings.thread_count, report
        )
        ensemble = Ensemble(members, {"weights": profile.weights})
        found = forecast_window(panel, window, ensemble, settings.thread_count)
        after = later_windows(panel, windows, window, later, settings.history_days)
        outcomes.append(
            Outcome(
                window,
                found,
                tuple(
                    Outcome(w, {"ensemble": ensemble.predict(w.matrix, settings.thread_count)})
                    for w in after
                ),
            )
        )
        report(f"  RMSPE {rmspe(window.sold, found['ensemble']):.4f}")
    return outcomes


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
