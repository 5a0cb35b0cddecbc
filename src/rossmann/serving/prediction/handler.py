"""Handlers of ``POST /predict``, which must be fast, and ``POST /explain``, which takes seconds.

A few rows for a loaded version take less time than a thread needs to wake: they are answered on
the event loop, in micro-batches where many come at once. Large bodies, totals and versions that
must be loaded go to threads; the kernels release the interpreter lock. Explanations have threads
of their own, so that forecasts do not wait for them.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from time import perf_counter
from typing import Any, Final, TypeVar

from pydantic_core import to_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from rossmann.epoch_days import format_iso_day
from rossmann.errors import ErrorDetail, RequestError
from rossmann.installation import shell_command
from rossmann.models.inference.attributions import explanation_records
from rossmann.models.inference.forecaster import Forecast, Forecaster, ForecastRequest
from rossmann.models.inference.row_warnings import RowWarning
from rossmann.models.inference.totals import TOTALS_KEY, Totals, forecast_totals
from rossmann.process_memory import release_freed_memory
from rossmann.schema import STORE_TYPES, Objective, StoreDays
from rossmann.serving.access.access_control import AccessControl
from rossmann.serving.access.api_keys import Permission
from rossmann.serving.experiments.experiment import TrafficSplit, is_eligible, take_rows
from rossmann.serving.experiments.shadow import RunningExperiment, ShadowJob
from rossmann.serving.middleware import NextTickTask
from rossmann.serving.observability.access_log import request_record
from rossmann.serving.observability.metrics import Metrics
from rossmann.serving.observability.prediction_recorder import PredictCall, PredictionRecorder
from rossmann.serving.observability.tracing import span, with_current_context
from rossmann.serving.prediction.micro_batching import MicroBatcher
from rossmann.serving.prediction.threads import Cancellation, VersionLoader, WorkThreads
from rossmann.serving.request_parsing.body import BodyBudget, read_body, reject_query
from rossmann.serving.request_parsing.predict_parser import PredictInputs, parse_inputs
from rossmann.serving.runtime.cpu_affinity import unpinned
from rossmann.serving.runtime.service import Service
from rossmann.settings import Settings

_LARGE_BODY: Final = 1 << 20
"""Bytes; the parse of a smaller body leaves little memory behind."""
T = TypeVar("T")

INLINE_BODY_BYTES: Final = 4_096
"""Bytes of a body that holds few rows: some two dozen."""
INLINE_ROWS: Final = 24
"""Rows that are forecast on the event loop: in less than a millisecond."""


@dataclass(frozen=True, slots=True)
class _Prediction:
    """A call with its forecast; ``split``: the rows of a challenger, where one answered some."""

    call: PredictCall
    inputs: PredictInputs
    forecast: Forecast
    split: TrafficSplit | None = None


def _never_cancelled() -> None:
    """The check of work on the event loop, which takes less than a millisecond."""


class PredictHandler:
    """Answers request bodies; ``close`` ends its threads."""

    def __init__(
        self,
        settings: Settings,
        service: Service,
        access_control: AccessControl,
        metrics: Metrics,
        recorder: PredictionRecorder,
        running: RunningExperiment | None = None,
    ) -> None:
        self._max_rows = settings.max_rows
        self._max_bytes = settings.max_body_mb << 20
        self._bodies = BodyBudget(settings.max_bodies_mb << 20, self._max_bytes)
        self._service = service
        self._access_control = access_control
        self._metrics = metrics
        self._recorder = recorder
        self._experiment = None if running is None else running.experiment
        self._shadow = None if running is None else running.shadow
        # A large request uses several threads itself, and much memory: few at a time.
        threads = max(2, settings.thread_count)
        self._predict_pool = ThreadPoolExecutor(threads, "predict", initializer=unpinned())
        self._explain_pool = ThreadPoolExecutor(2, "explain", initializer=unpinned())
        self._predict_threads = WorkThreads(self._predict_pool)
        self._explain_threads = WorkThreads(self._explain_pool)
        self._loader = VersionLoader(service.versions)
        self._batcher = MicroBatcher(lambda: metrics.in_flight)
        self._max_explained = min(settings.explain_max_rows, settings.max_rows)
        self._objective: Objective = settings.objective

    async def handle(self, request: Request) -> Response:
        """Answer ``POST /predict``."""
        record, started = request_record(request), perf_counter()
        inputs = await self._read(request, self._predict_pool, self._max_rows, INLINE_BODY_BYTES)
        if inputs is None:
            return Response(status_code=400)
        version = await self._loader.get(inputs.model_stage)
        call = PredictCall("predict", record, version, started)
        if inputs.totals or len(inputs.request.rows) > INLINE_ROWS:
            predict = partial(self._predict, call, inputs)
            return await self._predict_threads.run(request, predict) or Response(status_code=400)
        if self._is_split(inputs):
            return self._predict(call, inputs)
        with span("forecast"):
            forecast = await self._batcher.forecast(version.served.forecaster, inputs.request)
        return self._respond(_Prediction(call, inputs, forecast))

    async def handle_explain(self, request: Request) -> Response:
        """Answer ``POST /explain``."""
        record, started = request_record(request), perf_counter()
        inputs = await self._read(request, self._explain_pool, self._max_explained)
        if inputs is None:
            return Response(status_code=400)
        version = await self._loader.get(inputs.model_stage)
        call = PredictCall("explain", record, version, started)
        explain = partial(self._explain, call, inputs)
        return await self._explain_threads.run(request, explain) or Response(status_code=400)

    async def _read(
        self, request: Request, pool: ThreadPoolExecutor, max_rows: int, inline_bytes: int = 0
    ) -> PredictInputs | None:
        """The inputs of an authorized caller, whose rows are reserved; None where it disconnected.

        A body of up to ``inline_bytes`` is parsed on the event loop. None is kept after that.
        """
        caller = await self._access_control.authorize(request, Permission.PREDICT)
        if request.scope["query_string"]:
            reject_query(request)
        try:
            hold = partial(self._bodies.hold, request, caller.id)
            body = await read_body(request, self._max_bytes, hold)
            if len(body) > inline_bytes:
                inputs = await _run(pool, self._parse, body, max_rows)
            else:
                inputs = self._parse(body, max_rows)
        except ClientDisconnect:
            return None
        finally:
            self._bodies.release(request, caller.id)
        if self._access_control.counts_rows:
            await self._access_control.reserve_rows(request, len(inputs.request.rows))
        return inputs

    def _parse(self, body: bytes, max_rows: int) -> PredictInputs:
        try:
            with span("read"):
                return parse_inputs(body, self._service.panel, max_rows, self._objective)
        finally:
            if len(body) >= _LARGE_BODY:
                release_freed_memory()

    def _predict(
        self, call: PredictCall, inputs: PredictInputs, cancellation: Cancellation | None = None
    ) -> Response:
        check = _never_cancelled if cancellation is None else cancellation.check
        with span("forecast"):
            split, forecast = self._split(call, inputs), None
            if split is not None and self._experiment is not None:
                forecast = self._experiment.forecast(call.version, split, inputs.request, check)
            if forecast is None:
                forecaster = call.version.served.forecaster
                split, forecast = None, forecaster.forecast(inputs.request, check)
        return self._respond(_Prediction(call, inputs, forecast, split), check)

    def _explain(
        self, call: PredictCall, inputs: PredictInputs, cancellation: Cancellation
    ) -> Response:
        with span("explain"):
            split, explained = self._split(call, inputs), None
            if split is not None and self._experiment is not None:
                explained = self._experiment.explain(
                    call.version, split, inputs.request, cancellation.check
                )
            if explained is None:
                forecaster = call.version.served.forecaster
                explanation = forecaster.explain(inputs.request, cancellation.check)
                split, explained = None, (explanation.forecast, explanation_records(explanation))
        forecast, records = explained
        prediction = _Prediction(call, inputs, forecast, split)
        return self._respond(prediction, cancellation.check, explanations=records)

    def _split(self, call: PredictCall, inputs: PredictInputs) -> TrafficSplit | None:
        if self._experiment is None or inputs.totals or not self._is_split(inputs):
            return None
        return self._experiment.split(call.version, inputs.request)

    def _is_split(self, inputs: PredictInputs) -> bool:
        """Whether a challenger answers some stores of such a request."""
        experiment = self._experiment
        return (
            experiment is not None and experiment.mode == "ab" and is_eligible(inputs.model_stage)
        )

    def _respond(
        self,
        prediction: _Prediction,
        check: Callable[[], None] = _never_cancelled,
        **more_fields: object,
    ) -> Response:
        """The response; it is counted and logged after it is sent."""
        call, inputs, split = prediction.call, prediction.inputs, prediction.split
        challenger = None if split is None else split.to_response()
        more_warnings = self._experiment_warnings(inputs)
        content = predict_response(
            call, inputs, prediction.forecast, challenger, more_warnings, check
        )
        with span("write"):
            body = to_json({**content, **more_fields})
        call.record.rows = len(inputs.request.rows)
        call.record.model_version = call.version.served.version
        task = NextTickTask(self._record, prediction, call.finished(), content["warnings"])
        return Response(body, media_type="application/json", background=task)

    def _experiment_warnings(self, inputs: PredictInputs) -> list[RowWarning]:
        if self._experiment is None or not inputs.totals or not self._is_split(inputs):
            return []
        return self._experiment.single_version_warnings(inputs.request.rows)

    def _record(
        self, prediction: _Prediction, call: PredictCall, warnings: list[dict[str, Any]]
    ) -> None:
        """Count and log an answer by version; submit it to a shadow challenger."""
        inputs, forecast, split = prediction.inputs, prediction.forecast, prediction.split
        rows = inputs.request.rows
        self._metrics.rows_forecast(call.endpoint, len(rows))
        for warning in warnings:
            self._metrics.rows_warned(warning["type"], warning["count"])
        if split is not None:
            self._record_split(call, rows, forecast, split)
            return
        self._recorder.record(call, rows, forecast)
        if self._experiment is not None and is_eligible(inputs.model_stage):
            self._metrics.experiment_rows("answer", len(rows))
            if self._shadow is not None:
                panel = call.version.served.forecaster.panel
                self._shadow.submit(ShadowJob(call, panel, inputs.request, forecast.as_of))

    def _record_split(
        self, call: PredictCall, rows: StoreDays, forecast: Forecast, split: TrafficSplit
    ) -> None:
        answered_at = datetime.now(UTC)
        for index, version, role in split.parts(call.version):
            if len(index):
                self._recorder.record(
                    call.by_version(version),
                    rows.take(index),
                    take_rows(forecast, index),
                    role,
                    index,
                    answered_at,
                )
                self._metrics.experiment_rows(role, len(index))

    def close(self) -> None:
        """End the threads; what still runs when the service stops ends at its next part."""
        self._explain_threads.close()
        self._predict_threads.close()


async def _run(pool: ThreadPoolExecutor, work: Callable[..., T], *arguments: object) -> T:
    """``work`` in a thread of ``pool``."""
    return await asyncio.get_running_loop().run_in_executor(
        pool, with_current_context(work), *arguments
    )


def predict_response(
    call: PredictCall,
    inputs: PredictInputs,
    forecast: Forecast,
    challenger: dict[str, Any] | None,
    more_warnings: Sequence[RowWarning] = (),
    check: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The fields of ``schemas.forecasts.PredictResponse``.

    A plain dictionary: to build and dump the pydantic model takes longer than a row's features.
    ``check`` is called between parts of the work, and may raise to end it.
    """
    warnings = [*inputs.warnings, *forecast.warnings, *more_warnings]
    served = call.version.served
    return {
        "predictions": forecast.sales.tolist(),
        "model_version": served.version,
        "model_stage": call.version.stage,
        "challenger": challenger,
        "count": len(inputs.request.rows),
        "as_of": format_iso_day(forecast.as_of),
        "objective": forecast.objective,
        "intervals": [
            {"level": i.level, "lower": i.lower.tolist(), "upper": i.upper.tolist()}
            for i in forecast.intervals
        ],
        "quantiles": [
            {"quantile": q.quantile, "sales": q.sales.tolist()} for q in forecast.quantiles
        ],
        "totals": _totals(served.forecaster, inputs, forecast, check) if inputs.totals else [],
        "warnings": [warning.as_dict() for warning in warnings],
        "request_id": call.record.request_id,
    }


