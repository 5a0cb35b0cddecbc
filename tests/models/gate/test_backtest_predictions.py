"""The rows of a backtest come back as they were written, and damage is told."""

from pathlib import Path

import numpy as np
import pytest

from rossmann.errors import CorruptModelError
from rossmann.models.gate.backtest_predictions import PREDICTIONS_FILE, read_evidence
from rossmann.models.publishing.trained_model import TrainedModel


def test_it_holds_the_rows_that_the_windows_were_scored_on(trained: TrainedModel) -> None:
    evidence = read_evidence(trained.folder / PREDICTIONS_FILE)
    assert [w.origin for w in evidence.windows] == [str(w.origin) for w in trained.windows]
    for window, scored in zip(evidence.windows, trained.windows, strict=True):
        assert len(window.sold) == len(window.store) == scored.rows
        assert window.rmspe == pytest.approx(scored.rmspe["ensemble"], abs=1e-6)
        assert window.bias == pytest.approx(scored.ensemble["bias"], abs=1e-6)
        naive = np.sqrt(np.mean((window.naive / window.sold - 1) ** 2))
        assert naive == pytest.approx(scored.rmspe["seasonal_naive"], abs=1e-6)
        assert set(evidence.coverage[window.origin]) == {"0.80", "0.95"}


def test_it_is_small(trained: TrainedModel) -> None:
    rows = sum(w.rows for w in trained.windows)
    assert (trained.folder / PREDICTIONS_FILE).stat().st_size < 16 * rows + 10_000


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut short"])
def test_damage_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / PREDICTIONS_FILE
    path.write_bytes(content)
    with pytest.raises(CorruptModelError, match="evidence"):
        read_evidence(path)
    with pytest.raises(CorruptModelError):
        read_evidence(tmp_path / "none.npz")


def test_a_cut_file_is_told(trained: TrainedModel, tmp_path: Path) -> None:
    whole = (trained.folder / PREDICTIONS_FILE).read_bytes()
    (tmp_path / PREDICTIONS_FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptModelError):
        read_evidence(tmp_path / PREDICTIONS_FILE)
