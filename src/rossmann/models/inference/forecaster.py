"""The forecaster: rows to sales, the one path that the API, files, command line and gate share.

It resolves the origin, gathers the features, runs the ensemble, applies the objective, sets closed
days to zero and finds the warnings.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from rossmann.errors import CorruptModelError, ErrorDetail, RequestError
from rossmann.installation import shell_command
from rossmann.models.calibration.bias_correction import BIAS_CORRECTION_KEY, bias_factors
from rossmann.models.ensemble.prediction_intervals import MAX_QUANTILE, MIN_QUANTILE
from rossmann.models.ensemble.residual_scale import IntervalInputs
from rossmann.models.inference.row_checks import check_as_of, check_rows, last_forecast_day
from rossmann.models.inference.row_warnings import (
    RowWarning,
    WarningFlags,
    WarningMasks,
    find_warnings,
    is_in_training,
    rare_season_days,
    row_warning,
    training_span,
)
from rossmann.schema import IN_TRAINING, FeatureMatrix, FloatArray, Objective, StoreDays

if TYPE_CHECKING:
    from rossmann.data.panel.panel import Panel
    from rossmann.models.ensemble.ensemble import Ensemble

PARALLEL_MIN_ROWS: Final = 2_000
"""From this many rows on, more threads are worth their start."""
PARALLEL_MIN_EXPLAINED: Final = 8
"""The same for attributions, which take some hundred times as long a row."""
CHECKED_ROWS: Final = 20_000
"""Rows between two questions whether the forecast is still wanted: less than a tenth of a second
on two threads."""

FlagArray = npt.NDArray[np.uint8]
Origin = int | npt.NDArray[np.int64]
"""One origin for all rows, or one for each (n,), in epoch days."""


@dataclass(frozen=True, slots=True)
class ForecastRequest:
    """Rows to forecast, and how.

    ``as_of``: the origin in epoch days; None takes the last day of history, or the day before the
    earliest row where rows lie in the past. ``levels``: of prediction intervals, between 0 and 1.
    ``quantiles``: of a day's sales, from .01 to .99.
    """

    rows: StoreDays
    as_of: int | None = None
    levels: tuple[float, ...] = ()
    objective: Objective = "accuracy"
    quantiles: tuple[float, ...] = ()

    def take(
        self, index: npt.NDArray[np.integer] | slice, as_of: int | None = None
    ) -> "ForecastRequest":
        """The same for the rows at ``index``, as of ``as_of``."""
        return ForecastRequest(
            self.rows.take(index), as_of, self.levels, self.objective, self.quantiles
        )


@dataclass(frozen=True, slots=True)
class Interval:
    """Prediction interval of each row at one level, in sales: arrays (n,)."""

    level: float
    lower: FloatArray
    upper: FloatArray


@dataclass(frozen=True, slots=True)
class Quantile:
    """A quantile, .01 to .99, and the sales of each row at it: array (n,)."""

    quantile: float
    sales: FloatArray


class RowForecasts(NamedTuple):
    """Sales (n,) of rows with what was requested beside them."""

    sales: FloatArray
    intervals: tuple[Interval, ...] = ()
    quantiles: tuple[Quantile, ...] = ()

    def take(self, index: npt.NDArray[np.integer] | slice) -> "RowForecasts":
        """The same for the rows at ``index``."""
        return RowForecasts(
            self.sales[index],
            tuple(Interval(i.level, i.lower[index], i.upper[index]) for i in self.intervals),
            tuple(Quantile(q.quantile, q.sales[index]) for q in self.quantiles),
        )


@dataclass(frozen=True, slots=True)
class Forecast:
    """Sales of n rows in their order, as of the end of the epoch day ``as_of``."""

    sales: FloatArray
    as_of: int
    intervals: tuple[Interval, ...]
    warnings: tuple[RowWarning, ...]
    objective: Objective = "accuracy"
    quantiles: tuple[Quantile, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """A forecast and the attributions of each row; a closed row has only the driver ``closed``.

    ``other_promo`` (n,): the forecasts of the same rows with the promotion switched, off where it
    is on and on where it is off.
    """

    forecast: Forecast
    baseline: FloatArray
    factors: dict[str, FloatArray]
    sales: dict[str, FloatArray]
    promo: FlagArray
    other_promo: FloatArray


class Forecaster:
    """One model version over one panel.

    ``training_span``: the days that the version learned from, however much newer the panel is.
    """

    def __init__(
        self, panel: "Panel", ensemble: "Ensemble", threads: int = 1, short_history: int = 31
    ) -> None:
        self.panel = panel
        self.ensemble = ensemble
        self.training_span = training_span(ensemble.card, panel.info.dataset)
        self._rare_season = rare_season_days(ensemble.card, panel)
        self._threads = threads
        self._short_history = short_history

    def with_panel(self, panel: "Panel") -> "Forecaster":
        """The same version over another panel."""
        return Forecaster(panel, self.ensemble, self._threads, self._short_history)

    def single_threaded(self) -> "Forecaster":
        """The same for callers that bring threads of their own."""
        return Forecaster(self.panel, self.ensemble, 1, self._short_history)

    def forecast(
        self, request: ForecastRequest, check: Callable[[], None] = lambda: None
    ) -> Forecast:
        """Forecast each row.

        Intervals and quantiles are those of a day's sales, whatever the objective.

        ``check`` is called between parts of the rows, and may raise to end the work. Raises
        ``RequestError`` for stores and days that cannot be forecast, ``CorruptModelError`` where
        the model gives something that is not a number.
        """
        origin = self.resolve_origin(request)
        sales, intervals, quantiles = self.predict_rows(request, origin, check)
        warnings = self.warnings(request.rows, origin)
        return Forecast(sales, origin, intervals, warnings, request.objective, quantiles)

    def resolve_origin(self, request: ForecastRequest) -> int:
        """The origin of a request; raises ``RequestError`` for what ``forecast`` refuses."""
        rows = request.rows
        if not len(rows):
            raise RequestError(
                [ErrorDetail(("inputs",), "inputs must hold at least one row", "too_short")]
            )
        errors = self._option_errors(request)
        first, last = self.panel.first_day, self.panel.last_day
        lowest_index, earliest, latest = self.panel.row_extent(rows)
        if request.as_of is None:
            origin = min(last, earliest - 1)
        else:
            origin = request.as_of
            errors += check_as_of(self.panel, origin)
        past = earliest <= max(origin, first)
        if errors or past or latest > last_forecast_day(last) or lowest_index < 0:
            raise RequestError(errors + check_rows(self.panel, rows, origin))
        return origin

    def _option_errors(self, request: ForecastRequest) -> list[ErrorDetail]:
        errors: list[ErrorDetail] = []
        if request.levels:
            calibrated = self.ensemble.card["intervals"]["levels"]
            low, high = min(calibrated), max(calibrated)
            msg = (
                f"a level must be from {low} to {high}, the range that this version is calibrated"
                " for"
            )
            errors += [
                ErrorDetail(("intervals", index), f"{msg} (got {level})", "level_range")
                for index, level in enumerate(request.levels)
                if not low <= level <= high
            ]
        errors += [
            ErrorDetail(
                ("quantiles", index),
                f"a quantile must be from {MIN_QUANTILE} to {MAX_QUANTILE} (got {quantile})",
                "quantile_range",
            )
            for index, quantile in enumerate(request.quantiles)
            if not MIN_QUANTILE <= quantile <= MAX_QUANTILE
        ]
        if request.objective != "accuracy" and BIAS_CORRECTION_KEY not in self.ensemble.card:
            msg = (
                "this version was made before there were unbiased totals: ask for objective"
                f" accuracy, or train a new version with: {shell_command('train')}"
            )
            errors.append(ErrorDetail(("objective",), msg, "no_correction"))
        return errors

    def warning_flags(self, rows: StoreDays, origin: Origin) -> WarningFlags:
        """The warnings of each row (n,) as bits of ``schema``."""
        flags = self.panel.warning_flags(rows, origin, self._short_history)
        flags |= self._rare_season[rows.day - self.panel.first_day] * (rows.open > 0)
        earliest = origin if isinstance(origin, int) else origin.min()
        # Rows lie after their origin: most requests need this comparison only.
        if earliest < self.training_span.last:
            flags[is_in_training(rows.day, rows.open, *self.training_span)] |= IN_TRAINING
        return flags

    def warning_masks(
        self, rows: StoreDays, origin: int, flags: WarningFlags | None = None
    ) -> WarningMasks:
        """The warnings in words with the rows of each; ``flags``: where they are computed."""
        flags = self.warning_flags(rows, origin) if flags is None else flags
        return find_warnings(self.panel, rows, origin, flags, self._short_history)

    def warnings(
        self, rows: StoreDays, origin: int, flags: WarningFlags | None = None
    ) -> tuple[RowWarning, ...]:
        """The warnings with counts and the first rows of each."""
        masks = self.warning_masks(rows, origin, flags)
        return tuple(row_warning(name, msg, mask.nonzero()[0]) for name, msg, mask in masks)

    def explain(
        self, request: ForecastRequest, check: Callable[[], None] = lambda: None
    ) -> Explanation:
        """Forecast each row and attribute it to drivers; raises what ``forecast`` raises.

        ``check`` is called between rows, and may raise to end the work.
        """
        # Imported here: it takes seconds, and a service that may not start must say so at once.
        from rossmann.models.inference.attributions import TOTALS, attribute

        rows, forecast = request.rows, self.forecast(request, check)
        matrix = self.panel.matrix(rows, forecast.as_of)
        components = self.panel.offset_components(rows, forecast.as_of)
        threads = self._threads if len(rows) >= PARALLEL_MIN_EXPLAINED else 1
        sales = self.ensemble.predict(matrix, threads=threads)
        attribution = attribute(self.ensemble, matrix, components, sales, threads, check)
        if request.objective == "unbiased":
            attribution = attribution.with_factor(TOTALS, self._bias_factors(matrix))
        attribution = attribution.with_closed_days(rows.open == 0)
        other_rows = replace(rows, promo=(rows.promo == 0).astype(np.uint8))
        switched = replace(request, rows=other_rows, levels=(), quantiles=())
        return Explanation(
            forecast,
            attribution.baseline,
            attribution.factors,
            attribution.sales_amounts(),
            rows.promo,
            self.predict_rows(switched, forecast.as_of, check).sales,
        )

    def _bias_factors(self, matrix: FeatureMatrix) -> FloatArray:
        return bias_factors(self.ensemble.card[BIAS_CORRECTION_KEY], matrix)

    def predict_rows(
        self, request: ForecastRequest, origin: Origin, check: Callable[[], None] = lambda: None
    ) -> RowForecasts:
        """Forecasts of a request that ``resolve_origin`` accepts; closed rows are 0.

        ``check`` is called between parts of the rows, and may raise to end the work.
        """
        rows = request.rows
        open_rows = rows.open.nonzero()[0]
        if len(open_rows) == len(rows) <= CHECKED_ROWS:
            return self._predict_open_rows(request, origin)
        sales = np.zeros(len(rows))
        intervals = tuple(
            Interval(level, np.zeros(len(rows)), np.zeros(len(rows))) for level in request.levels
        )
        quantiles = tuple(Quantile(p, np.zeros(len(rows))) for p in request.quantiles)
        for start in range(0, len(open_rows), CHECKED_ROWS):
            check()
            part = open_rows[start : start + CHECKED_ROWS]
            part_origin = origin if isinstance(origin, int) else origin[part]
            predicted = self._predict_open_rows(request.take(part), part_origin)
            sales[part] = predicted.sales
            for interval, bounds in zip(intervals, predicted.intervals, strict=True):
                interval.lower[part], interval.upper[part] = bounds.lower, bounds.upper
            for quantile, values in zip(quantiles, predicted.quantiles, strict=True):
                quantile.sales[part] = values.sales
        return RowForecasts(sales, intervals, quantiles)

    def _predict_open_rows(self, request: ForecastRequest, origin: Origin) -> RowForecasts:
        rows = request.rows
        matrix = self.panel.matrix(rows, origin)
        threads = self._threads if len(rows) >= PARALLEL_MIN_ROWS else 1
        predicted = np.maximum(self.ensemble.predict(matrix, threads=threads), 0.0)
        if not np.logical_and.reduce(np.isfinite(predicted)):  # ``all`` takes three times as long
            raise CorruptModelError(
                "the model gave something that is no number: load another version"
            )
        unbiased = request.objective == "unbiased"
        sales = predicted * self._bias_factors(matrix) if unbiased else predicted
        if not (request.levels or request.quantiles):
            return RowForecasts(sales)
        inputs = IntervalInputs(matrix, rows.day, predicted)
        return RowForecasts(
            sales,
            self._intervals(inputs, request.levels),
            self._quantiles(inputs, request.quantiles),
        )

    def _intervals(self, inputs: IntervalInputs, levels: tuple[float, ...]) -> tuple[Interval, ...]:
        if not levels:
            return ()
        bounds = self.ensemble.bounds(inputs, levels)
        return tuple(
            Interval(level, np.maximum(lower, 0.0), upper)
            for level, (lower, upper) in zip(levels, bounds, strict=True)
        )

    def _quantiles(
        self, inputs: IntervalInputs, quantiles: tuple[float, ...]
    ) -> tuple[Quantile, ...]:
        if not quantiles:
            return ()
        sales = self.ensemble.quantiles(inputs, quantiles)
        return tuple(
            Quantile(p, np.maximum(values, 0.0)) for p, values in zip(quantiles, sales, strict=True)
        )
