"""A file's job: its temporary folder, validation, and the streaming of its forecasts.

The result file is kept on disk, and read while it is written: so a thread never waits for a client
that reads slowly.
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa

from rossmann.data.uploads.file_formats import FileFormat, ReadCancelledError, Workspace
from rossmann.data.uploads.result_files import (
    ResultFormat,
    Writer,
    about_forecasts,
    check_row_limit,
    kept_columns,
    open_writer,
    result_columns,
    result_decimal,
)
from rossmann.data.uploads.sandboxed_reader import SandboxedReader
from rossmann.data.uploads.table_reader import open_table
from rossmann.data.uploads.workbook import SeveralSheetsError
from rossmann.epoch_days import format_iso_day
from rossmann.errors import DataValidationError, ErrorDetail, RequestError, ServiceError, first_line
from rossmann.filesystem.process_identity import pid_exists
from rossmann.models.inference.row_warnings import RowWarning
from rossmann.serving.batch_prediction.chunk_forecasts import (
    CheckedFile,
    ChunkPlan,
    FileWarnings,
    RecordChunk,
    Workers,
    stream_forecasts,
)
from rossmann.serving.batch_prediction.upload import BatchOptions
from rossmann.serving.batch_prediction.validation import parse_file, raise_row_errors, validate_file
from rossmann.serving.runtime.version_manager import SelectedVersion
from rossmann.settings import Settings

_NAME: Final = "the file"
_MAX_UNPACKED_RATIO: Final = 4
"""Unpacked size of a file, as a multiple of the largest upload that is accepted."""
_WORKSPACE_PREFIX: Final = "rossmann-file-"
_BLOCK: Final = 1 << 20


@dataclass(frozen=True)
class UploadLimits:
    """Largest upload, in bytes and in rows."""

    bytes: int
    rows: int


@dataclass(frozen=True)
class BatchJob:
    """A validated file, ready to be forecast."""

    form: ResultFormat
    stage: str
    folder: Path
    notes: tuple[str, ...]
    checked: CheckedFile
    workers: Workers
    record: RecordChunk

    @property
    def plan(self) -> ChunkPlan:
        """How its rows are forecast."""
        return self.checked.plan

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.checked.parsed.count

    @property
    def warnings(self) -> tuple[RowWarning, ...]:
        """One warning of each type, over all rows."""
        return self.checked.warnings.summary

    def run(self, send: Callable[[bytes], None]) -> None:
        """Forecast all rows and send the result file block by block."""

        def open_result(schema: pa.Schema) -> Writer:
            return open_writer(self.form, schema, self.folder, send)

        stream_forecasts(self.checked, open_result, self.workers, self.record)

    def close(self) -> None:
        """Close the files in the folder."""
        self.checked.close()


@dataclass(frozen=True)
class BatchUpload:
    """A file in its folder, named ``body``, and what is asked of it.

    ``is_cancelled``: whether nobody waits for it any more.
    """

    folder: Path
    options: BatchOptions
    is_cancelled: Callable[[], bool]


@dataclass(frozen=True)
class BatchResources:
    """What all jobs of a service share."""

    limits: UploadLimits
    workers: Workers
    reader: SandboxedReader


def prepare_job(
    upload: BatchUpload, version: SelectedVersion, shared: BatchResources, record: RecordChunk
) -> BatchJob:
    """Parse and validate a file.

    Raises ``RequestError`` with all errors, ``ServiceError`` where the disk is full.
    """
    folder, options, limits, workers = upload.folder, upload.options, shared.limits, shared.workers
    forecaster = version.served.forecaster.single_threaded()
    with ExitStack() as undo:
        with _request_errors():
            unpacked = _MAX_UNPACKED_RATIO * limits.bytes
            workspace = Workspace(folder, unpacked, upload.is_cancelled)
            table = open_table(_NAME, folder / "body", workspace, options.sheet, shared.reader)
            parsed = parse_file(_NAME, table, folder / "records", limits.rows, options.decimal)
            undo.callback(parsed.close)
            validated = validate_file(parsed, forecaster, options)
            raise_row_errors(parsed, validated)
        file_format = options.file_format or table.file_format
        check_row_limit(file_format, parsed.count)
        warnings = FileWarnings(folder / "marks")
        undo.callback(warnings.close)
        warnings.scan(parsed, forecaster, validated.origin, workers.pool)
        undo.pop_all()
    added = result_columns(options.levels, options.quantiles)
    names, renamed = kept_columns(table.columns, added, file_format)
    plan = ChunkPlan(
        forecaster,
        version.served.version,
        validated.origin,
        options.levels,
        options.quantiles,
        options.objective,
        tuple(names),
        typed=table.file_format != "parquet" and file_format != "csv",
    )
    checked = CheckedFile(parsed, warnings, plan)
    form = _result_format(checked, version.stage, file_format)
    notes = (*parsed.notes, *renamed)
    return BatchJob(form, version.stage, folder, notes, checked, workers, record)


def _result_format(checked: CheckedFile, stage: str, file_format: FileFormat) -> ResultFormat:
    """How the result is written: in the dialect of the file, with what a workbook says of it."""
    parsed, plan = checked.parsed, checked.plan
    info, as_of = plan.forecaster.panel.info, format_iso_day(plan.origin)
    about = about_forecasts(info, plan.version, stage, as_of, plan.objective)
    dialect = parsed.table.dialect
    decimal = result_decimal(dialect, parsed.decimal, parsed.date_format)
    return ResultFormat(file_format, dialect, decimal, about)


@contextmanager
def _request_errors() -> Iterator[None]:
    """Raise ``RequestError`` for a file that is no table, ``ServiceError`` for a full disk."""
    try:
        yield
    except SeveralSheetsError as error:
        msg = f"{error}, with sheet=NAME"
        raise RequestError([ErrorDetail(("sheet",), msg, "several_sheets")]) from error
    except ReadCancelledError as error:
        raise ServiceError("the service stops: send the file again") from error
    except DataValidationError as error:
        raise RequestError([ErrorDetail(("body",), str(error), "no_table")]) from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise RequestError([ErrorDetail(("body",), _unreadable(error), "no_table")]) from error
    except OSError as error:
        raise ServiceError(f"the file cannot be kept: {error.strerror}") from error


def _unreadable(error: BaseException) -> str:
    return f"{_NAME} cannot be read as a table: {first_line(error)[:200]}"


def workspace_root(settings: Settings) -> Path | None:
    """Parent of workspaces, in the data folder; None (the system's) where that is read-only."""
    folder = settings.run_dir / "files"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def create_workspace(parent: Path | None) -> Path:
    """An empty folder for one upload; its name holds this process's id."""
    return Path(tempfile.mkdtemp(prefix=f"{_WORKSPACE_PREFIX}{os.getpid()}-", dir=parent))


def remove_stale_workspaces(parent: Path | None) -> None:
    """Remove folders of killed processes; called before this process creates any."""
    root = Path(tempfile.gettempdir()) if parent is None else parent
    for folder in root.glob(f"{_WORKSPACE_PREFIX}*"):
        pid = folder.name.removeprefix(_WORKSPACE_PREFIX).partition("-")[0]
        if pid.isdecimal() and (int(pid) == os.getpid() or not pid_exists(int(pid))):
            shutil.rmtree(folder, ignore_errors=True)


class ClientGoneError(ServiceError):
    """The client disconnected, or its time to read was over."""


class ResultSpool:
    """A file that a thread appends to, while the event loop reads it from its beginning.

    Created on the event loop; ``send`` and ``end`` run in a thread, the rest on the loop.
    """

    def __init__(self, path: Path) -> None:
        """Raises ``OSError``."""
        self._loop = asyncio.get_running_loop()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._written = 0
        self._has_ended = self._is_closed = False
        self._changed = asyncio.Event()

    def send(self, block: bytes) -> None:
        """Append a block; raises ``ClientGoneError``, and ``OSError`` where the disk is full."""
        if self._is_closed:
            raise ClientGoneError("the client went away")
        rest = memoryview(block)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        self._loop.call_soon_threadsafe(self._advance, len(block))

    def end(self) -> None:
        """Mark the end of the file; may be called from any thread."""
        self._loop.call_soon_threadsafe(self._advance, 0)

    async def blocks(self) -> AsyncIterator[bytes]:
        """The bytes in blocks of at most a megabyte, up to the end."""
        position = 0
        while True:
            if position < self._written:
                size = min(_BLOCK, self._written - position)
                block = await asyncio.to_thread(os.pread, self._file, size, position)
                position += len(block)
                yield block
            elif self._has_ended:
                return
            else:
                self._changed.clear()
                await self._changed.wait()

    def stop(self) -> None:
        """Read no more: further ``send`` raise."""
        self._is_closed = True

    def close(self) -> None:
        """Close the file; nobody writes any more."""
        os.close(self._file)

    def _advance(self, size: int) -> None:
        self._written += size
        self._has_ended = self._has_ended or not size
        self._changed.set()
