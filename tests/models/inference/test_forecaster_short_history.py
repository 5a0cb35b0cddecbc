"""Forecasts of stores with short or interrupted history: level, accuracy, warnings."""

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from rossmann.data.make_dataset import make_dataset
from rossmann.data.panel.panel import Panel, open_panel
from rossmann.epoch_days import to_date
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.evaluation.backtest import BacktestWindow, build_windows
from rossmann.models.inference.forecaster import Forecast, Forecaster, ForecastRequest
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.schema import FEATURES, SHORT_HISTORY, FloatArray
from rossmann.settings import Settings
from tests.fixtures.panels import in_memory_panel

Tables = dict[str, pl.DataFrame]
N_STORES = 8
"""Stores whose history is removed, of 40."""


@pytest.fixture(scope="module")
def ensemble(trained: TrainedModel) -> Ensemble:
    return Ensemble.load(trained.folder)


@pytest.fixture(scope="module")
def tables(panel: Panel) -> Tables:
    folder = panel.info.folder
    return {n: pl.read_parquet(folder / f"{n}.parquet") for n in ("history", "schedule", "stores")}


@pytest.fixture(scope="module")
def window(panel: Panel) -> BacktestWindow:
    """The last 48 days of history of the first stores."""
    (full,) = build_windows(panel, (48,), 48, 31)
    indices = np.nonzero(np.isin(full.rows.store, panel.store_numbers[:N_STORES]))[0]
    return BacktestWindow(
        full.origin, 48, full.rows.take(indices), full.sold[indices], full.matrix[indices]
    )


def without_history(panel: Panel, tables: Tables, origin: int, first: int, last: int = 0) -> Panel:
    """The chain without the stores' rows from ``first`` days to ``last`` days before the origin."""
    day = to_date(origin)
    is_removed = (
        pl.col("Store").is_in(panel.store_numbers[:N_STORES].tolist())
        & (pl.col("Date") > day - timedelta(first))
        & (pl.col("Date") <= day - timedelta(last))
    )
    return in_memory_panel(
        panel.info, {**tables, "history": tables["history"].filter(~is_removed)}, 2
    )


def forecast_window(panel: Panel, ensemble: Ensemble, window: BacktestWindow) -> Forecast:
    forecast = Forecaster(panel, ensemble).forecast(
        ForecastRequest(window.rows, as_of=window.origin, levels=(0.8,))
    )
    assert np.isfinite(forecast.sales).all()
    (interval,) = forecast.intervals
    assert (interval.lower < forecast.sales).all()
    assert (forecast.sales < interval.upper).all()
    return forecast


def median_log_error(window: BacktestWindow, sales: FloatArray) -> float:
    """Median of the absolute log error."""
    return float(np.median(np.abs(np.log(sales / window.sold))))


def test_new_store_is_forecast_at_the_level_of_the_chain(
    panel: Panel, ensemble: Ensemble, tables: Tables, window: BacktestWindow
) -> None:
    new_panel = without_history(panel, tables, window.origin, 10_000)
    assert (
        new_panel.warning_flags(window.rows, window.origin, min_days=1) & SHORT_HISTORY > 0
    ).all()
    forecast = forecast_window(new_panel, ensemble, window)
    _, sold = panel.sales_rows()
    level = float(np.median(sold))
    assert 0.4 * level < forecast.sales.min()
    assert forecast.sales.max() < 4 * level
    short = next(w for w in forecast.warnings if w.type == "short_history")
    assert short.count == len(window.rows)


@pytest.mark.parametrize("days", [1, 3, 7, 14, 30, 60])
def test_some_days_of_sales_improve_the_forecast(
    panel: Panel, ensemble: Ensemble, tables: Tables, window: BacktestWindow, days: int
) -> None:
    young_panel = without_history(panel, tables, window.origin, 10_000, days)
    forecast = forecast_window(young_panel, ensemble, window)
    unknown = forecast_window(
        without_history(panel, tables, window.origin, 10_000), ensemble, window
    )
    ratio = forecast.sales / window.sold
    assert ratio.min() > 0.15
    assert ratio.max() < 6
    if days >= 3:  # a single day, perhaps a Sunday, says little
        assert median_log_error(window, forecast.sales) < median_log_error(window, unknown.sales)
    if days >= 7:
        assert median_log_error(window, forecast.sales) < 0.25
    warning_types = {w.type for w in forecast.warnings}
    assert ("short_history" in warning_types) == (days < 31)


