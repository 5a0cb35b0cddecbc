"""A chain of ten thousand stores is built in a bounded amount of memory of its own."""

import resource
import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rossmann.data.make_dataset import DatasetInfo
from rossmann.data.panel.panel import build_panel, in_memory_panel, open_panel
from rossmann.schema import Dataset

STORES, DAYS = 10_000, 90
ROOM = 320 << 20
"""Bytes of its own that the process may take for the chain: its arrays are some 600 MB."""
FIRST = date(2015, 1, 1)


def write_chain(folder: Path, stores: int, days: int) -> DatasetInfo:
    """Clean tables of stores that sell on every day; a few join halfway."""
    rng = np.random.default_rng(4)
    store = np.repeat(np.arange(1, stores + 1, dtype=np.int32), days)
    day = np.tile(np.arange(days), stores)
    sold = np.exp(8.5 + rng.normal(0, 0.4, stores)[store - 1] + rng.normal(0, 0.1, len(day)))
    flag = pl.Series(day % 14 < 5).cast(pl.UInt8)
    none = pl.zeros(len(day), pl.UInt8, eager=True)
    frame = pl.DataFrame(
        {
            "Store": store,
            "Date": (day + (FIRST - date(1970, 1, 1)).days).astype(np.int32),
            "Sales": sold.astype(np.int32),
            "Customers": (sold / 9).astype(np.int32),
            "Open": none + 1,
            "Promo": flag,
            "StateHoliday": none,
            "SchoolHoliday": none,
        }
    ).with_columns(pl.col("Date").cast(pl.Date))
    late = (pl.col("Store") % 50 == 0) & (pl.lit(day) < days - 15)
    history = frame.filter(~late)
    numbers = np.arange(1, stores + 1, dtype=np.int32)
    table = pl.DataFrame(
        {
            "Store": numbers,
            "StoreType": (numbers % 4).astype(np.uint8),
            "Assortment": (numbers % 3).astype(np.uint8),
            "CompetitionDistance": np.full(stores, 500, np.float32),
            "CompetitionSince": pl.Series([None] * stores, dtype=pl.Date),
            "Promo2": np.zeros(stores, np.uint8),
            "Promo2Since": pl.Series([None] * stores, dtype=pl.Date),
            "PromoMonths": np.zeros(stores, np.uint16),
        }
    )
    folder.mkdir(parents=True)
    history.write_parquet(folder / "history.parquet")
    history.drop("Sales", "Customers").clear().write_parquet(folder / "schedule.parquet")
    table.write_parquet(folder / "stores.parquet")
    last = date.fromordinal(FIRST.toordinal() + days - 1)
    return DatasetInfo(Dataset.DEMO, "scale", folder, history.height, stores, FIRST, last, None, {})


def own_bytes() -> int:
    """What the process has mapped for itself alone; pages of files that it shares do not count."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmData"))
    return int(line.split()[1]) << 10


def build_within(folder: Path) -> None:
    """Build a small chain, then the large one with little room: runs in a process of its own."""
    build_panel(write_chain(folder / "small", 40, DAYS), threads=2)
    info = write_chain(folder / "large", STORES, DAYS)
    most = own_bytes() + ROOM
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    build_panel(info, threads=2)
    panel = open_panel(info)
    days = np.arange(panel.last_day + 1, panel.last_day + 8)
    matrix = panel.matrix(panel.store_schedule(STORES, days), panel.last_day)
    assert np.isfinite(matrix[:, -1]).all()


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_ten_thousand_stores_need_little_memory(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    arrays = sum(path.stat().st_size for path in (tmp_path / "large").rglob("*.npy"))
    assert arrays > 1.5 * ROOM  # else the test shows nothing


def test_files_hold_what_memory_holds(tmp_path: Path) -> None:
    """The arrays are the same wherever they are built, in blocks of any size."""
    info = write_chain(tmp_path / "chain", 100, DAYS)
    build_panel(info, threads=3)
    names = ("history", "schedule", "stores")
    tables = {name: pl.read_parquet(info.folder / f"{name}.parquet") for name in names}
    built, mapped = in_memory_panel(info, tables), open_panel(info)
    for one, two in zip(built.arrays, mapped.arrays, strict=True):
        assert one.tobytes() == two.tobytes()


if __name__ == "__main__":
    build_within(Path(sys.argv[1]))
