"""One file from its first reading to its last part.

MERGED: Where files lie while they are answered: a folder for each, gone when its request ends.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa

from rossmann.data.uploads.table_chunks import FileFormat, TableChunks, open_table
from rossmann.errors import DataValidationError, ErrorDetail, RequestError, ServiceError
from rossmann.models.inference.row_warnings import RowWarning
from rossmann.schema import Objective
from rossmann.serving.batch_prediction.chunk_forecasts import (
    ChunkPlan,
    FileWarnings,
    RecordChunk,
    stream_forecasts,
)
from rossmann.serving.batch_prediction.upload import BatchOptions
from rossmann.serving.batch_prediction.validation import (
    ParsedFile,
    parse_file,
    raise_row_errors,
    validate_file,
)
from rossmann.serving.batch_prediction.writers import Writer, check_row_limit, open_writer
from rossmann.serving.runtime.version_manager import SelectedVersion
from rossmann.settings import Settings

_NAME: Final = "the file"
_UNPACKED: Final = 4
"""How many times its size a file may take unpacked, at least of the largest that is taken."""


@dataclass(frozen=True)
class UploadLimits:
    """What a file may hold."""

    bytes: int
    rows: int


@dataclass(frozen=True)
class BatchJob:
    """A file without faults, ready to be forecast."""

    kind: FileFormat
    stage: str
    order: ChunkPlan
    folder: Path
    parts: TableChunks
    reading: ParsedFile
    doubts: FileWarnings
    pool: Executor
    threads: int
    note: RecordChunk

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.reading.count

    @property
    def warnings(self) -> tuple[RowWarning, ...]:
        """One of a kind, over all rows."""
        return self.doubts.summary

    def run(self, send: Callable[[bytes], None]) -> None:
        """Forecast all rows and send the answer's file, block by block."""

        def open_it(schema: pa.Schema) -> Writer:
            return open_writer(self.kind, schema, self.parts.separator, self.folder, send)

        ahead = self.threads + 2
        stream_forecasts(
            self.parts, self.reading, self.doubts, self.order, open_it, self.pool, ahead, self.note
        )

    def close(self) -> None:
        """Let go of the files in the folder."""
        self.reading.close()
        self.doubts.close()


def prepare_job(
    folder: Path,
    asked: BatchOptions,
    picked: SelectedVersion,
    objective: Objective,
    limits: UploadLimits,
    pool: Executor,
    threads: int,
    note: RecordChunk,
) -> BatchJob:
    """Read the file ``body`` in ``folder`` once, and check every row of it.

    Raises ``RequestError`` with the faults, ``ServiceError`` where the disk is full.
    """
    forecaster = picked.served.forecaster.single_threaded()
    with ExitStack() as undo:
        try:
            parts = open_table(_NAME, folder / "body", folder, _UNPACKED * limits.bytes)
            reading = parse_file(_NAME, parts, folder / "records", limits.rows)
            undo.callback(reading.close)
            settled = validate_file(reading, forecaster, asked, objective)
            raise_row_errors(parts, reading, settled)
        except (
            DataValidationError,
            pl.exceptions.PolarsError,
            pl.exceptions.PanicException,
        ) as error:
            msg = str(error) if isinstance(error, DataValidationError) else _unreadable(error)
            raise RequestError([ErrorDetail(("body",), msg, "no_table")]) from error
        except OSError as error:
            raise ServiceError(f"the file cannot be kept: {error.strerror}") from error
        kind = asked.form or parts.kind
        check_row_limit(kind, reading.count)
        doubts = FileWarnings(folder / "marks")
        undo.callback(doubts.close)
        doubts.scan(reading, forecaster, settled.origin, pool)
        undo.pop_all()
    typed = parts.kind != "parquet" and kind != "csv"
    version = picked.served.version
    order = ChunkPlan(forecaster, version, settled.origin, asked.levels, objective, typed)
    return BatchJob(kind, picked.stage, order, folder, parts, reading, doubts, pool, threads, note)


def _unreadable(error: BaseException) -> str:
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{_NAME} cannot be read as a table: {line[:200]}"


_PREFIX: Final = "rossmann-file-"


def workspace_root(settings: Settings) -> Path | None:
    """The data folder's, which is a disk; None (the system's) where it cannot be written."""
    folder = settings.run_dir / "files"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def create_workspace(parent: Path | None) -> Path:
    """An empty folder; its name tells whose it is."""
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))


def remove_stale_workspaces(parent: Path | None) -> None:
    """Remove what processes left that were killed; called before this one makes any."""
    root = Path(tempfile.gettempdir()) if parent is None else parent
    for folder in root.glob(f"{_PREFIX}*"):
        number = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if number.isdecimal() and (int(number) == os.getpid() or not _lives(int(number))):
            shutil.rmtree(folder, ignore_errors=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