@pytest.mark.parametrize("days", [7, 14])
def test_young_store_is_forecast_by_the_filter_only(
    panel: Panel, ensemble: Ensemble, tables: Tables, window: BacktestWindow, days: int
) -> None:
    """With a week or two of sales, which members were not trained on."""
    young_panel = without_history(panel, tables, window.origin, 10_000, days)
    matrix = young_panel.matrix(window.rows, window.origin)
    filtered = np.exp(matrix[:, FEATURES.index("kfb")].astype(np.float64))
    assert forecast_window(young_panel, ensemble, window).sales == pytest.approx(filtered)


def test_reopened_store_is_forecast_at_its_earlier_level(
    panel: Panel, ensemble: Ensemble, tables: Tables, window: BacktestWindow
) -> None:
    """Half a year without a row, then five days."""
    reopened_panel = without_history(panel, tables, window.origin, 187, 5)
    forecast = forecast_window(reopened_panel, ensemble, window)
    full = forecast_window(panel, ensemble, window)
    assert median_log_error(window, forecast.sales) < median_log_error(window, full.sales) + 0.06
    assert np.abs(np.log(forecast.sales / full.sales)).max() < 1.0


@pytest.mark.parametrize(
    ("first", "last", "idle"),
    [
        (187, 0, 187),  # the origin is the end of half a year without sales
        (100, 0, 100),  # in the middle of it
        (187, 5, 182),  # shortly after it
        (187, 20, 167),
        (187, 60, 0),  # long after it: enough new sales
        (12, 0, 0),  # a short closure gives no warning
    ],
)
def test_long_closure_gives_a_reopened_warning(
    panel: Panel, ensemble: Ensemble, tables: Tables, window: BacktestWindow,
    first: int, last: int, idle: int,
) -> None:  # fmt: skip
    panel_with_gap = without_history(panel, tables, window.origin, first, last)
    forecast = forecast_window(panel_with_gap, ensemble, window)
    ratio = forecast.sales / window.sold
    assert ratio.min() > 0.2
    assert ratio.max() < 5
    reopened = [w for w in forecast.warnings if w.type == "reopened"]
    indices = panel_with_gap.store_indices(window.rows.store)
    days = panel_with_gap.idle_days(indices, window.origin, 31)
    if idle:
        (warning,) = reopened
        assert warning.count == len(window.rows)
        # Sundays next to the gap have no sales either; one store has an earlier gap.
        assert idle - 3 <= days.min()
        assert np.median(days) <= idle + 3
        assert f"up to {days.max()} days" in warning.msg
    else:
        assert not reopened


def test_store_with_metadata_only_is_forecast(
    panel: Panel, ensemble: Ensemble, tables: Tables
) -> None:
    """A store without rows in history and schedule."""
    store = int(panel.store_numbers[0])
    others = {
        name: frame if name == "stores" else frame.filter(pl.col("Store") != store)
        for name, frame in tables.items()
    }
    chain = in_memory_panel(panel.info, others, 2)
    rows = chain.store_schedule(store, np.arange(panel.last_day + 1, panel.last_day + 49))
    forecast = Forecaster(chain, ensemble).forecast(ForecastRequest(rows, levels=(0.8,)))
    is_open = rows.open > 0
    level = float(np.median(panel.sales_rows()[1]))
    assert is_open.sum() > 30
    assert (forecast.sales[~is_open] == 0).all()
    assert 0.3 * level < forecast.sales[is_open].min()
    assert forecast.sales[is_open].max() < 4 * level
    counts = {w.type: w.count for w in forecast.warnings}
    assert counts["short_history"] == len(rows)
    assert "reopened" not in counts


def test_small_chain_beats_the_baseline_and_has_plausible_forecasts(
    small_chain: Settings, small_chain_trained: TrainedModel
) -> None:
    for score in small_chain_trained.windows:
        assert score.rmspe["ensemble"] < score.rmspe["seasonal_naive"]
    panel = open_panel(make_dataset(small_chain))
    (window,) = build_windows(panel, (48,), 48, 31)
    forecast = forecast_window(panel, Ensemble.load(small_chain_trained.folder), window)
    ratio = forecast.sales / window.sold
    assert ratio.min() > 0.3
    assert ratio.max() < 3
