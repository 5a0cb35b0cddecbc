"""Handler of ``POST /predict/file``: an uploaded table in, the same rows with forecasts out.

The body is saved to disk. A first pass validates every row, so that a file is refused before the
first byte of the response; a second one forecasts chunk by chunk while the client reads.
"""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from time import perf_counter
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from rossmann.data.uploads.sandboxed_reader import ReadLimits, SandboxedReader
from rossmann.epoch_days import format_iso_day
from rossmann.logging_config import get_logger
from rossmann.models.inference.forecaster import Forecast
from rossmann.process_memory import release_freed_memory
from rossmann.schema import StoreDays
from rossmann.serving.access.access_control import AccessControl
from rossmann.serving.access.api_keys import Permission
from rossmann.serving.batch_prediction.chunk_forecasts import Workers
from rossmann.serving.batch_prediction.job import (
    BatchJob,
    BatchResources,
    BatchUpload,
    ClientGoneError,
    ResultSpool,
    UploadLimits,
    create_workspace,
    prepare_job,
    remove_stale_workspaces,
    workspace_root,
)
from rossmann.serving.batch_prediction.upload import (
    BatchOptions,
    read_options,
    save_upload,
    upload_blocks,
)
from rossmann.serving.batch_prediction.upload_limits import (
    MAX_RUNNING_JOBS,
    FilePlaces,
    TransferDeadline,
)
from rossmann.serving.observability.access_log import request_record
from rossmann.serving.observability.metrics import Metrics
from rossmann.serving.observability.prediction_recorder import PredictCall, PredictionRecorder
from rossmann.serving.observability.tracing import with_current_context
from rossmann.serving.prediction.threads import Cancellation, VersionLoader, WorkThreads
from rossmann.serving.runtime.cpu_affinity import unpinned
from rossmann.serving.runtime.service import Service
from rossmann.settings import Settings

_TOO_SLOW: Final = "the client took too long to read it"


class BatchPredictHandler:
    """Answers uploaded files; ``close`` ends its threads."""

    def __init__(
        self,
        settings: Settings,
        service: Service,
        access_control: AccessControl,
        metrics: Metrics,
        recorder: PredictionRecorder,
    ) -> None:
        self._loader = VersionLoader(service.versions)
        self._access_control = access_control
        self._metrics = metrics
        self._recorder = recorder
        self._limits = UploadLimits(settings.max_file_mb * 2**20, settings.max_file_rows)
        memory, seconds = settings.max_file_memory_mb << 20, settings.max_file_seconds
        self._reader = SandboxedReader(ReadLimits(memory, seconds), keep=1)
        self._objective = settings.objective
        self._jobs = ThreadPoolExecutor(MAX_RUNNING_JOBS, "file", initializer=unpinned())
        threads = settings.thread_count
        self._chunk_pool = ThreadPoolExecutor(threads, "file-rows", initializer=unpinned())
        workers = Workers(self._chunk_pool, threads + 2)
        self._shared = BatchResources(self._limits, workers, self._reader)
        self._threads = WorkThreads(self._jobs)
        self._places = FilePlaces()
        self._transfer_seconds = settings.max_transfer_seconds
        self._workspaces = workspace_root(settings)
        remove_stale_workspaces(self._workspaces)

    async def handle(self, request: Request) -> Response:
        """Receive a file, validate it, and start its response."""
        record, started = request_record(request), perf_counter()
        caller = await self._access_control.authorize(request, Permission.PREDICT)
        options = read_options(request.query_params.multi_items(), self._objective)
        # Selected once: one version answers the whole file.
        version = await self._loader.get(options.model_stage)
        deadline = TransferDeadline(self._transfer_seconds)
        async with AsyncExitStack() as stack:
            blocks = upload_blocks(request, self._limits.bytes, deadline)
            await stack.enter_async_context(aclosing(blocks))
            try:
                # A client that has sent little yet holds no place and no file.
                first = await anext(blocks, b"")
                self._places.take(caller.id)
                stack.callback(self._places.release, caller.id)
                folder = await asyncio.to_thread(create_workspace, self._workspaces)
                stack.push_async_callback(asyncio.to_thread, shutil.rmtree, folder, True)
                await save_upload(first, blocks, folder / "body")
            except ClientDisconnect:
                return Response(status_code=400)
            slot = await stack.enter_async_context(AsyncExitStack())
            await slot.enter_async_context(self._places.job(caller.id))
            call = PredictCall("file", record, version, started)
            job = await self._validate(call, options, folder, request)
            if job is None:
                return Response(status_code=400)
            stack.callback(job.close)
            await self._access_control.reserve_rows(request, job.rows)
            return self._respond(job, slot, stack.pop_all())
        raise AssertionError("an exit stack does not suppress exceptions")

    def warm_up(self) -> None:
        """Start the process that reads workbooks, before the first one comes."""
        self._reader.warm_up()

    async def _validate(
        self, call: PredictCall, options: BatchOptions, folder: Path, request: Request
    ) -> BatchJob | None:
        """The job of a valid file; None where the client disconnected meanwhile."""

        def prepare(cancellation: Cancellation) -> BatchJob:
            return self._prepare(call, BatchUpload(folder, options, cancellation.is_set))

        job = await self._threads.run(request, prepare)
        if job is None:
            return None
        call.record.rows, call.record.model_version = job.rows, call.version.served.version
        self._metrics.rows_forecast("file", job.rows)
        for warning in job.warnings:
            self._metrics.rows_warned(warning.type, warning.count)
        return job

    def _prepare(self, call: PredictCall, upload: BatchUpload) -> BatchJob:
        def record(start: int, rows: StoreDays, forecast: Forecast) -> None:
            self._recorder.record(call.finished(), rows, forecast, positions=start)

        try:
            return prepare_job(upload, call.version, self._shared, record)
        finally:
            release_freed_memory()

    def _respond(self, job: BatchJob, slot: AsyncExitStack, stack: AsyncExitStack) -> Response:
        """The response; ``slot`` is free when the job has ended, ``stack`` when it is read."""
        spool = ResultSpool(job.folder / "result")
        stack.callback(spool.close)
        running = asyncio.ensure_future(self._run(job, spool, slot.pop_all()))
        stack.push_async_callback(_finish, spool, running)
        deadline = TransferDeadline(self._transfer_seconds)
        body = _body(spool, running)
        return _FileResponse(body, job.form.media_type, _headers(job), stack, deadline)

    async def _run(self, job: BatchJob, spool: ResultSpool, slot: AsyncExitStack) -> None:
        async with slot:
            await asyncio.get_running_loop().run_in_executor(
                self._jobs, with_current_context(_write), job, spool
            )

    def close(self) -> None:
        """End the threads; files that are still read are given up."""
        self._reader.close()
        self._threads.close()
        self._chunk_pool.shutdown()


