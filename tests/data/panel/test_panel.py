"""Removal of the arrays of old data versions."""

import os
from pathlib import Path

import numpy as np

from rossmann.data.panel import panel
from rossmann.data.panel.panel import remove_old_arrays


def make_arrays(processed: Path, name: str, age: int) -> Path:
    folder = processed / name / panel._FORMAT
    folder.mkdir(parents=True)
    np.save(folder / "sales.npy", np.arange(3))
    (processed / name / "history.parquet").write_bytes(b"kept")
    os.utime(folder, (1_000_000 - age, 1_000_000 - age))
    return folder


def test_arrays_of_used_and_newest_data_versions_stay(tmp_path: Path) -> None:
    folders = {name: make_arrays(tmp_path, name, age) for age, name in enumerate("abcde")}
    mapped = np.load(folders["d"] / "sales.npy", mmap_mode="r")
    assert remove_old_arrays(tmp_path, {"c"}, newest=2) == ["d", "e"]
    assert {name for name, folder in folders.items() if folder.exists()} == {"a", "b", "c"}
    assert all((tmp_path / name / "history.parquet").exists() for name in folders)
    assert mapped.tolist() == [0, 1, 2]
    assert remove_old_arrays(tmp_path, (), newest=5) == []
