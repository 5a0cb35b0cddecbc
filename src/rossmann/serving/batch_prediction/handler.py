"""``POST /predict/file``: a table in, the same rows with their forecasts out, as a stream.

The body goes to disk. A first reading checks every row, so that a file is refused before the first
byte of its answer; a second one forecasts part by part while the client takes what is done.
"""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from rossmann.epoch_days import iso
from rossmann.errors import Busy
from rossmann.logging_config import get_logger
from rossmann.models.inference.forecaster import Forecast
from rossmann.schema import Rows
from rossmann.serving.access.access_control import Guard
from rossmann.serving.access.api_keys import Right
from rossmann.serving.batch_prediction.job import (
    Job,
    Limits,
    drafts_dir,
    new_folder,
    open_job,
    remove_leftovers,
)
from rossmann.serving.batch_prediction.upload import Asked, read_options, spool
from rossmann.serving.batch_prediction.writers import MEDIA, Channel, Gone
from rossmann.serving.observability.access_log import Line, line_of
from rossmann.serving.observability.metrics import Metrics
from rossmann.serving.observability.prediction_recorder import Journal
from rossmann.serving.observability.tracing import carried
from rossmann.serving.prediction.version_loader import Loader
from rossmann.serving.runtime.cpu_affinity import roaming
from rossmann.serving.runtime.service import Service
from rossmann.serving.runtime.version_manager import Picked
from rossmann.settings import Settings

AT_ONCE: Final = 2
"""Files that are forecast at once; others wait on disk."""
MOST_INSIDE: Final = 8
"""Files that are taken in at once; for more the answer is 503, to come again."""
_AGAIN: Final = 5
"""Seconds after which to come again."""


@dataclass(frozen=True)
class _Call:
    """One request on its way."""

    asked: Asked
    picked: Picked
    line: Line
    begun: float


class FilePredictor:
    """Answers files; ``close`` ends its threads."""

    def __init__(
        self,
        settings: Settings,
        service: Service,
        guard: Guard,
        metrics: Metrics,
        journal: Journal,
    ) -> None:
        self._service = service
        self._loader = Loader(service.versions)
        self._guard = guard
        self._metrics = metrics
        self._journal = journal
        self._limits = Limits(settings.max_file_mb * 2**20, settings.max_file_rows)
        self._objective = settings.objective
        self._threads = settings.thread_count
        self._jobs = ThreadPoolExecutor(AT_ONCE, "file", initializer=roaming())
        self._rows = ThreadPoolExecutor(self._threads, "file-rows", initializer=roaming())
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._inside = 0
        self._drafts = drafts_dir(settings)
        remove_leftovers(self._drafts)

    async def handle(self, request: Request) -> Response:
        """Take a file in, check it, and begin its answer."""
        line, begun = line_of(request), perf_counter()
        await self._guard.admit(request, Right.PREDICT)
        asked = read_options(request.query_params.multi_items())
        if self._inside >= MOST_INSIDE:
            raise Busy(f"{MOST_INSIDE} files are being answered: come again", _AGAIN)
        async with AsyncExitStack() as stack:
            self._inside += 1
            stack.callback(self._leave)
            # Picked once: the whole file is one version's.
            picked = await self._loader.pick(asked.model_stage)
            folder = await asyncio.to_thread(new_folder, self._drafts)
            stack.push_async_callback(asyncio.to_thread, shutil.rmtree, folder, True)
            try:
                await spool(request, folder / "body", self._limits.bytes)
            except ClientDisconnect:
                return Response(status_code=400)
            await self._slots.acquire()
            stack.callback(self._slots.release)
            job = await self._check(_Call(asked, picked, line, begun), folder)
            stack.callback(job.close)
            return self._answer(job, stack.pop_all())
        raise AssertionError("a stack swallows nothing")

    def _leave(self) -> None:
        self._inside -= 1

    async def _check(self, call: _Call, folder: Path) -> Job:
        job = await asyncio.get_running_loop().run_in_executor(
            self._jobs, carried(self._open), call, folder
        )
        call.line.rows, call.line.model_version = job.rows, call.picked.served.version
        self._metrics.forecast("file", job.rows)
        for warning in job.warnings:
            self._metrics.warned(warning.type, warning.count)
        return job

    def _open(self, call: _Call, folder: Path) -> Job:
        objective = call.asked.objective or self._objective

        def note(start: int, rows: Rows, forecast: Forecast) -> None:
            took = perf_counter() - call.begun
            self._journal.note(
                "file", call.line, call.picked, rows, forecast, took, first_row=start
            )

        return open_job(
            folder,
            call.asked,
            call.picked,
            objective,
            self._limits,
            self._rows,
            self._threads,
            note,
        )

    def _answer(self, job: Job, stack: AsyncExitStack) -> Response:
        channel = Channel()
        running = asyncio.get_running_loop().run_in_executor(
            self._jobs, carried(_run), job, channel
        )
        stack.push_async_callback(_finish, channel, running)
        return _Answer(_body(channel, running), stack, MEDIA[job.kind], _headers(job))

    def close(self) -> None:
        """End the threads when their work is done."""
        self._jobs.shutdown()
        self._rows.shutdown()


def _run(job: Job, channel: Channel) -> None:
    try:
        job.run(channel.send)
    finally:
        channel.end()


async def _body(channel: Channel, running: "asyncio.Future[None]") -> AsyncIterator[bytes]:
    async for block in channel.blocks():
        yield block
    # A fault of this late breaks the connection: a file that ends here would look whole.
    await running


async def _finish(channel: Channel, running: "asyncio.Future[None]") -> None:
    """Wait until the work has ended, so that its files can go."""
    channel.close()
    await asyncio.wait([running])
    if isinstance(error := running.exception(), Gone):
        get_logger("file").info("a file was not answered to its end", reason=str(error))


def _headers(job: Job) -> dict[str, str]:
    told = [{"type": w.type, "msg": w.msg, "count": w.count, "rows": w.rows} for w in job.warnings]
    return {
        "Content-Disposition": f'attachment; filename="forecast.{job.kind}"',
        "X-Rows": str(job.rows),
        "X-Model-Version": str(job.order.version),
        "X-Model-Stage": job.stage,
        "X-As-Of": iso(job.order.origin),
        "X-Objective": job.order.objective,
        "X-Warnings": json.dumps(told),
    }


class _Answer(StreamingResponse):
    """A stream that lets go of what it came from, however it ends."""

    def __init__(
        self,
        body: AsyncIterator[bytes],
        stack: AsyncExitStack,
        media_type: str,
        headers: dict[str, str],
    ) -> None:
        super().__init__(body, headers=headers, media_type=media_type)
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        async with self._stack:
            await super().__call__(scope, receive, send)