def _write(job: BatchJob, spool: ResultSpool) -> None:
    try:
        job.run(spool.send)
    finally:
        spool.end()
        release_freed_memory()


async def _body(spool: ResultSpool, running: "asyncio.Future[None]") -> AsyncIterator[bytes]:
    async for block in spool.blocks():
        yield block
    # An error this late must break the connection: a file that ends here would look complete.
    await running


async def _finish(spool: ResultSpool, running: "asyncio.Future[None]") -> None:
    """Wait until the job has ended, so that its files can be removed."""
    spool.stop()
    await asyncio.wait([running])
    if isinstance(error := running.exception(), ClientGoneError):
        get_logger("file").info("a file was not answered to its end", reason=str(error))


def _headers(job: BatchJob) -> dict[str, str]:
    return {
        "Content-Disposition": f'attachment; filename="forecast.{job.form.file_format}"',
        "X-Rows": str(job.rows),
        "X-Model-Version": str(job.plan.version),
        "X-Model-Stage": job.stage,
        "X-As-Of": format_iso_day(job.plan.origin),
        "X-Objective": job.plan.objective,
        "X-Warnings": json.dumps([warning.as_dict() for warning in job.warnings]),
        "X-Notes": json.dumps(job.notes),
    }


class _FileResponse(StreamingResponse):
    """A stream that releases its resources, however it ends."""

    def __init__(
        self,
        body: AsyncIterator[bytes],
        media_type: str,
        headers: dict[str, str],
        stack: AsyncExitStack,
        deadline: TransferDeadline,
    ) -> None:
        super().__init__(body, headers=headers, media_type=media_type)
        self._stack = stack
        self._deadline = deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""

        async def send_in_time(message: Message) -> None:
            await self._deadline.wait(send(message))
            self._deadline.moved(len(message.get("body", b"")))

        async with self._stack:
            try:
                await super().__call__(scope, receive, send_in_time)
            except TimeoutError:  # the server closes the connection of an incomplete response
                get_logger("file").info("a file was not answered to its end", reason=_TOO_SLOW)
