"""Small requests that come at the same moment are forecast as one.

What a forecast of one row costs is mostly the calls around it, and fetching trees that other work
has pushed out of the processor's caches: together they share both. Nobody waits for others to
come: what is ready at one turn of the event loop goes together, and a request that is alone is
answered at once. A row's forecast does not depend on the rows beside it, to the bit, so nobody
can tell.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

import numpy as np

from rossmann.models.inference.forecaster import Forecast, Forecaster, Interval
from rossmann.schema import Objective, StoreDays

MAX_BATCH_ROWS: Final = 128
"""Rows that go together: the event loop stands still for some 2 ms meanwhile."""

_LONG: Final = 16
"""Requests one after the other that came alone; then each so many-th looks around."""


class ValidatedRequest(NamedTuple):
    """Rows that may be asked, and their origin: what ``Forecaster.settle`` let pass."""

    rows: StoreDays
    origin: int


class _Alike(NamedTuple):
    forecaster: Forecaster
    levels: tuple[float, ...]
    objective: Objective


@dataclass(slots=True)
class _Group:
    asked: list[ValidatedRequest] = field(default_factory=list)
    answers: "list[asyncio.Future[Forecast]]" = field(default_factory=list)
    rows: int = 0

    def deal(self, work: "asyncio.Task[list[Forecast]]") -> None:
        """Give each what came of it, but to those who gave up."""
        error = work.exception()
        for place, answer in enumerate(self.answers):
            if answer.done():
                continue
            if error is None:
                answer.set_result(work.result()[place])
            else:
                answer.set_exception(error)


class MicroBatcher:
    """Gathers requests; ``in_flight`` tells how many are being answered. For one event loop."""

    def __init__(self, in_flight: Callable[[], int]) -> None:
        self._in_flight = in_flight
        self._open: dict[_Alike, _Group] = {}
        self._alone_for = 0

    async def forecast(
        self,
        forecaster: Forecaster,
        rows: StoreDays,
        as_of: int | None,
        levels: tuple[float, ...],
        objective: Objective,
    ) -> Forecast:
        """What ``forecaster.forecast`` gives, and raises."""
        if await self._alone():
            return forecaster.forecast(rows, as_of, levels, objective)
        own = ValidatedRequest(rows, forecaster.resolve_origin(rows, as_of, levels, objective))
        key = _Alike(forecaster, levels, objective)
        group = self._open.get(key)
        loop = asyncio.get_running_loop()
        if group is None or group.rows + len(rows) > MAX_BATCH_ROWS:
            group = self._open[key] = _Group()
            # It begins when those that are ready now have joined.
            loop.create_task(self._work(key, group)).add_done_callback(group.deal)
        # Each has one of its own: who gives up takes no other's with them.
        answer: asyncio.Future[Forecast] = loop.create_future()
        group.asked.append(own)
        group.answers.append(answer)
        group.rows += len(rows)
        return await answer

    async def _alone(self) -> bool:
        """Whether nobody else came at this moment.

        To look takes a turn of the loop, in which the others begin. Who was alone for long looks
        only now and then.
        """
        if self._alone_for >= _LONG and self._alone_for % _LONG:
            self._alone_for += 1
            return True
        await asyncio.sleep(0)
        self._alone_for = self._alone_for + 1 if self._in_flight() < 2 else 0
        return self._alone_for > 0

    async def _work(self, key: _Alike, group: _Group) -> list[Forecast]:
        if self._open.get(key) is group:
            del self._open[key]
        return forecast_batch(key.forecaster, group.asked, key.levels, key.objective)


def forecast_batch(
    forecaster: Forecaster,
    asked: Sequence[ValidatedRequest],
    levels: tuple[float, ...],
    objective: Objective,
) -> list[Forecast]:
    """The forecast of each request, as if it had come alone. Raises ``DamagedModel``."""
    rows = StoreDays.concat([one.rows for one in asked])
    counts = [len(one.rows) for one in asked]
    origins = np.repeat(np.array([one.origin for one in asked], np.int64), counts)
    sales, bands = forecaster.predict_rows(rows, origins, levels, objective)
    bits = forecaster.warning_flags(rows, origins)
    clear = not np.bitwise_or.reduce(bits)
    forecasts = []
    for (own, origin), (low, high) in zip(
        asked, pairwise(accumulate(counts, initial=0)), strict=True
    ):
        part = tuple(Interval(b.level, b.lower[low:high], b.upper[low:high]) for b in bands)
        doubts = () if clear else forecaster.warnings(own, origin, bits[low:high])
        forecasts.append(Forecast(sales[low:high], origin, part, doubts, objective))
    return forecasts
