"""The one place where rows become forecasts: origin, model, objective, closed is zero, warnings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from rossmann.epoch_days import format_iso_day
from rossmann.errors import CorruptModelError, ErrorDetail, RequestError
from rossmann.models.calibration.bias_correction import BIAS_CORRECTION_KEY, bias_factors
from rossmann.models.inference.row_checks import (
    check_as_of,
    last_forecast_day,
    not_after_origin_error,
)
from rossmann.models.inference.row_warnings import (
    RowWarning,
    WarningFlags,
    WarningMasks,
    find_warnings,
    row_warning,
)
from rossmann.schema import FeatureMatrix, FloatArray, Objective, StoreDays

if TYPE_CHECKING:
    from rossmann.data.panel.panel import Panel
    from rossmann.models.ensemble.ensemble import Ensemble


PARALLEL_MIN_ROWS: Final = 2_000
"""From this many rows on, more threads are worth their start."""
PARALLEL_MIN_EXPLAINED: Final = 8
"""The same for drivers, which take some hundred times as long a row."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Bounds of each row at one level, in sales: arrays of shape (n,)."""

    level: float
    lower: FloatArray
    upper: FloatArray


@dataclass(frozen=True, slots=True)
class Forecast:
    """Sales of n rows in their order, as of the end of day ``as_of`` (since 1970-01-01)."""

    sales: FloatArray
    as_of: int
    bands: tuple[Interval, ...]
    warnings: tuple[RowWarning, ...]
    objective: Objective = "accuracy"


@dataclass(frozen=True, slots=True)
class Explanation:
    """A forecast and what drove each of its rows; a closed row is driven by that alone."""

    forecast: Forecast
    baseline: FloatArray
    factors: dict[str, FloatArray]
    sales: dict[str, FloatArray]


