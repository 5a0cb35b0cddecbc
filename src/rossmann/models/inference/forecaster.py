"""The one place where rows become forecasts: origin, model, objective, closed is zero, warnings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from rossmann.epoch_days import iso
from rossmann.errors import DamagedModel, Fault, RequestError
from rossmann.models.calibration.bias_correction import CORRECTION, correction
from rossmann.models.inference.protocols import EnsembleLike, StorePanel
from rossmann.models.inference.row_checks import as_of_faults, furthest, not_after_fault
from rossmann.models.inference.row_warnings import Bits, Touched, Warned, touched, warned
from rossmann.schema import FloatArray, Matrix, Objective, Rows

MANY: Final = 2_000
"""From this many rows on, more threads are worth their start."""
MANY_TO_EXPLAIN: Final = 8
"""The same for drivers, which take some hundred times as long a row."""


@dataclass(frozen=True, slots=True)
class Band:
    """Bounds of each row at one level, in sales: arrays of shape (n,)."""

    level: float
    lower: FloatArray
    upper: FloatArray


@dataclass(frozen=True, slots=True)
class Forecast:
    """Sales of n rows in their order, as of the end of day ``as_of`` (since 1970-01-01)."""

    sales: FloatArray
    as_of: int
    bands: tuple[Band, ...]
    warnings: tuple[Warned, ...]
    objective: Objective = "accuracy"


@dataclass(frozen=True, slots=True)
class Explained:
    """A forecast and what drove each of its rows; a closed row is driven by that alone."""

    forecast: Forecast
    baseline: FloatArray
    factors: dict[str, FloatArray]
    sales: dict[str, FloatArray]


class Forecaster:
    """One model version over one panel."""

    def __init__(
        self,
        panel: StorePanel,
        ensemble: EnsembleLike,
        threads: int = 1,
        short_history: int = 31,
    ) -> None:
        self.panel = panel
        self.ensemble = ensemble
        self._threads = threads
        self._short_history = short_history

    def over(self, panel: StorePanel) -> "Forecaster":
        """The same version over another panel."""
        return Forecaster(panel, self.ensemble, self._threads, self._short_history)

    def on_one_thread(self) -> "Forecaster":
        """The same for callers that bring threads of their own."""
        return Forecaster(self.panel, self.ensemble, 1, self._short_history)

    def forecast(
        self,
        rows: Rows,
        as_of: int | None = None,
        levels: Sequence[float] = (),
        objective: Objective = "accuracy",
    ) -> Forecast:
        """Forecast each row; ``as_of`` is a day since 1970-01-01, ``levels`` lie between 0 and 1.

        The bands are those of a day's sales, whatever the ``objective``. Raises ``RequestError``
        for stores and days that have no honest answer, ``DamagedModel`` where the model gives
        something that is no number.
        """
        origin = self.settle(rows, as_of, levels, objective)
        sales, bands = self.score(rows, origin, levels, objective)
        return Forecast(sales, origin, bands, self.doubts(rows, origin), objective)

    def settle(
        self, rows: Rows, as_of: int | None, levels: Sequence[float], objective: Objective
    ) -> int:
        """The origin of a request; takes what ``forecast`` takes, and refuses what it refuses."""
        faults = self._level_faults(levels) + self._objective_faults(objective)
        return self._origin(rows, as_of, faults)

    def doubt_bits(self, rows: Rows, origin: int | npt.NDArray[np.int64]) -> Bits:
        """What to take with care for each row (n,), as of one origin or each row's own."""
        return self.panel.doubts(rows, origin, self._short_history)

    def touched(self, rows: Rows, origin: int, bits: Bits | None = None) -> Touched:
        """The same in words, and which of the rows it touches; ``bits``: where they are known."""
        bits = self.doubt_bits(rows, origin) if bits is None else bits
        return touched(self.panel, rows, origin, bits, self._short_history)

    def doubts(self, rows: Rows, origin: int, bits: Bits | None = None) -> tuple[Warned, ...]:
        """The same as warnings."""
        found = self.touched(rows, origin, bits)
        return tuple(warned(kind, msg, which.nonzero()[0]) for kind, msg, which in found)

    def explain(
        self,
        rows: Rows,
        as_of: int | None = None,
        levels: Sequence[float] = (),
        objective: Objective = "accuracy",
    ) -> Explained:
        """Forecast each row, and split it into what drove it; the parts multiply to the forecast.

        Takes what ``forecast`` takes, and raises what it raises.
        """
        # Not above: it takes seconds to import, and a service that may not start says so at once.
        from rossmann.models.inference.attributions import TOTALS, split

        told = self.forecast(rows, as_of, levels, objective)
        matrix = self.panel.matrix(rows, told.as_of)
        parts = self.panel.offset_parts(rows, told.as_of)
        threads = self._threads if len(rows) >= MANY_TO_EXPLAIN else 1
        sales = self.ensemble.predict(matrix, threads=threads)
        found = split(self.ensemble, matrix, parts, sales, threads)
        if objective == "unbiased":
            found = found.times(TOTALS, self._correction(matrix))
        found = found.closing(rows.open == 0)
        return Explained(told, found.baseline, found.factors, found.amounts())

    def _correction(self, matrix: Matrix) -> FloatArray:
        return correction(self.ensemble.card[CORRECTION], matrix)

    def _objective_faults(self, objective: Objective) -> list[Fault]:
        if objective == "accuracy" or CORRECTION in self.ensemble.card:
            return []
        msg = (
            "this version was made before there were unbiased totals: ask for objective accuracy,"
            " or train a new version with: rossmann train"
        )
        return [Fault(("objective",), msg, "no_correction")]

    def _level_faults(self, levels: Sequence[float]) -> list[Fault]:
        if not levels:
            return []
        known = self.ensemble.card["intervals"]["levels"]
        low, high = min(known), max(known)
        msg = f"a level must be from {low} to {high}, the range that this version is calibrated for"
        return [
            Fault(("intervals", place), f"{msg} (got {level})", "level_range")
            for place, level in enumerate(levels)
            if not low <= level <= high
        ]

    def _origin(self, rows: Rows, as_of: int | None, faults: list[Fault]) -> int:
        first, last = self.panel.first_day, self.panel.last_day
        if not len(rows):
            raise RequestError(
                [Fault(("inputs",), "inputs must hold at least one row", "too_short")]
            )
        place, earliest, latest = self.panel.reach(rows)
        if as_of is None:
            origin = min(last, earliest - 1)
        else:
            origin = as_of
            faults = faults + as_of_faults(self.panel, as_of)
        if faults or earliest <= max(origin, first) or latest > furthest(last) or place < 0:
            raise RequestError(faults + self._row_faults(rows, origin))
        return origin

    def _row_faults(self, rows: Rows, origin: int) -> list[Fault]:
        first, last = self.panel.first_day, self.panel.last_day
        positions = self.panel.locate(rows.store)
        rules = (
            ("Store", positions < 0, "unknown_store", "is unknown"),
            ("Date", rows.day <= first, "date_before_history", f"must be after {iso(first)}"),
            (
                "Date",
                rows.day > furthest(last),
                "date_too_far",
                f"must be at most a year after {iso(last)}",
            ),
        )
        faults = []
        for field, broken, kind, msg in rules:
            for row in np.flatnonzero(broken):
                got = rows.store[row] if field == "Store" else iso(rows.day[row])
                loc = ("inputs", int(row), field)
                faults.append(Fault(loc, f"{field} {msg} (got {got})", kind))
        early = np.flatnonzero((rows.day <= origin) & (rows.day > first))
        return faults + [not_after_fault(int(i), int(rows.day[i]), origin) for i in early]

    def score(
        self,
        rows: Rows,
        origin: int | npt.NDArray[np.int64],
        levels: Sequence[float],
        objective: Objective,
    ) -> tuple[FloatArray, tuple[Band, ...]]:
        """Sales and bands of rows that ``settle`` let pass, as of its ``origin`` (or each's)."""
        open_rows = rows.open.nonzero()[0]
        if len(open_rows) == len(rows):
            return self._score_open(rows, origin, levels, objective)
        sales = np.zeros(len(rows))
        bands = tuple(Band(level, np.zeros(len(rows)), np.zeros(len(rows))) for level in levels)
        if len(open_rows):
            origin = origin if isinstance(origin, int) else origin[open_rows]
            found = self._score_open(rows.take(open_rows), origin, levels, objective)
            sales[open_rows] = found[0]
            for band, known in zip(bands, found[1], strict=True):
                band.lower[open_rows], band.upper[open_rows] = known.lower, known.upper
        return sales, bands

    def _score_open(
        self,
        rows: Rows,
        origin: int | npt.NDArray[np.int64],
        levels: Sequence[float],
        objective: Objective,
    ) -> tuple[FloatArray, tuple[Band, ...]]:
        """The same for rows that are all of open days."""
        matrix = self.panel.matrix(rows, origin)
        threads = self._threads if len(rows) >= MANY else 1
        predicted = np.maximum(self.ensemble.predict(matrix, threads=threads), 0.0)
        if not np.logical_and.reduce(np.isfinite(predicted)):  # as ``all``, but for its price
            raise DamagedModel("the model gave something that is no number: load another version")
        sales = predicted if objective == "accuracy" else predicted * self._correction(matrix)
        if not levels:
            return sales, ()
        limits = self.ensemble.bounds(matrix, predicted, levels)
        return sales, tuple(
            Band(level, np.maximum(lower, 0.0), upper)
            for level, (lower, upper) in zip(levels, limits, strict=True)
        )
