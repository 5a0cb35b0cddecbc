"""``POST /predict``: the one route that must be fast.

A body is read on the event loop and answered in a thread, however small it is: with the full
ensemble one row costs about a millisecond, and other requests must not wait for it. The boosters
let go of the interpreter while they work.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from pydantic_core import to_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from rossmann.errors import Fault, TooLarge
from rossmann.serving.columns import Inputs, iso, read_inputs
from rossmann.serving.forecaster import Warned, warned
from rossmann.serving.runtime import Service
from rossmann.serving.security import Keys, Role
from rossmann.serving.versions import Picked
from rossmann.serving.watch import Metrics
from rossmann.settings import Settings


class Predictor:
    """Answers bodies; ``close`` ends its threads."""

    def __init__(self, settings: Settings, service: Service, keys: Keys, metrics: Metrics) -> None:
        self._max_rows = settings.max_rows
        self._max_bytes = settings.max_body_mb * 2**20
        self._service = service
        self._keys = keys
        self._metrics = metrics
        # A large one uses several threads itself, and much memory: few at a time.
        self._pool = ThreadPoolExecutor(max(2, settings.thread_count), thread_name_prefix="predict")

    async def handle(self, request: Request) -> Response:
        """Read, answer off the event loop, and send."""
        self._keys.check(request.headers, Role.VIEWER)
        try:
            body = await read_body(request, self._max_bytes)
        except ClientDisconnect:
            return Response(status_code=400)
        request_id = request.state.request_id
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(self._pool, self.answer, body, request_id)
        return Response(answer, media_type="application/json")

    def answer(self, body: bytes, request_id: str) -> bytes:
        """The answer to a body, as JSON; may take seconds; raises the product's errors."""
        inputs = read_inputs(body, self._service.panel, self._max_rows)
        # Picked once: the whole request is one version's.
        picked = self._service.versions.load(inputs.model_stage)
        return self._write(inputs, picked, request_id)

    def _write(self, inputs: Inputs, picked: Picked, request_id: str) -> bytes:
        forecast = picked.served.forecaster.forecast(inputs.rows, inputs.as_of, inputs.levels)
        warnings = [*_weekdays(inputs), *forecast.warnings]
        self._metrics.rows.inc(len(inputs.rows))
        for warning in warnings:
            self._metrics.warnings.labels(warning.type).inc(warning.count)
        return to_json(
            {
                "predictions": forecast.sales.tolist(),
                "model_version": picked.served.version,
                "model_stage": picked.stage,
                "count": len(inputs.rows),
                "as_of": iso(forecast.as_of),
                "intervals": [
                    {
                        "level": band.level,
                        "lower": band.lower.tolist(),
                        "upper": band.upper.tolist(),
                    }
                    for band in forecast.bands
                ],
                "warnings": [
                    {"type": w.type, "msg": w.msg, "count": w.count, "rows": w.rows}
                    for w in warnings
                ],
                "request_id": request_id,
            }
        )

    def close(self) -> None:
        """End the threads when their work is done."""
        self._pool.shutdown()


def _weekdays(inputs: Inputs) -> list[Warned]:
    if not len(inputs.weekday_off):
        return []
    msg = "DayOfWeek contradicts Date: the Date decides"
    return [warned("day_of_week", msg, np.asarray(inputs.weekday_off))]


async def read_body(request: Request, most: int) -> bytes:
    """The body; raises ``TooLarge`` as soon as it is known to be longer than ``most`` bytes."""
    told = request.headers.get("content-length", "0")
    if told.isdecimal() and (len(told) > 18 or int(told) > most):
        raise _too_long(most)
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise _too_long(most)
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_long(most: int) -> TooLarge:
    msg = f"a body may hold at most {most // 2**20} MB: send the rows in parts"
    return TooLarge([Fault(("body",), msg, "too_many_bytes")])