class Forecaster:
    """One model version over one panel."""

    def __init__(
        self,
        panel: "Panel",
        ensemble: "Ensemble",
        threads: int = 1,
        short_history: int = 31,
    ) -> None:
        self.panel = panel
        self.ensemble = ensemble
        self._threads = threads
        self._short_history = short_history

    def with_panel(self, panel: "Panel") -> "Forecaster":
        """The same version over another panel."""
        return Forecaster(panel, self.ensemble, self._threads, self._short_history)

    def single_threaded(self) -> "Forecaster":
        """The same for callers that bring threads of their own."""
        return Forecaster(self.panel, self.ensemble, 1, self._short_history)

    def forecast(
        self,
        rows: StoreDays,
        as_of: int | None = None,
        levels: Sequence[float] = (),
        objective: Objective = "accuracy",
    ) -> Forecast:
        """Forecast each row; ``as_of`` is a day since 1970-01-01, ``levels`` lie between 0 and 1.

        The bands are those of a day's sales, whatever the ``objective``. Raises ``RequestError``
        for stores and days that have no honest answer, ``DamagedModel`` where the model gives
        something that is no number.
        """
        origin = self.resolve_origin(rows, as_of, levels, objective)
        sales, bands = self.predict_rows(rows, origin, levels, objective)
        return Forecast(sales, origin, bands, self.warnings(rows, origin), objective)

    def resolve_origin(
        self, rows: StoreDays, as_of: int | None, levels: Sequence[float], objective: Objective
    ) -> int:
        """The origin of a request; takes what ``forecast`` takes, and refuses what it refuses."""
        faults = self._level_faults(levels) + self._objective_faults(objective)
        return self._origin(rows, as_of, faults)

    def warning_flags(self, rows: StoreDays, origin: int | npt.NDArray[np.int64]) -> WarningFlags:
        """What to take with care for each row (n,), as of one origin or each row's own."""
        return self.panel.warning_flags(rows, origin, self._short_history)

    def warning_masks(
        self, rows: StoreDays, origin: int, bits: WarningFlags | None = None
    ) -> WarningMasks:
        """The same in words, and which of the rows it touches; ``bits``: where they are known."""
        bits = self.warning_flags(rows, origin) if bits is None else bits
        return find_warnings(self.panel, rows, origin, bits, self._short_history)

    def warnings(
        self, rows: StoreDays, origin: int, bits: WarningFlags | None = None
    ) -> tuple[RowWarning, ...]:
        """The same as warnings."""
        found = self.warning_masks(rows, origin, bits)
        return tuple(row_warning(kind, msg, which.nonzero()[0]) for kind, msg, which in found)

    def explain(
        self,
        rows: StoreDays,
        as_of: int | None = None,
        levels: Sequence[float] = (),
        objective: Objective = "accuracy",
    ) -> Explanation:
        """Forecast each row, and split it into what drove it; the parts multiply to the forecast.

        Takes what ``forecast`` takes, and raises what it raises.
        """
        # Not above: it takes seconds to import, and a service that may not start says so at once.
        from rossmann.models.inference.attributions import TOTALS, attribute

        told = self.forecast(rows, as_of, levels, objective)
        matrix = self.panel.matrix(rows, told.as_of)
        parts = self.panel.offset_parts(rows, told.as_of)
        threads = self._threads if len(rows) >= PARALLEL_MIN_EXPLAINED else 1
        sales = self.ensemble.predict(matrix, threads=threads)
        found = attribute(self.ensemble, matrix, parts, sales, threads)
        if objective == "unbiased":
            found = found.with_factor(TOTALS, self._correction(matrix))
        found = found.with_closed_days(rows.open == 0)
        return Explanation(told, found.baseline, found.factors, found.sales_amounts())

    def _correction(self, matrix: FeatureMatrix) -> FloatArray:
        return bias_factors(self.ensemble.card[BIAS_CORRECTION_KEY], matrix)

    def _objective_faults(self, objective: Objective) -> list[ErrorDetail]:
        if objective == "accuracy" or BIAS_CORRECTION_KEY in self.ensemble.card:
            return []
        msg = (
            "this version was made before there were unbiased totals: ask for objective accuracy,"
            " or train a new version with: rossmann train"
        )
        return [ErrorDetail(("objective",), msg, "no_correction")]

    def _level_faults(self, levels: Sequence[float]) -> list[ErrorDetail]:
        if not levels:
            return []
        known = self.ensemble.card["intervals"]["levels"]
        low, high = min(known), max(known)
        msg = f"a level must be from {low} to {high}, the range that this version is calibrated for"
        return [
            ErrorDetail(("intervals", place), f"{msg} (got {level})", "level_range")
            for place, level in enumerate(levels)
            if not low <= level <= high
        ]

    def _origin(self, rows: StoreDays, as_of: int | None, faults: list[ErrorDetail]) -> int:
        first, last = self.panel.first_day, self.panel.last_day
        if not len(rows):
            raise RequestError(
                [ErrorDetail(("inputs",), "inputs must hold at least one row", "too_short")]
            )
        place, earliest, latest = self.panel.row_extent(rows)
        if as_of is None:
            origin = min(last, earliest - 1)
        else:
            origin = as_of
            faults = faults + check_as_of(self.panel, as_of)
        if (
            faults
            or earliest <= max(origin, first)
            or latest > last_forecast_day(last)
            or place < 0
        ):
            raise RequestError(faults + self._row_faults(rows, origin))
        return origin

    def _row_faults(self, rows: StoreDays, origin: int) -> list[ErrorDetail]:
        first, last = self.panel.first_day, self.panel.last_day
        positions = self.panel.store_indices(rows.store)
        rules = (
            ("Store", positions < 0, "unknown_store", "is unknown"),
            (
                "Date",
                rows.day <= first,
                "date_before_history",
                f"must be after {format_iso_day(first)}",
            ),
            (
                "Date",
                rows.day > last_forecast_day(last),
                "date_too_far",
                f"must be at most a year after {format_iso_day(last)}",
            ),
        )
        faults = []
        for field, broken, kind, msg in rules:
            for row in np.flatnonzero(broken):
                got = rows.store[row] if field == "Store" else format_iso_day(rows.day[row])
                loc = ("inputs", int(row), field)
                faults.append(ErrorDetail(loc, f"{field} {msg} (got {got})", kind))
        early = np.flatnonzero((rows.day <= origin) & (rows.day > first))
        return faults + [not_after_origin_error(int(i), int(rows.day[i]), origin) for i in early]

    def predict_rows(
        self,
        rows: StoreDays,
        origin: int | npt.NDArray[np.int64],
        levels: Sequence[float],
        objective: Objective,
    ) -> tuple[FloatArray, tuple[Interval, ...]]:
        """Sales and bands of rows that ``settle`` let pass, as of its ``origin`` (or each's)."""
        open_rows = rows.open.nonzero()[0]
        if len(open_rows) == len(rows):
            return self._score_open(rows, origin, levels, objective)
        sales = np.zeros(len(rows))
        bands = tuple(Interval(level, np.zeros(len(rows)), np.zeros(len(rows))) for level in levels)
        if len(open_rows):
            origin = origin if isinstance(origin, int) else origin[open_rows]
            found = self._score_open(rows.take(open_rows), origin, levels, objective)
            sales[open_rows] = found[0]
            for band, known in zip(bands, found[1], strict=True):
                band.lower[open_rows], band.upper[open_rows] = known.lower, known.upper
        return sales, bands

    def _score_open(
        self,
        rows: StoreDays,
        origin: int | npt.NDArray[np.int64],
        levels: Sequence[float],
        objective: Objective,
    ) -> tuple[FloatArray, tuple[Interval, ...]]:
        """The same for rows that are all of open days."""
        matrix = self.panel.matrix(rows, origin)
        threads = self._threads if len(rows) >= PARALLEL_MIN_ROWS else 1
        predicted = np.maximum(self.ensemble.predict(matrix, threads=threads), 0.0)
        if not np.logical_and.reduce(np.isfinite(predicted)):  # as ``all``, but for its price
            raise CorruptModelError(
                "the model gave something that is no number: load another version"
            )
        sales = predicted if objective == "accuracy" else predicted * self._correction(matrix)
        if not levels:
            return sales, ()
        limits = self.ensemble.bounds(matrix, predicted, levels)
        return sales, tuple(
            Interval(level, np.maximum(lower, 0.0), upper)
            for level, (lower, upper) in zip(levels, limits, strict=True)
        )
