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

from rossmann.epoch_days import format_iso_day
from rossmann.errors import ServiceBusyError
from rossmann.logging_config import get_logger
from rossmann.models.inference.forecaster import Forecast
from rossmann.schema import StoreDays
from rossmann.serving.access.access_control import AccessControl
from rossmann.serving.access.api_keys import Permission
from rossmann.serving.batch_prediction.job import (
    BatchJob,
    UploadLimits,
    create_workspace,
    prepare_job,
    remove_stale_workspaces,
    workspace_root,
)
from rossmann.serving.batch_prediction.upload import BatchOptions, read_options, save_upload
from rossmann.serving.batch_prediction.writers import MEDIA_TYPES, BlockStream, ClientGoneError
from rossmann.serving.observability.access_log import RequestRecord, request_record
from rossmann.serving.observability.metrics import Metrics
from rossmann.serving.observability.prediction_recorder import PredictionRecorder
from rossmann.serving.observability.tracing import with_current_context
from rossmann.serving.prediction.version_loader import VersionLoader
from rossmann.serving.runtime.cpu_affinity import unpinned
from rossmann.serving.runtime.service import Service
from rossmann.serving.runtime.version_manager import SelectedVersion
from rossmann.settings import Settings

MAX_RUNNING_JOBS: Final = 2
"""Files that are forecast at once; others wait on disk."""
MAX_ACCEPTED_FILES: Final = 8
"""Files that are taken in at once; for more the answer is 503, to come again."""
_AGAIN: Final = 5
"""Seconds after which to come again."""


@dataclass(frozen=True)
class _Call:
    """One request on its way."""

    asked: BatchOptions
    picked: SelectedVersion
    line: RequestRecord
    begun: float


class BatchPredictHandler:
    """Answers files; ``close`` ends its threads."""

    def __init__(
        self,
        settings: Settings,
        service: Service,
        guard: AccessControl,
        metrics: Metrics,
        journal: PredictionRecorder,
    ) -> None:
        self._service = service
        self._loader = VersionLoader(service.versions)
        self._guard = guard
        self._metrics = metrics
        self._journal = journal
        self._limits = UploadLimits(settings.max_file_mb * 2**20, settings.max_file_rows)
        self._objective = settings.objective
        self._threads = settings.thread_count
        self._jobs = ThreadPoolExecutor(MAX_RUNNING_JOBS, "file", initializer=unpinned())
        self._rows = ThreadPoolExecutor(self._threads, "file-rows", initializer=unpinned())
        self._slots = asyncio.Semaphore(MAX_RUNNING_JOBS)
        self._inside = 0
        self._drafts = workspace_root(settings)
        remove_stale_workspaces(self._drafts)

    async def handle(self, request: Request) -> Response:
        """Take a file in, check it, and begin its answer."""
        line, begun = request_record(request), perf_counter()
        await self._guard.authorize(request, Permission.PREDICT)
        asked = read_options(request.query_params.multi_items())
        if self._inside >= MAX_ACCEPTED_FILES:
            raise ServiceBusyError(
                f"{MAX_ACCEPTED_FILES} files are being answered: come again", _AGAIN
            )
        async with AsyncExitStack() as stack:
            self._inside += 1
            stack.callback(self._leave)
            # Picked once: the whole file is one version's.
            picked = await self._loader.get(asked.model_stage)
            folder = await asyncio.to_thread(create_workspace, self._drafts)
            stack.push_async_callback(asyncio.to_thread, shutil.rmtree, folder, True)
            try:
                await save_upload(request, folder / "body", self._limits.bytes)
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

    async def _check(self, call: _Call, folder: Path) -> BatchJob:
        job = await asyncio.get_running_loop().run_in_executor(
            self._jobs, with_current_context(self._open), call, folder
        )
        call.line.rows, call.line.model_version = job.rows, call.picked.served.version
        self._metrics.rows_forecast("file", job.rows)
        for warning in job.warnings:
            self._metrics.rows_warned(warning.type, warning.count)
        return job

    def _open(self, call: _Call, folder: Path) -> BatchJob:
        objective = call.asked.objective or self._objective

        def note(start: int, rows: StoreDays, forecast: Forecast) -> None:
            took = perf_counter() - call.begun
            self._journal.record(
                "file", call.line, call.picked, rows, forecast, took, first_row=start
            )

        return prepare_job(
            folder,
            call.asked,
            call.picked,
            objective,
            self._limits,
            self._rows,
            self._threads,
            note,
        )

    def _answer(self, job: BatchJob, stack: AsyncExitStack) -> Response:
        channel = BlockStream()
        running = asyncio.get_running_loop().run_in_executor(
            self._jobs, with_current_context(_run), job, channel
        )
        stack.push_async_callback(_finish, channel, running)
        return _Answer(_body(channel, running), stack, MEDIA_TYPES[job.kind], _headers(job))

    def close(self) -> None:
        """End the threads when their work is done."""
        self._jobs.shutdown()
        self._rows.shutdown()


def _run(job: BatchJob, channel: BlockStream) -> None:
    try:
        job.run(channel.send)
    finally:
        channel.end()


async def _body(channel: BlockStream, running: "asyncio.Future[None]") -> AsyncIterator[bytes]:
    async for block in channel.blocks():
        yield block
    # A fault of this late breaks the connection: a file that ends here would look whole.
    await running


async def _finish(channel: BlockStream, running: "asyncio.Future[None]") -> None:
    """Wait until the work has ended, so that its files can go."""
    channel.close()
    await asyncio.wait([running])
    if isinstance(error := running.exception(), ClientGoneError):
        get_logger("file").info("a file was not answered to its end", reason=str(error))


def _headers(job: BatchJob) -> dict[str, str]:
    told = [{"type": w.type, "msg": w.msg, "count": w.count, "rows": w.rows} for w in job.warnings]
    return {
        "Content-Disposition": f'attachment; filename="forecast.{job.kind}"',
        "X-Rows": str(job.rows),
        "X-Model-Version": str(job.order.version),
        "X-Model-Stage": job.stage,
        "X-As-Of": format_iso_day(job.order.origin),
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
