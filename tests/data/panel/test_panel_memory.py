"""Memory use of the panel build: a chain of ten thousand stores needs a bounded amount."""

import resource
import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rossmann.data.make_dataset import DatasetInfo
from rossmann.data.panel.panel import build_panel, open_panel
from rossmann.schema import Dataset
from tests.fixtures.panels import in_memory_panel
from tests.paths import ROOT

STORES, DAYS = 10_000, 90
MAX_BYTES = 320 << 20
"""Private memory that the process may take for the chain: its arrays are some 600 MB."""
FIRST = date(2015, 1, 1)


def write_chain(folder: Path, stores: int, days: int) -> DatasetInfo:
    """Clean tables of stores that sell on every day; a few join halfway."""
    rng = np.random.default_rng(4)
    store = np.repeat(np.arange(1, stores + 1, dtype=np.int32), days)
    day = np.tile(np.arange(days), stores)
    sales = np.exp(8.5 + rng.normal(0, 0.4, stores)[store - 1] + rng.normal(0, 0.1, len(day)))
    flag = pl.Series(day % 14 < 5).cast(pl.UInt8)
    zero = pl.zeros(len(day), pl.UInt8, eager=True)
    frame = pl.DataFrame(
        {
            "Store": store,
            "Date": (day + (FIRST - date(1970, 1, 1)).days).astype(np.int32),
            "Sales": sales.astype(np.int32),
            "Customers": (sales / 9).astype(np.int32),
            "Open": zero + 1,
            "Promo": flag,
            "StateHoliday": zero,
            "SchoolHoliday": zero,
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


def private_bytes() -> int:
    """Private memory that the process has mapped; shared pages of files do not count."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmData"))
    return int(line.split()[1]) << 10


def build_within(folder: Path) -> None:
    """Build a small chain, then the large one under a memory limit; runs in its own process."""
    build_panel(write_chain(folder / "small", 40, DAYS), threads=2)
    info = write_chain(folder / "large", STORES, DAYS)
    limit = private_bytes() + MAX_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    build_panel(info, threads=2)
    panel = open_panel(info)
    days = np.arange(panel.last_day + 1, panel.last_day + 8)
    matrix = panel.matrix(panel.store_schedule(STORES, days), panel.last_day)
    assert np.isfinite(matrix[:, -1]).all()


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_ten_thousand_stores_are_built_within_the_memory_limit(tmp_path: Path) -> None:
    module = Path(__file__).relative_to(ROOT).with_suffix("")
    process = subprocess.run(
        [sys.executable, "-m", ".".join(module.parts), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    arrays = sum(path.stat().st_size for path in (tmp_path / "large").rglob("*.npy"))
    assert arrays > 1.5 * MAX_BYTES  # otherwise the limit has no effect


def test_arrays_are_the_same_in_files_and_in_memory(tmp_path: Path) -> None:
    """The arrays do not depend on the storage or on the size of blocks."""
    info = write_chain(tmp_path / "chain", 100, DAYS)
    build_panel(info, threads=3)
    names = ("history", "schedule", "stores")
    tables = {name: pl.read_parquet(info.folder / f"{name}.parquet") for name in names}
    in_memory, mapped = in_memory_panel(info, tables), open_panel(info)
    for array, other in zip(in_memory.arrays, mapped.arrays, strict=True):
        assert array.tobytes() == other.tobytes()


def resident_kib(folder: Path) -> int:
    """Memory of this process that holds pages of the folder's files, in KiB."""
    total, counted = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if " " in line and "-" in line.split(" ", 1)[0]:
            counted = str(folder) in line
        elif counted and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


@pytest.mark.skipif(sys.platform != "linux", reason="the counts are Linux's")
def test_pages_of_the_arrays_can_be_let_go_of(tmp_path: Path) -> None:
    info = write_chain(tmp_path / "chain", 200, DAYS)
    build_panel(info, threads=2)
    panel = open_panel(info)
    rows, _ = panel.sales_rows()
    rows = rows.take(np.nonzero(rows.day > panel.first_day)[0])
    before = panel.matrix(rows, panel.first_day)
    held = resident_kib(info.folder)
    panel.release_pages()
    assert held > 4 * resident_kib(info.folder)
    assert panel.matrix(rows, panel.first_day).tobytes() == before.tobytes()


if __name__ == "__main__":
    build_within(Path(sys.argv[1]))
