"""Run of a fev-bench task: fits as of each origin, forecasts through the path that serves, scores.

A window is forecast by a version as training would make it at its origin, with one difference: its
filter weights and intervals come from the other windows of the task, later ones too, or from the
earlier ones only (``forward``). No figure depends on the sales of the window that it judges.

Fits are kept in a folder, by all that decides their result, so that a second run takes seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from rossmann.data.make_dataset import DatasetInfo
from rossmann.data.panel.panel import Panel
from rossmann.epoch_days import to_date
from rossmann.errors import CorruptModelError, DataError
from rossmann.filesystem.atomic_write import staging_folder
from rossmann.models.benchmark.fev_task import (
    DAILY,
    QUANTILES,
    FevTask,
    ScoredSteps,
    score,
    scored_steps,
    seasonal_naive,
    share_below,
    window_rows,
)
from rossmann.models.calibration.filter_weights import cross_validate_filter_weights
from rossmann.models.ensemble.ensemble import FILTER_WEIGHTS_KEY, Ensemble
from rossmann.models.evaluation.backtest import MemberOutputs, WindowForecasts, build_windows
from rossmann.models.evaluation.metrics import rmspe
from rossmann.models.inference.forecaster import Forecaster, ForecastRequest
from rossmann.models.inference.totals import forecast_totals
from rossmann.models.members.fit import (
    TrainingRows,
    first_training_day,
    fit_members,
    sample_training_rows,
)
from rossmann.models.registry.lineage import fit_fingerprint
from rossmann.models.training.train import learned_tables
from rossmann.schema import MAX_HORIZON, Dataset, FloatArray, ProgressReporter, feature_fingerprint
from rossmann.settings import Settings

CACHE_FOLDER: Final = "benchmarks"
_OUTPUTS_FILE: Final = "outputs.npz"
_MIN_WINDOWS: Final = 3
_PUBLIC_DAYS: Final = 19
"""Days of a window before those that the competition's private part most likely had."""
_COMPETITION_WINDOWS: Final = 3


@dataclass(frozen=True)
class Setup:
    """What the fits of a run share."""

    settings: Settings
    panel: Panel
    profile: str
    report: ProgressReporter

    @property
    def weights(self) -> dict[str, float]:
        """Of the members."""
        return self.settings.profile(self.profile).weights

    @property
    def first_day(self) -> int:
        """Of the rows for training."""
        return first_training_day(self.panel, self.settings.history_days)


@dataclass(frozen=True)
class FittedWindow:
    """A fit as of an origin, and its members' outputs on the days that its blend is judged on."""

    ensemble: Ensemble
    outcome: WindowForecasts

    @property
    def origin(self) -> int:
        """In days since 1970-01-01."""
        return self.outcome.window.origin


def run_benchmark(setup: Setup, tasks: Sequence[FevTask]) -> dict[str, Any]:
    """The scores of each task, and figures like those of the Kaggle competition, as JSON.

    Raises ``DataError`` where the tables hold fewer than three windows of a task.
    """
    info, results, competition = setup.panel.info, [], []
    for task in tasks:
        fitted = fit_windows(setup, _held_origins(setup, task))
        results.append(_score_task(setup, task, fitted))
        if task is DAILY and info.dataset is Dataset.REAL:
            stores = _competition_stores(info)
            competition = _competition_figures(setup, stores, fitted)[-_COMPETITION_WINDOWS:]
    data = {"dataset": info.dataset.value, "version": info.version}
    return {"profile": setup.profile, "data": data, "tasks": results, "competition": competition}


def _held_origins(setup: Setup, task: FevTask) -> list[int]:
    origins = task.origins(setup.panel)
    if len(origins) < _MIN_WINDOWS:
        raise DataError(
            f"{task.name} needs sales of {_MIN_WINDOWS} of its windows, as each is calibrated on"
            f" others: the tables hold {len(origins)}, and end on {to_date(setup.panel.last_day)}."
            " Ingest later sales, or choose the other task with --task"
        )
    return origins


