"""Cold start: a new store gets its prior from established stores as of its first day."""

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from rossmann.data.make_dataset import make_dataset
from rossmann.data.panel.panel import Panel
from rossmann.epoch_days import to_date
from rossmann.features import cold_start, state_space
from rossmann.schema import OFFSET_COLUMN
from rossmann.settings import Settings
from tests.fixtures.panels import in_memory_panel

Tables = dict[str, pl.DataFrame]
N_NEW = 3
"""Number of stores without early sales; the others have sales from the first day."""
NEW_STORE_DAYS = 10
"""Days of sales of the new stores, at the end of history."""


@pytest.fixture(scope="module")
def tables(chain_settings: Settings, panel: Panel) -> Tables:
    """Sixteen stores: the first has no sales, the next two have ten days of sales."""
    folder = make_dataset(chain_settings).folder
    frames = {
        n: pl.read_parquet(folder / f"{n}.parquet") for n in ("history", "schedule", "stores")
    }
    numbers = panel.store_numbers[:16].tolist()
    frames = {name: f.filter(pl.col("Store").is_in(numbers)) for name, f in frames.items()}
    start = to_date(panel.last_day) - timedelta(NEW_STORE_DAYS)
    early = pl.col("Store").is_in(numbers[:N_NEW]) & (pl.col("Date") <= start)
    never = pl.col("Store") == numbers[0]
    return {**frames, "history": frames["history"].filter(~early & ~never)}


@pytest.fixture(scope="module")
def joined(tables: Tables, panel: Panel) -> Panel:
    return in_memory_panel(panel.info, tables)


def test_new_stores_do_not_change_established_states(
    joined: Panel, tables: Tables, panel: Panel
) -> None:
    new = joined.store_numbers[:N_NEW].tolist()
    without = {name: frame.filter(~pl.col("Store").is_in(new)) for name, frame in tables.items()}
    without_new = in_memory_panel(panel.info, without).arrays.states
    assert without_new.tobytes() == np.ascontiguousarray(joined.arrays.states[:, N_NEW:]).tobytes()


def test_store_without_sales_has_the_mean_state_of_its_store_type(
    joined: Panel, tables: Tables
) -> None:
    group = tables["stores"]["StoreType"].to_numpy() * 3 + tables["stores"]["Assortment"].to_numpy()
    states = joined.arrays.states[-1].astype(np.float64)
    old = np.arange(N_NEW, len(group))
    same_group = old[group[old] == group[0]]
    n, weight = len(same_group), cold_start.KIND_WEIGHT
    chain = states[old].sum(axis=0) / (1 + len(old))
    for at, *_ in state_space.FILTERS:  # one store's worth of the fixed prior
        chain[at + state_space.PROMOTION] += state_space.PROMO_PRIOR_MEAN / (1 + len(old))
    mean = (states[same_group].sum(axis=0) + weight * chain) / (n + weight)
    at = [k for k in range(state_space.N_STATES) if k not in LEVELS]
    assert states[0][at] == pytest.approx(mean[at], abs=1e-4)


LEVELS = [at + state_space.LEVEL for at, *_ in state_space.FILTERS]


def test_prior_covariance_is_that_of_established_stores() -> None:
    rng = np.random.default_rng(3)
    state = rng.normal(size=(400, state_space.N_STATES)).astype(np.float32)
    sales_days = np.where(np.arange(400) < 300, cold_start.ESTABLISHED_DAYS, 5).astype(np.int16)
    fixed = state_space.prior_variances()
    at, size = state_space.KFC, state_space.N_BASE + state_space.N_HARMONICS
    covariance = cold_start.prior_covariance(state[:, at : at + size], sales_days, fixed)
    known = np.cov(state[:300, at : at + size].T.astype(np.float64), bias=True)
    share = 300 / (300 + cold_start.PRIOR_WEIGHT)
    expected = share * (known + cold_start.VARIANCE_FLOOR * np.eye(size)) + (1 - share) * np.diag(
        fixed[:size]
    )
    assert covariance == pytest.approx(expected, abs=1e-9)
    assert (np.linalg.eigvalsh(covariance) > 0).all()
    fallback = cold_start.prior_covariance(
        state[:, at : at + size], np.zeros_like(sales_days), fixed
    )
    assert fallback == pytest.approx(np.diag(fixed[:size]))


def test_priors_do_not_depend_on_sales_after_the_origin(
    joined: Panel, tables: Tables, panel: Panel
) -> None:
    origin = joined.last_day - 4
    future = (pl.col("Date") > to_date(origin)) & (pl.col("Sales") > 0)
    history = tables["history"].with_columns(
        pl.when(future)
        .then(pl.col("Sales") * 3 + 17)
        .otherwise("Sales")
        .cast(pl.Int32)
        .alias("Sales")
    )
    other = in_memory_panel(panel.info, {**tables, "history": history})
    for store in joined.store_numbers[: N_NEW + 2]:
        rows = joined.store_schedule(int(store), np.arange(origin + 1, origin + 49))
        assert joined.matrix(rows, origin).tobytes() == other.matrix(rows, origin).tobytes()
        later = joined.last_day
        rows = joined.store_schedule(int(store), np.arange(later + 1, later + 20))
        changed = (
            joined.matrix(rows, later)[:, OFFSET_COLUMN]
            != other.matrix(rows, later)[:, OFFSET_COLUMN]
        )
        assert changed.any()


def test_first_sales_and_first_established_day(panel: Panel) -> None:
    y = panel.arrays.log_sales
    first, established = cold_start.first_sales_day(y), cold_start.first_established_day(y)
    counts = np.cumsum(~np.isnan(y), axis=1)
    assert (counts[:, established].max() == cold_start.ESTABLISHED_DAYS) and (
        established == 0 or counts[:, established - 1].max() == cold_start.ESTABLISHED_DAYS - 1
    )
    for s in range(len(first)):
        assert first[s] == np.flatnonzero(~np.isnan(y[s]))[0]