def _totals(
    forecaster: Forecaster, inputs: PredictInputs, forecast: Forecast, check: Callable[[], None]
) -> list[dict[str, Any]]:
    """Totals of the forecast rows with intervals and quantiles, as the forecast has them.

    Raises ``RequestError`` where the version has no tables for totals, and for duplicate rows.
    """
    if TOTALS_KEY not in forecaster.ensemble.card:
        msg = f"this version has no bands of totals: train a new one with: {shell_command('train')}"
        raise RequestError([ErrorDetail(("totals",), msg, "no_totals")])
    request = replace(inputs.request, as_of=forecast.as_of, objective=forecast.objective)
    totals = forecast_totals(forecaster, request, forecast.as_of, inputs.totals, check)
    return [_totals_record(one, request) for one in totals]


def _totals_record(totals: Totals, request: ForecastRequest) -> dict[str, Any]:
    return {
        "by": totals.by,
        "store": [None if store < 0 else store for store in totals.store.tolist()],
        "store_type": [None if code < 0 else STORE_TYPES[code] for code in totals.store_type],
        "first": [format_iso_day(day) for day in totals.first],
        "last": [format_iso_day(day) for day in totals.last],
        "rows": totals.rows.tolist(),
        "sales": totals.sales.tolist(),
        "intervals": [
            {"level": level, "lower": lower.tolist(), "upper": upper.tolist()}
            for level, (lower, upper) in zip(request.levels, totals.intervals, strict=True)
        ],
        "quantiles": [
            {"quantile": quantile, "sales": sales.tolist()}
            for quantile, sales in zip(request.quantiles, totals.quantiles, strict=True)
        ],
    }
