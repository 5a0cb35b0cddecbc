"""From backtest windows to what totals are learned from and judged on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from rossmann.data.panel import Panel
from rossmann.models.backtest import Outcome
from rossmann.models.coverage import MAIN, calibrate_windows
from rossmann.models.intervals import row_scale
from rossmann.models.totals import Lines
from rossmann.models.totals_learn import Past, learn_totals, measure_totals
from rossmann.schema import DayArray, FloatArray, Matrix, Rows


class Files(Protocol):
    """Where the clean tables lie."""

    @property
    def folder(self) -> Path: ...  # noqa: D102 -- documented where it is defined


class Shelf(Protocol):
    """What totals need of a panel."""

    @property
    def info(self) -> Files: ...  # noqa: D102 -- documented where it is defined
    def locate(self, stores: DayArray) -> npt.NDArray[np.int64]: ...  # noqa: D102
    def matrix(self, rows: Rows, origin: int) -> Matrix: ...  # noqa: D102


def store_types(panel: Shelf) -> npt.NDArray[np.int64]:
    """Each store's type, (stores,): place in ``schema.STORE_TYPES``."""
    table = pl.read_parquet(panel.info.folder / "stores.parquet", columns=["StoreType"])
    return table["StoreType"].to_numpy().astype(np.int64)


def lines_of(
    panel: Panel, intervals: dict[str, Any], rows: Rows, matrix: Matrix, sales: FloatArray
) -> Lines:
    """Forecast rows (n,), all open, as totals see them."""
    kind = store_types(panel)[panel.locate(rows.store)]
    return Lines(rows.store, rows.day, kind, sales, row_scale(intervals, matrix))


def calibrate_totals(
    panel: Panel, outcomes: Sequence[Outcome], intervals: dict[str, Any]
) -> dict[str, Any]:
    """The table for bands of totals, from all windows, later ones too."""
    return learn_totals([_past(panel, o, intervals) for o in flat(outcomes)])


def cross_totals(panel: Panel, outcomes: Sequence[Outcome]) -> dict[str, Any] | None:
    """What bands of totals held in each window by tables of the others, as JSON.

    None where one window alone was forecast.
    """
    if len(outcomes) < 2:
        return None
    windows, tables = [], []
    every = flat(outcomes)
    for judged in every:
        intervals = calibrate_windows([o for o in outcomes if o is not judged])
        rest = [_past(panel, o, intervals) for o in every if o is not judged]
        windows.append(_past(panel, judged, intervals))
        tables.append((intervals, learn_totals(rest)))
    return measure_totals(windows, tables, MAIN)


def flat(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """All windows, each fit's later ones behind its own."""
    return [one for outcome in outcomes for one in (outcome, *outcome.later)]


def _past(panel: Panel, outcome: Outcome, intervals: dict[str, Any]) -> Past:
    window = outcome.window
    lines = lines_of(panel, intervals, window.rows, window.matrix, outcome.forecasts["ensemble"])
    return Past(lines, window.sold, window.origin)