def _score_task(setup: Setup, task: FevTask, fitted: Sequence[FittedWindow]) -> dict[str, Any]:
    windows = []
    for one in fitted:
        setup.report(f"{task.name} from {to_date(one.origin)}: forecasts and scores")
        others = [other for other in fitted if other is not one]
        earlier = [other for other in fitted if other.origin < one.origin]
        windows.append(_judge(setup, task, one, others, earlier))
    return {
        "task": task.name,
        "windows": windows,
        "windows_of_task": task.windows,
        "mean": {
            name: _mean([window[name] for window in windows])
            for name in ("scores", "below", "forward", "seasonal_naive")
        },
    }


def fit_windows(setup: Setup, origins: Sequence[int]) -> list[FittedWindow]:
    """A fit as of each origin, from the cache or new."""
    settings, panel = setup.settings, setup.panel
    examples: TrainingRows | None = None
    fitted = []
    for window in build_windows(
        panel, [panel.last_day - o for o in origins], MAX_HORIZON, settings.history_days
    ):
        folder = _cache_folder(setup) / window.origin_date.isoformat()
        try:
            ensemble = Ensemble.load(folder)
            factors = _read_outputs(folder, len(window.sold))
        except (CorruptModelError, OSError, KeyError, ValueError):
            if examples is None:
                examples = sample_training_rows(panel, settings.history_days, settings.seed)
            setup.report(f"fit as of {window.origin_date}")
            known = examples.known_at(window.origin)
            ensemble, factors = _fit(setup, known, window.matrix, folder)
        outputs = MemberOutputs(window.matrix, factors)
        blended = outputs.blend({"weights": setup.weights})
        fitted.append(
            FittedWindow(
                ensemble, WindowForecasts(window, {"ensemble": blended}, {"ensemble": outputs})
            )
        )
    return fitted


def _fit(
    setup: Setup, known: TrainingRows, matrix: Any, folder: Path
) -> tuple[Ensemble, dict[str, FloatArray]]:
    """Fit, and write the fit and its outputs on ``matrix`` (n, 46) into ``folder`` in one step."""
    settings, params = setup.settings, setup.settings.profile(setup.profile)
    threads = settings.thread_count
    members = fit_members(known, params, settings.seed, threads, setup.report)
    card = {"weights": params.weights, "fingerprint": feature_fingerprint()}
    ensemble = Ensemble(members, card)
    factors = ensemble.log_factors(matrix, threads)
    with staging_folder(folder.parent) as draft:
        ensemble.save(draft)
        np.savez(draft / _OUTPUTS_FILE, **factors)  # type: ignore[arg-type]  # numpy's stub
        if not folder.exists():
            draft.rename(folder)
    return ensemble, factors


def _read_outputs(folder: Path, rows: int) -> dict[str, FloatArray]:
    with np.load(folder / _OUTPUTS_FILE, allow_pickle=False) as stored:
        factors = {name: np.asarray(stored[name], np.float64) for name in stored.files}
    if any(len(factor) != rows for factor in factors.values()):
        raise ValueError("outputs of other rows")
    return factors


def _cache_folder(setup: Setup) -> Path:
    settings = setup.settings
    fingerprint = fit_fingerprint(settings, setup.profile, setup.panel.info.version)
    return settings.data_dir / CACHE_FOLDER / fingerprint


def _judge(
    setup: Setup,
    task: FevTask,
    one: FittedWindow,
    others: Sequence[FittedWindow],
    earlier: Sequence[FittedWindow],
) -> dict[str, Any]:
    """The scores of a window by versions that were calibrated on other windows."""
    steps = scored_steps(setup.panel, task, one.origin)
    card = _calibrated_card(setup, one, others)
    forecast, quantiles = _forecast(setup, task, one, card, steps)
    scores = {"scores": score(steps, forecast, quantiles), "below": share_below(steps, quantiles)}
    forward_card = _calibrated_card(setup, one, earlier) if len(earlier) > 1 else None
    if forward_card is not None:
        forward = score(steps, *_forecast(setup, task, one, forward_card, steps))
    else:  # nothing to calibrate on: the members as they are, and no quantiles
        plain = {**card, FILTER_WEIGHTS_KEY: {}}
        forward = score(steps, *_forecast(setup, task, one, plain, steps))
        forward = {name: forward[name] for name in ("MASE", "WAPE")}
    naive = seasonal_naive(setup.panel, task, one.origin, steps)
    naive_scores = score(steps, naive, dict.fromkeys(QUANTILES, naive))
    return {
        "origin": to_date(one.origin).isoformat(),
        "steps": len(steps.sold),
        **scores,
        "forward": forward,
        "seasonal_naive": {name: naive_scores[name] for name in ("MASE", "WAPE")},
        "filter_weights": card[FILTER_WEIGHTS_KEY],
    }


