"""No leakage: corrupting sales after the origin changes no bit of the features."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rossmann.data.make_dataset import make_dataset
from rossmann.data.panel.panel import Panel
from rossmann.epoch_days import to_date
from rossmann.schema import FEATURES, StoreDays
from rossmann.settings import Settings
from tests.fixtures.panels import in_memory_panel

Tables = dict[str, pl.DataFrame]


@pytest.fixture(scope="module")
def tables(chain_settings: Settings) -> Tables:
    folder = make_dataset(chain_settings).folder
    frames = {n: pl.read_parquet(folder / f"{n}.parquet") for n in ("history", "schedule")}
    stores = pl.read_parquet(folder / "stores.parquet").head(12)
    numbers = stores["Store"].implode()
    return {
        "stores": stores,
        **{name: frame.filter(pl.col("Store").is_in(numbers)) for name, frame in frames.items()},
    }


def corrupt(tables: Tables, after: int, seed: int) -> Tables:
    """Random sales and customers on every day after ``after``; the schedule is unchanged."""
    rng = np.random.default_rng(seed)
    history = tables["history"]
    n = history.height
    future = pl.col("Date") > to_date(after)
    sold = pl.col("Sales") > 0
    changed = history.with_columns(
        pl.when(future & sold).then(pl.Series(rng.integers(1, 60_000, n))).otherwise("Sales")
        .cast(pl.Int32).alias("Sales"),
        pl.when(future & sold).then(pl.Series(rng.integers(1, 5_000, n))).otherwise("Customers")
        .cast(pl.Int32).alias("Customers"),
    )  # fmt: skip
    return {**tables, "history": changed}


def rows_after(panel: Panel, origin: int, horizon: int) -> StoreDays:
    """Every store, on each day to ``horizon`` days after the origin, as planned."""
    days = np.arange(origin + 1, origin + horizon + 1)
    parts = [panel.store_schedule(int(store), days) for store in panel.store_numbers]
    return StoreDays(*(np.concatenate([getattr(p, f) for p in parts]) for f in StoreDays.__slots__))


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_features_do_not_depend_on_sales_after_the_origin(
    data: st.DataObject, tables: Tables, panel: Panel
) -> None:
    origin = data.draw(st.integers(panel.first_day, panel.last_day - 1), label="origin")
    seed = data.draw(st.integers(0, 2**16), label="seed")
    original = in_memory_panel(panel.info, tables)
    corrupted = in_memory_panel(panel.info, corrupt(tables, origin, seed))
    horizon = min(366, panel.last_day + 366 - origin)
    rows = rows_after(original, origin, horizon)
    assert original.matrix(rows, origin).tobytes() == corrupted.matrix(rows, origin).tobytes()


def test_features_depend_on_sales_up_to_the_origin(tables: Tables, panel: Panel) -> None:
    """Control for the test above, which would pass if features used no sales."""
    origin = panel.last_day - 60
    original = in_memory_panel(panel.info, tables)
    corrupted = in_memory_panel(panel.info, corrupt(tables, origin - 7, 1))
    rows = rows_after(original, origin, 48)
    changed = original.matrix(rows, origin) != corrupted.matrix(rows, origin)
    assert changed[:, -13:].any()


def test_planned_to_origin_equals_no_schedule(tables: Tables, panel: Panel) -> None:
    """Training rows with ``planned_to`` at the origin equal serving rows without a schedule."""
    origin = panel.last_day - 80
    whole = in_memory_panel(panel.info, tables)
    until = pl.col("Date") <= to_date(origin)
    past = {
        **tables,
        "history": tables["history"].filter(until),
        "schedule": tables["schedule"].clear(),
    }
    info = replace(panel.info, last_day=to_date(origin), schedule_end=None)
    bare = in_memory_panel(info, past)
    rows = rows_after(whole, origin, 48)
    cut, none = whole.matrix(rows, origin, planned_to=origin), bare.matrix(rows, origin)
    for column, name in enumerate(FEATURES):
        assert np.array_equal(cut[:, column], none[:, column], equal_nan=True), name
    planned = whole.matrix(rows, origin)
    at = FEATURES.index("days_to_promo")
    assert np.isnan(none[:, at]).all()
    assert not np.isnan(planned[:, at]).any()


def closed_later(tables: Tables, stores: list[int], first: int, last: int) -> Tables:
    """The stores closed from ``first`` to ``last``."""
    days = pl.col("Date").is_between(to_date(first), to_date(last))
    closed = days & pl.col("Store").is_in(stores)
    changed = tables["history"].with_columns(
        [pl.when(closed).then(0).otherwise(n).cast(tables["history"][n].dtype).alias(n)
         for n in ("Open", "Sales", "Customers")]
    )  # fmt: skip
    return {**tables, "history": changed}


@pytest.mark.parametrize("days", [3, 20])
@pytest.mark.parametrize("planned_days", [0, 9])
def test_closures_that_were_not_planned_stay_unknown(
    tables: Tables, panel: Panel, days: int, planned_days: int
) -> None:
    origin, stores = panel.last_day - 80, panel.store_numbers[:12].tolist()
    first = origin + planned_days + 1
    original = in_memory_panel(panel.info, tables)
    closed = in_memory_panel(panel.info, closed_later(tables, stores, first, first + days - 1))
    rows = rows_after(original, origin, 48)
    limit = origin + planned_days
    hidden, known = (closed.matrix(rows, origin, planned_to=p) for p in (limit, None))
    expected = original.matrix(rows, origin, planned_to=limit)
    for column, name in enumerate(FEATURES):
        assert np.array_equal(hidden[:, column], expected[:, column], equal_nan=True), name
    at = [FEATURES.index(name) for name in ("closed_days_after", "open_days_before")]
    assert (known[:, at] != original.matrix(rows, origin)[:, at]).any(axis=0).all()


def test_rows_with_different_origins_equal_rows_built_singly(tables: Tables, panel: Panel) -> None:
    original = in_memory_panel(panel.info, tables)
    rows, _ = original.sales_rows()
    rng = np.random.default_rng(3)
    pick = np.sort(
        rng.choice(np.nonzero(rows.day > original.first_day + 60)[0], 300, replace=False)
    )
    part = rows.take(pick)
    origins = part.day - rng.integers(1, 49, len(part))
    matrix = original.matrix(part, origins)
    for i in range(len(part)):
        single = original.matrix(part.take(np.array([i])), int(origins[i]))
        assert single.tobytes() == matrix[i].tobytes()
