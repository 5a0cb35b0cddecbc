"""Stored backtest predictions: content, size, damaged files."""

from pathlib import Path

import numpy as np
import pytest

from rossmann.errors import CorruptModelError
from rossmann.models.gate.backtest_predictions import PREDICTIONS_FILE, read_predictions
from rossmann.models.publishing.trained_model import TrainedModel


def test_file_has_the_rows_that_were_scored(trained: TrainedModel) -> None:
    predictions = read_predictions(trained.folder / PREDICTIONS_FILE)
    assert [w.origin for w in predictions.windows] == [str(w.origin) for w in trained.windows]
    for window, scored in zip(predictions.windows, trained.windows, strict=True):
        assert len(window.sold) == len(window.store) == scored.rows
        assert window.rmspe == pytest.approx(scored.rmspe["ensemble"], abs=1e-6)
        assert window.bias == pytest.approx(scored.ensemble["bias"], abs=1e-6)
        naive = np.sqrt(np.mean((window.naive / window.sold - 1) ** 2))
        assert naive == pytest.approx(scored.rmspe["seasonal_naive"], abs=1e-6)
        assert set(predictions.coverage[window.origin]) == {"0.80", "0.95"}


def test_file_is_small(trained: TrainedModel) -> None:
    rows = sum(w.rows for w in trained.windows)
    assert (trained.folder / PREDICTIONS_FILE).stat().st_size < 16 * rows + 10_000


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut short"])
def test_a_damaged_file_raises_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / PREDICTIONS_FILE
    path.write_bytes(content)
    with pytest.raises(CorruptModelError, match="evidence"):
        read_predictions(path)
    with pytest.raises(CorruptModelError):
        read_predictions(tmp_path / "none.npz")


def test_a_truncated_file_raises_an_error(trained: TrainedModel, tmp_path: Path) -> None:
    content = (trained.folder / PREDICTIONS_FILE).read_bytes()
    (tmp_path / PREDICTIONS_FILE).write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptModelError):
        read_predictions(tmp_path / PREDICTIONS_FILE)
