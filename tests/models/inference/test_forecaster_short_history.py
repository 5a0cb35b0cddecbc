"""Where history is short the forecast bends: it stays near what was sold, and a warning says so."""

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
STORES = 8
"""Stores of the chain that lose their past, of 40."""


@pytest.fixture(scope="module")
def ensemble(trained: TrainedModel) -> Ensemble:
    return Ensemble.load(trained.folder)


@pytest.fixture(scope="module")
def tables(panel: Panel) -> Tables:
    folder = panel.info.folder
    return {n: pl.read_parquet(folder / f"{n}.parquet") for n in ("history", "schedule", "stores")}


@pytest.fixture(scope="module")
def window(panel: Panel) -> BacktestWindow:
    """What some stores sold on the last 48 days of history."""
    (whole,) = build_windows(panel, (48,), 48, 31)
    mine = np.nonzero(np.isin(whole.rows.store, panel.store_numbers[:STORES]))[0]
    return BacktestWindow(
        whole.origin, 48, whole.rows.take(mine), whole.sold[mine], whole.matrix[mine]
    )


def forget(panel: Panel, tables: Tables, origin: int, first: int, last: int = 0) -> Panel:
    """The chain without the stores' rows from ``first`` days to ``last`` days before the origin."""
    day = to_date(origin)
    gone = (
        pl.col("Store").is_in(panel.store_numbers[:STORES].tolist())
        & (pl.col("Date") > day - timedelta(first))
        & (pl.col("Date") <= day - timedelta(last))
    )
    return in_memory_panel(panel.info, {**tables, "history": tables["history"].filter(~gone)}, 2)


def answer(panel: Panel, ensemble: Ensemble, window: BacktestWindow) -> Forecast:
    found = Forecaster(panel, ensemble).forecast(
        ForecastRequest(window.rows, as_of=window.origin, levels=(0.8,))
    )
    assert np.isfinite(found.sales).all()
    (band,) = found.intervals
    assert (band.lower < found.sales).all()
    assert (found.sales < band.upper).all()
    return found


def miss(window: BacktestWindow, sales: FloatArray) -> float:
    """Median of the absolute log error."""
    return float(np.median(np.abs(np.log(sales / window.sold))))


def test_a_new_store_gets_the_chains_level(
    panel: Panel, ensemble: Ensemble, tables: Tables, window: BacktestWindow
) -> None:
    new = forget(panel, tables, window.origin, 10_000)
    assert (new.warning_flags(window.rows, window.origin, min_days=1) & SHORT_HISTORY > 0).all()
    found = answer(new, ensemble, window)
    _, sold = panel.sales_rows()
    level = float(np.median(sold))
    assert 0.4 * level < found.sales.min()
    assert found.sales.max() < 4 * level
    short = next(w for w in found.warnings if w.type == "short_history")
    assert short.count == len(window.rows)


@pytest.mark.parametrize("days", [1, 3, 7, 14, 30, 60])
def test_a_young_store_is_forecast_better_than_an_unknown_one(
    panel: Panel, ensemble: Ensemble, tables: Tables, window: BacktestWindow, days: int
) -> None:
    young = forget(panel, tables, window.origin, 10_000, days)
    found = answer(young, ensemble, window)
    nothing = answer(forget(panel, tables, window.origin, 10_000), ensemble, window)
    ratio = found.sales / window.sold
    assert ratio.min() > 0.15
    assert ratio.max() < 6
    if days >= 3:  # one day, perhaps a Sunday, says next to nothing
        assert miss(window, found.sales) < miss(window, nothing.sales)
    if days >= 7:
        assert miss(window, found.sales) < 0.25
    warned = {w.type for w in found.warnings}
    assert ("short_history" in warned) == (days < 31)


@pytest.mark.parametrize("days", [7, 14])
def test_members_do_not_spoil_a_young_store(
    panel: Panel, ensemble: Ensemble, tables: Tables, window: BacktestWindow, days: int
) -> None:
    """With a week or two of sales the answer is the filter's, as members never saw the like."""
    young = forget(panel, tables, window.origin, 10_000, days)
    matrix = young.matrix(window.rows, window.origin)
    filtered = np.exp(matrix[:, FEATURES.index("kfb")].astype(np.float64))
    assert answer(young, ensemble, window).sales == pytest.approx(filtered)


def test_a_store_that_reopened_keeps_its_level(
    panel: Panel, ensemble: Ensemble, tables: Tables, window: BacktestWindow
) -> None:
    """Half a year without a row, then five days: what it sold before still counts."""
    back = forget(panel, tables, window.origin, 187, 5)
    found = answer(back, ensemble, window)
    whole = answer(panel, ensemble, window)
    assert miss(window, found.sales) < miss(window, whole.sales) + 0.06
    assert np.abs(np.log(found.sales / whole.sales)).max() < 1.0


@pytest.mark.parametrize(
    ("first", "last", "away"),
    [
        (187, 0, 187),  # the origin lies at the end of half a year without sales
        (100, 0, 100),  # and in its middle
        (187, 5, 182),  # and shortly after
        (187, 20, 167),
        (187, 60, 0),  # and so long after that the store has shown itself again
        (12, 0, 0),  # a holiday is no reason to warn
    ],
)
def test_a_store_that_was_away_is_named(
    panel: Panel, ensemble: Ensemble, tables: Tables, window: BacktestWindow,
    first: int, last: int, away: int,
) -> None:  # fmt: skip
    gone = forget(panel, tables, window.origin, first, last)
    found = answer(gone, ensemble, window)
    ratio = found.sales / window.sold
    assert ratio.min() > 0.2
    assert ratio.max() < 5
    told = [w for w in found.warnings if w.type == "reopened"]
    mine = gone.store_indices(window.rows.store)
    days = gone.idle_days(mine, window.origin, 31)
    if away:
        (one,) = told
        assert one.count == len(window.rows)
        # Sundays around the gap have no sales either; one store has a gap of its own before
        assert away - 3 <= days.min()
        assert np.median(days) <= away + 3
        assert f"up to {days.max()} days" in one.msg
    else:
        assert not told


def test_a_store_known_by_its_metadata_alone_is_served(
    panel: Panel, ensemble: Ensemble, tables: Tables
) -> None:
    """In the store table, with no row in history or schedule."""
    new = int(panel.store_numbers[0])
    others = {
        name: frame if name == "stores" else frame.filter(pl.col("Store") != new)
        for name, frame in tables.items()
    }
    chain = in_memory_panel(panel.info, others, 2)
    rows = chain.store_schedule(new, np.arange(panel.last_day + 1, panel.last_day + 49))
    found = Forecaster(chain, ensemble).forecast(ForecastRequest(rows, levels=(0.8,)))
    opened = rows.open > 0
    level = float(np.median(panel.sales_rows()[1]))
    assert opened.sum() > 30
    assert (found.sales[~opened] == 0).all()
    assert 0.3 * level < found.sales[opened].min()
    assert found.sales[opened].max() < 4 * level
    kinds = {w.type: w.count for w in found.warnings}
    assert kinds["short_history"] == len(rows)
    assert "reopened" not in kinds


def test_few_stores_are_a_chain(small_chain: Settings, small_chain_trained: TrainedModel) -> None:
    for score in small_chain_trained.windows:
        assert score.rmspe["ensemble"] < score.rmspe["seasonal_naive"]
    panel = open_panel(make_dataset(small_chain))
    (window,) = build_windows(panel, (48,), 48, 31)
    found = answer(panel, Ensemble.load(small_chain_trained.folder), window)
    ratio = found.sales / window.sold
    assert ratio.min() > 0.3
    assert ratio.max() < 3