def _calibrated_card(
    setup: Setup, one: FittedWindow, others: Sequence[FittedWindow]
) -> dict[str, Any]:
    """The card of a version whose blend, intervals and totals come from the ``others``."""
    panel, first_day, weights = setup.panel, setup.first_day, setup.weights
    outcomes = [other.outcome for other in others]
    blended = cross_validate_filter_weights(outcomes, first_day, weights)
    span, floor = (first_day, one.origin), setup.settings.chain_floor
    return {
        **one.ensemble.card,
        **learned_tables(panel, blended, weights, span, floor),
        "data": {
            "dataset": panel.info.dataset.value,
            "first_day": panel.info.first_day.isoformat(),
            "last_day": to_date(one.origin).isoformat(),
        },
    }


def _forecast(
    setup: Setup, task: FevTask, one: FittedWindow, card: Mapping[str, Any], steps: ScoredSteps
) -> tuple[FloatArray, dict[float, FloatArray]]:
    """Point forecasts (n,) of the steps and their quantiles (n,), as the service gives them."""
    panel = setup.panel
    ensemble = Ensemble(one.ensemble.members, dict(card))
    forecaster = Forecaster(panel, ensemble, setup.settings.thread_count)
    rows = window_rows(panel, task, one.origin)
    request = ForecastRequest(rows, one.origin, quantiles=QUANTILES)
    shape = (len(panel.store_numbers), task.horizon)
    if task.step_days == 1:
        forecast = forecaster.forecast(request)
        store, step = panel.store_indices(rows.store), rows.day.astype(np.int64) - one.origin - 1
        point, levels = forecast.sales, [one.sales for one in forecast.quantiles]
    else:
        (totals,) = forecast_totals(forecaster, request, one.origin, ("store_week",))
        store = panel.store_indices(totals.store)
        step = (totals.first - one.origin - 1) // task.step_days
        point, levels = totals.sales, totals.quantiles

    def at_steps(values: FloatArray) -> FloatArray:
        grid = np.zeros(shape)
        grid[store, step] = values
        return grid[steps.store, steps.step]

    return at_steps(point), {
        level: at_steps(values) for level, values in zip(QUANTILES, levels, strict=True)
    }


def _competition_stores(info: DatasetInfo) -> list[int]:
    """The stores of ``test.csv``; all stores where the tables came without it."""
    schedule = pl.read_parquet(info.folder / "schedule.parquet", columns=["Store"])
    if not len(schedule):
        schedule = pl.read_parquet(info.folder / "stores.parquet", columns=["Store"])
    return [int(store) for store in schedule["Store"].unique().sort()]


def _competition_figures(
    setup: Setup, stores: Sequence[int], fitted: Sequence[FittedWindow]
) -> list[dict[str, Any]]:
    """RMSPE of each window as the competition's private part most likely counted it, as JSON.

    Only ``stores``, those of ``test.csv``, and days 20 to 48. The windows are blended by weights
    from the others.
    """
    outcomes = [one.outcome for one in fitted]
    blended = cross_validate_filter_weights(outcomes, setup.first_day, setup.weights)
    figures = []
    for outcome in blended:
        window, forecast = outcome.window, outcome.forecasts["ensemble"]
        late = window.rows.day > window.origin + _PUBLIC_DAYS
        rows = np.nonzero(late & np.isin(window.rows.store, np.array(stores)))[0]
        figures.append(
            {
                "origin": window.origin_date.isoformat(),
                "stores": len(np.unique(window.rows.store[rows])),
                "rows": len(rows),
                "rmspe": rmspe(window.sold[rows], forecast[rows]),
            }
        )
    return figures


def _mean(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric that all windows have."""
    names = [name for name in scores[0] if all(name in one for one in scores)]
    return {name: float(np.mean([one[name] for one in scores])) for name in names}
