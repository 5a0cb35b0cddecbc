"""Micro-batching: small requests that are ready at the same moment are forecast in one call.

The cost of a one-row forecast is mostly the calls around it and the loading of trees into the
processor's caches; requests in one batch share both. No request waits for others: a batch holds
what is ready in one turn of the event loop, and a request that is alone is answered at once. A
row's forecast does not depend on the other rows, so responses are equal to the bit.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

import numpy as np

from rossmann.models.inference.forecaster import Forecast, Forecaster, ForecastRequest
from rossmann.schema import Objective, StoreDays

MAX_BATCH_ROWS: Final = 128
"""Rows of one batch: the event loop is blocked for some 2 ms meanwhile."""

_SINGLE_STREAK: Final = 16
"""After so many requests that were alone, only each so many-th checks for others."""


class ValidatedRequest(NamedTuple):
    """Rows that ``Forecaster.resolve_origin`` accepted, and their origin."""

    rows: StoreDays
    origin: int


class _BatchKey(NamedTuple):
    """What the requests of one batch have in common."""

    forecaster: Forecaster
    levels: tuple[float, ...]
    objective: Objective
    quantiles: tuple[float, ...]


@dataclass(slots=True)
class _Batch:
    requests: list[ValidatedRequest] = field(default_factory=list)
    futures: "list[asyncio.Future[Forecast]]" = field(default_factory=list)
    rows: int = 0

    def resolve(self, task: "asyncio.Task[list[Forecast]]") -> None:
        """Set the result of each future that was not cancelled."""
        error = task.exception()
        for index, future in enumerate(self.futures):
            if future.done():
                continue
            if error is None:
                future.set_result(task.result()[index])
            else:
                future.set_exception(error)


class MicroBatcher:
    """Collects requests into batches, on one event loop.

    ``in_flight`` returns how many requests are being answered.
    """

    def __init__(self, in_flight: Callable[[], int]) -> None:
        self._in_flight = in_flight
        self._open: dict[_BatchKey, _Batch] = {}
        self._single_streak = 0

    async def forecast(self, forecaster: Forecaster, request: ForecastRequest) -> Forecast:
        """What ``forecaster.forecast`` returns and raises."""
        if await self._is_alone():
            return forecaster.forecast(request)
        rows = request.rows
        validated = ValidatedRequest(rows, forecaster.resolve_origin(request))
        key = _BatchKey(forecaster, request.levels, request.objective, request.quantiles)
        batch = self._open.get(key)
        loop = asyncio.get_running_loop()
        if batch is None or batch.rows + len(rows) > MAX_BATCH_ROWS:
            batch = self._open[key] = _Batch()
            # The task runs once the requests that are ready now have joined.
            loop.create_task(self._run(key, batch)).add_done_callback(batch.resolve)
        # One future a request: a cancelled one does not cancel the batch.
        future: asyncio.Future[Forecast] = loop.create_future()
        batch.requests.append(validated)
        batch.futures.append(future)
        batch.rows += len(rows)
        return await future

    async def _is_alone(self) -> bool:
        """Whether no other request is ready.

        The check costs one turn of the event loop, in which others begin; it is made only now and
        then after many single requests.
        """
        if self._single_streak >= _SINGLE_STREAK and self._single_streak % _SINGLE_STREAK:
            self._single_streak += 1
            return True
        await asyncio.sleep(0)
        self._single_streak = self._single_streak + 1 if self._in_flight() < 2 else 0
        return self._single_streak > 0

    async def _run(self, key: _BatchKey, batch: _Batch) -> list[Forecast]:
        if self._open.get(key) is batch:
            del self._open[key]
        return forecast_batch(
            key.forecaster, batch.requests, key.levels, key.objective, key.quantiles
        )


def forecast_batch(
    forecaster: Forecaster,
    requests: Sequence[ValidatedRequest],
    levels: tuple[float, ...],
    objective: Objective,
    quantiles: tuple[float, ...] = (),
) -> list[Forecast]:
    """The forecast of each request, as if it were alone. Raises ``CorruptModelError``."""
    rows = StoreDays.concat([request.rows for request in requests])
    counts = [len(request.rows) for request in requests]
    origins = np.repeat(np.array([request.origin for request in requests], np.int64), counts)
    batch = ForecastRequest(rows, None, levels, objective, quantiles)
    predicted = forecaster.predict_rows(batch, origins)
    flags = forecaster.warning_flags(rows, origins)
    no_warnings = not np.bitwise_or.reduce(flags)
    forecasts = []
    for (own_rows, origin), (start, end) in zip(
        requests, pairwise(accumulate(counts, initial=0)), strict=True
    ):
        own = predicted.take(slice(start, end))
        warnings = () if no_warnings else forecaster.warnings(own_rows, origin, flags[start:end])
        forecasts.append(
            Forecast(own.sales, origin, own.intervals, warnings, objective, own.quantiles)
        )
    return forecasts
