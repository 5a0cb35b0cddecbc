"""``POST /predict``, the one route that must be fast, and ``POST /explain``, which cannot be.

A few rows for a version in memory take less time than to wake a thread: they are answered on the
event loop, together where many come at once. All else is answered in threads: a large body, a
version that must be loaded, totals. The kernels let go of the interpreter while they work.
Explanations take seconds: they have threads of their own, so that forecasts do not queue behind
them; so do versions that must be loaded.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, Final, NamedTuple, TypeVar

from pydantic_core import to_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from rossmann.models.inference.attributions import explanation_records
from rossmann.models.inference.forecaster import Forecast
from rossmann.models.inference.row_warnings import RowWarning
from rossmann.prediction_log.records import Endpoint
from rossmann.schema import Objective
from rossmann.serving.access.access_control import AccessControl
from rossmann.serving.access.api_keys import Permission
from rossmann.serving.experiments.experiment import Asked, TrafficSplit, is_eligible, take_rows
from rossmann.serving.experiments.shadow import RunningExperiment, ShadowJob
from rossmann.serving.observability.access_log import RequestRecord, request_record
from rossmann.serving.observability.metrics import Metrics
from rossmann.serving.observability.prediction_recorder import NextTickTask, PredictionRecorder
from rossmann.serving.observability.tracing import span, with_current_context
from rossmann.serving.prediction.micro_batching import MicroBatcher
from rossmann.serving.prediction.response import predict_response
from rossmann.serving.prediction.version_loader import VersionLoader
from rossmann.serving.request_parsing.body import read_body
from rossmann.serving.request_parsing.predict_inputs import PredictInputs, parse_inputs
from rossmann.serving.runtime.cpu_affinity import unpinned
from rossmann.serving.runtime.service import Service
from rossmann.serving.runtime.version_manager import SelectedVersion
from rossmann.settings import Settings

T = TypeVar("T")

INLINE_BODY_BYTES: Final = 4_096
"""Bytes of a body that holds few rows: some two dozen."""
INLINE_ROWS: Final = 24
"""Rows that are answered on the event loop: in less than a millisecond."""


class _Prediction(NamedTuple):
    """A forecast for whoever asked, before it is told; ``split``: of which challenger a part is."""

    door: Endpoint
    line: RequestRecord
    inputs: PredictInputs
    picked: SelectedVersion
    forecast: Forecast
    split: TrafficSplit | None


class PredictHandler:
    """Answers bodies; ``close`` ends its threads."""

    def __init__(
        self,
        settings: Settings,
        service: Service,
        guard: AccessControl,
        metrics: Metrics,
        journal: PredictionRecorder,
        trial: RunningExperiment | None = None,
    ) -> None:
        self._max_rows = settings.max_rows
        self._max_bytes = settings.max_body_mb * 2**20
        self._service = service
        self._guard = guard
        self._metrics = metrics
        self._journal = journal
        self._experiment = None if trial is None else trial.experiment
        self._shadow = None if trial is None else trial.shadow
        # A large one uses several threads itself, and much memory: few at a time.
        threads = max(2, settings.thread_count)
        self._pool = ThreadPoolExecutor(threads, "predict", initializer=unpinned())
        self._slow = ThreadPoolExecutor(2, "explain", initializer=unpinned())
        self._loader = VersionLoader(service.versions)
        self._together = MicroBatcher(lambda: metrics.in_flight)
        self._most_explained = min(settings.explain_max_rows, settings.max_rows)
        self._objective: Objective = settings.objective

    async def handle(self, request: Request) -> Response:
        """Read a request for forecasts, answer it, and send."""
        line, begun = request_record(request), perf_counter()
        body = await self._body(request)
        if body is None:
            return Response(status_code=400)
        if len(body) > INLINE_BODY_BYTES:
            inputs = await _run(self._pool, self._read, body, self._max_rows)
        else:
            inputs = self._read(body, self._max_rows)
        picked = await self._loader.get(inputs.model_stage)
        if inputs.totals or len(inputs.rows) > INLINE_ROWS:
            return await _run(self._pool, self._answer, inputs, picked, line, begun)
        if self._splits(inputs):
            return self._answer(inputs, picked, line, begun)
        with span("forecast"):
            found = await self._together.forecast(picked.served.forecaster, *self._asked(inputs))
        return self._tell(_Prediction("predict", line, inputs, picked, found, None), begun)

    async def handle_explain(self, request: Request) -> Response:
        """The same for forecasts with what drove them."""
        line, begun = request_record(request), perf_counter()
        body = await self._body(request)
        if body is None:
            return Response(status_code=400)
        inputs = await _run(self._slow, self._read, body, self._most_explained)
        picked = await self._loader.get(inputs.model_stage)
        return await _run(self._slow, self._explain, inputs, picked, line, begun)

    async def _body(self, request: Request) -> bytes | None:
        """The body of a caller who may send it; None where they went away."""
        await self._guard.authorize(request, Permission.PREDICT)
        try:
            return await read_body(request, self._max_bytes)
        except ClientDisconnect:
            return None

    def _answer(
        self, inputs: PredictInputs, picked: SelectedVersion, line: RequestRecord, begun: float
    ) -> Response:
        """Raises the product's errors."""
        asked = self._asked(inputs)
        with span("forecast"):
            split, forecast = self._split(inputs, picked, asked), None
            if split is not None and self._experiment is not None:
                forecast = self._experiment.forecast(picked, split, asked)
            if forecast is None:
                split, forecast = None, picked.served.forecaster.forecast(*asked)
        return self._tell(_Prediction("predict", line, inputs, picked, forecast, split), begun)

    def _explain(
        self, inputs: PredictInputs, picked: SelectedVersion, line: RequestRecord, begun: float
    ) -> Response:
        """The same with what drove each row, by the version that answers it."""
        asked = self._asked(inputs)
        with span("explain"):
            split, both = self._split(inputs, picked, asked), None
            if split is not None and self._experiment is not None:
                both = self._experiment.explain(picked, split, asked)
            if both is None:
                found = picked.served.forecaster.explain(*asked)
                split, both = None, (found.forecast, explanation_records(found))
        forecast, drivers = both
        made = _Prediction("explain", line, inputs, picked, forecast, split)
        return self._tell(made, begun, explanations=drivers)

    def _split(
        self, inputs: PredictInputs, picked: SelectedVersion, asked: Asked
    ) -> TrafficSplit | None:
        if self._experiment is None or not self._splits(inputs):
            return None
        return None if inputs.totals else self._experiment.split(picked, asked)

    def _splits(self, inputs: PredictInputs) -> bool:
        """Whether a challenger answers some stores; in the shadow it comes behind the answer."""
        experiment = self._experiment
        return (
            experiment is not None and experiment.mode == "ab" and is_eligible(inputs.model_stage)
        )

    def _tell(self, made: _Prediction, begun: float, **more: object) -> Response:
        """The answer, behind which it is counted and logged."""
        line = made.line
        told = {**self._told(made), **more}
        with span("write"):
            content = to_json(told)
        line.rows, line.model_version = len(made.inputs.rows), made.picked.served.version
        noted = NextTickTask(self._note, made, perf_counter() - begun, told["warnings"])
        return Response(content, media_type="application/json", background=noted)

    def _note(self, made: _Prediction, took: float, warnings: list[dict[str, Any]]) -> None:
        """Count and log what was answered, and by whom; a challenger in the shadow comes then."""
        door, line, inputs, picked, forecast, split = made
        rows, note = inputs.rows, self._journal.record
        self._metrics.rows_forecast(door, len(rows))
        for warning in warnings:
            self._metrics.rows_warned(warning["type"], warning["count"])
        if split is not None:
            now = datetime.now(UTC)
            for places, who, role in split.parts(picked):
                if len(places):
                    some = take_rows(forecast, places)
                    part = (door, line, who, rows.take(places), some, took, role)
                    note(*part, places=places, at=now)
                    self._metrics.experiment(role, len(places))
            return
        note(door, line, picked, rows, forecast, took)
        if self._experiment is not None and is_eligible(inputs.model_stage):
            self._metrics.experiment("answer", len(rows))
            if self._shadow is not None:
                panel, asked = picked.served.forecaster.panel, self._asked(inputs)
                self._shadow.submit(
                    ShadowJob(door, line, panel, rows, forecast.as_of, asked[2], asked[3])
                )

    def _read(self, body: bytes, most: int) -> PredictInputs:
        with span("read"):
            return parse_inputs(body, self._service.panel, most)

    def _asked(self, inputs: PredictInputs) -> Asked:
        objective = inputs.objective or self._objective
        return inputs.rows, inputs.as_of, inputs.levels, objective

    def _told(self, made: _Prediction) -> dict[str, Any]:
        _, line, inputs, picked, forecast, split = made
        dealt = None if split is None else split.to_response()
        more = self._of_one_version(inputs)
        return predict_response(inputs, picked, forecast, line.request_id, dealt, more)

    def _of_one_version(self, inputs: PredictInputs) -> list[RowWarning]:
        if not inputs.totals or self._experiment is None or self._experiment.mode != "ab":
            return []
        here = is_eligible(inputs.model_stage)
        return self._experiment.single_version_warnings(inputs.rows) if here else []

    def close(self) -> None:
        """End the threads when their work is done."""
        self._pool.shutdown()
        self._slow.shutdown()


async def _run(pool: ThreadPoolExecutor, answer: Callable[..., T], *given: object) -> T:
    """``answer`` in a thread of ``pool``."""
    return await asyncio.get_running_loop().run_in_executor(
        pool, with_current_context(answer), *given
    )
