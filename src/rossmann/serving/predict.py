"""``POST /predict``: the one route that must be fast.

A request of few rows is answered in a thread of its own pool, so that none waits behind a large
one; the event loop only reads and writes.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
from pydantic_core import to_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from rossmann.errors import Fault, TooLarge
from rossmann.serving.columns import Inputs, iso, read_inputs
from rossmann.serving.forecaster import Forecast, Warned, warned
from rossmann.serving.runtime import Service
from rossmann.serving.security import Keys, Role
from rossmann.serving.versions import Picked
from rossmann.serving.watch import Metrics
from rossmann.settings import Settings

SMALL_BODY: Final = 8_192
"""Bytes up to which a request counts as small: some 60 rows."""


class Predictor:
    """Answers bodies; ``close`` ends its threads."""

    def __init__(self, settings: Settings, service: Service, keys: Keys, metrics: Metrics) -> None:
        self._max_rows = settings.max_rows
        self._max_bytes = settings.max_body_mb * 2**20
        self._service = service
        self._keys = keys
        self._metrics = metrics
        threads = max(2, settings.thread_count)
        self._small = ThreadPoolExecutor(threads, thread_name_prefix="small")
        # Large ones use several threads themselves, and much memory: few at a time.
        self._large = ThreadPoolExecutor(2, thread_name_prefix="large")

    async def handle(self, request: Request) -> Response:
        """Read, answer off the event loop, and send."""
        self._keys.check(request.headers, Role.VIEWER)
        try:
            body = await read_body(request, self._max_bytes)
        except ClientDisconnect:
            return Response(status_code=400)
        request_id = request.state.request_id
        pool = self._small if len(body) <= SMALL_BODY else self._large
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(pool, self.answer, body, request_id)
        return Response(answer, media_type="application/json")

    def answer(self, body: bytes, request_id: str) -> bytes:
        """The answer to a body, as JSON; raises the product's errors."""
        inputs = read_inputs(body, self._service.panel, self._max_rows)
        wanted = inputs.model_stage
        versions = self._service.versions
        # Picked once: the whole request is one version's.
        picked = versions.pick(wanted) or versions.load(wanted)
        forecast = picked.served.forecaster.forecast(inputs.rows, inputs.as_of, inputs.levels)
        return self._write(inputs, picked, forecast, request_id)

    def _write(self, inputs: Inputs, picked: Picked, forecast: Forecast, request_id: str) -> bytes:
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
        self._small.shutdown()
        self._large.shutdown()


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
