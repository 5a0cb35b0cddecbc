"""A store that joins starts from what established stores look like as of its first day."""

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from rossmann.data.make_dataset import make_dataset
from rossmann.data.panel.panel import Panel, in_memory_panel
from rossmann.epoch_days import to_date
from rossmann.features import cold_start as newcomers
from rossmann.features import state_space
from rossmann.schema import OFFSET_COLUMN
from rossmann.settings import Settings

Tables = dict[str, pl.DataFrame]
NEW = 3
"""Stores that join; the rest were there from the start."""
YOUNG = 10
"""Days of sales that they have at the end."""


@pytest.fixture(scope="module")
def tables(chain_settings: Settings, panel: Panel) -> Tables:
    """Sixteen stores, of which the first three join ten days before the end, one never."""
    folder = make_dataset(chain_settings).folder
    found = {n: pl.read_parquet(folder / f"{n}.parquet") for n in ("history", "schedule", "stores")}
    some = panel.store_numbers[:16].tolist()
    found = {name: frame.filter(pl.col("Store").is_in(some)) for name, frame in found.items()}
    start = to_date(panel.last_day) - timedelta(YOUNG)
    early = pl.col("Store").is_in(some[:NEW]) & (pl.col("Date") <= start)
    never = pl.col("Store") == some[0]
    return {**found, "history": found["history"].filter(~early & ~never)}


@pytest.fixture(scope="module")
def young(tables: Tables, panel: Panel) -> Panel:
    return in_memory_panel(panel.info, tables)


def test_old_stores_do_not_notice(young: Panel, tables: Tables, panel: Panel) -> None:
    """Who joins changes no bit of the states of those who were there."""
    new = young.store_numbers[:NEW].tolist()
    without = {name: frame.filter(~pl.col("Store").is_in(new)) for name, frame in tables.items()}
    alone = in_memory_panel(panel.info, without).arrays.states
    assert alone.tobytes() == np.ascontiguousarray(young.arrays.states[:, NEW:]).tobytes()


def test_a_store_without_sales_is_the_mean_of_its_kind(young: Panel, tables: Tables) -> None:
    kind = tables["stores"]["StoreType"].to_numpy() * 3 + tables["stores"]["Assortment"].to_numpy()
    states = young.arrays.states[-1].astype(np.float64)
    old = np.arange(NEW, len(kind))
    like = old[kind[old] == kind[0]]
    n, weight = len(like), newcomers.KIND_WEIGHT
    chain = states[old].sum(axis=0) / (1 + len(old))
    for at, *_ in state_space.FILTERS:  # one store's worth of the fixed prior
        chain[at + state_space.PROMOTION] += newcomers.PROMO_PRIOR_MEAN / (1 + len(old))
    mean = (states[like].sum(axis=0) + weight * chain) / (n + weight)
    at = [k for k in range(state_space.N_STATES) if k not in LEVELS]
    assert states[0][at] == pytest.approx(mean[at], abs=1e-4)


LEVELS = [at + state_space.LEVEL for at, *_ in state_space.FILTERS]


def test_the_prior_is_the_covariance_of_what_is_known() -> None:
    rng = np.random.default_rng(3)
    state = rng.normal(size=(400, state_space.N_STATES)).astype(np.float32)
    seen = np.where(np.arange(400) < 300, newcomers.ESTABLISHED_DAYS, 5).astype(np.int16)
    fixed = state_space.prior_variances()
    at, size = state_space.KFC, state_space.N_BASE + state_space.N_HARMONICS
    found = newcomers.prior_covariance(state, seen, fixed, at, size)
    known = np.cov(state[:300, at : at + size].T.astype(np.float64), bias=True)
    share = 300 / (300 + newcomers.PRIOR_WEIGHT)
    wanted = share * (known + newcomers.VARIANCE_FLOOR * np.eye(size)) + (1 - share) * np.diag(
        fixed[:size]
    )
    assert found == pytest.approx(wanted, abs=1e-9)
    assert (np.linalg.eigvalsh(found) > 0).all()
    nobody = newcomers.prior_covariance(state, np.zeros_like(seen), fixed, at, size)
    assert nobody == pytest.approx(np.diag(fixed[:size]))


def test_sales_after_the_origin_do_not_tell_what_stores_are_like(
    young: Panel, tables: Tables, panel: Panel
) -> None:
    origin = young.last_day - 4
    future = (pl.col("Date") > to_date(origin)) & (pl.col("Sales") > 0)
    history = tables["history"].with_columns(
        pl.when(future)
        .then(pl.col("Sales") * 3 + 17)
        .otherwise("Sales")
        .cast(pl.Int32)
        .alias("Sales")
    )
    other = in_memory_panel(panel.info, {**tables, "history": history})
    for store in young.store_numbers[: NEW + 2]:
        rows = young.store_schedule(int(store), np.arange(origin + 1, origin + 49))
        assert young.matrix(rows, origin).tobytes() == other.matrix(rows, origin).tobytes()
        later = young.last_day
        rows = young.store_schedule(int(store), np.arange(later + 1, later + 20))
        changed = (
            young.matrix(rows, later)[:, OFFSET_COLUMN]
            != other.matrix(rows, later)[:, OFFSET_COLUMN]
        )
        assert changed.any()


def test_without_newcomers_nothing_is_joined(panel: Panel) -> None:
    y = panel.arrays.log_sales
    first, there = newcomers.first_sales_day(y), newcomers.first_established_day(y)
    counts = np.cumsum(~np.isnan(y), axis=1)
    assert (counts[:, there].max() == newcomers.ESTABLISHED_DAYS) and (
        there == 0 or counts[:, there - 1].max() == newcomers.ESTABLISHED_DAYS - 1
    )
    for s in range(len(first)):
        assert first[s] == np.flatnonzero(~np.isnan(y[s]))[0]
