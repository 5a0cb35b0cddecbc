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

from rossmann.data.uploads.table_chunks import Kind, Parts, open_parts
from rossmann.errors import BrokenRule, Fault, RequestError, ServiceError
from rossmann.models.inference.row_warnings import Warned
from rossmann.schema import Objective
from rossmann.serving.batch_prediction.chunk_forecasts import Doubts, Note, Order, send_forecasts
from rossmann.serving.batch_prediction.upload import Asked
from rossmann.serving.batch_prediction.validation import (
    Reading,
    read_records,
    refuse_faults,
    settle,
)
from rossmann.serving.batch_prediction.writers import Writer, open_writer, refuse_length
from rossmann.serving.runtime.version_manager import Picked
from rossmann.settings import Settings

_NAME: Final = "the file"
_UNPACKED: Final = 4
"""How many times its size a file may take unpacked, at least of the largest that is taken."""


@dataclass(frozen=True)
class Limits:
    """What a file may hold."""

    bytes: int
    rows: int


@dataclass(frozen=True)
class Job:
    """A file without faults, ready to be forecast."""

    kind: Kind
    stage: str
    order: Order
    folder: Path
    parts: Parts
    reading: Reading
    doubts: Doubts
    pool: Executor
    threads: int
    note: Note

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.reading.count

    @property
    def warnings(self) -> tuple[Warned, ...]:
        """One of a kind, over all rows."""
        return self.doubts.found

    def run(self, send: Callable[[bytes], None]) -> None:
        """Forecast all rows and send the answer's file, block by block."""

        def open_it(schema: pa.Schema) -> Writer:
            return open_writer(self.kind, schema, self.parts.separator, self.folder, send)

        ahead = self.threads + 2
        send_forecasts(
            self.parts, self.reading, self.doubts, self.order, open_it, self.pool, ahead, self.note
        )

    def close(self) -> None:
        """Let go of the files in the folder."""
        self.reading.close()
        self.doubts.close()


def open_job(
    folder: Path,
    asked: Asked,
    picked: Picked,
    objective: Objective,
    limits: Limits,
    pool: Executor,
    threads: int,
    note: Note,
) -> Job:
    """Read the file ``body`` in ``folder`` once, and check every row of it.

    Raises ``RequestError`` with the faults, ``ServiceError`` where the disk is full.
    """
    forecaster = picked.served.forecaster.on_one_thread()
    with ExitStack() as undo:
        try:
            parts = open_parts(_NAME, folder / "body", folder, _UNPACKED * limits.bytes)
            reading = read_records(_NAME, parts, folder / "records", limits.rows)
            undo.callback(reading.close)
            settled = settle(reading, forecaster, asked, objective)
            refuse_faults(parts, reading, settled)
        except (BrokenRule, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            msg = str(error) if isinstance(error, BrokenRule) else _unreadable(error)
            raise RequestError([Fault(("body",), msg, "no_table")]) from error
        except OSError as error:
            raise ServiceError(f"the file cannot be kept: {error.strerror}") from error
        kind = asked.form or parts.kind
        refuse_length(kind, reading.count)
        doubts = Doubts(folder / "marks")
        undo.callback(doubts.close)
        doubts.find(reading, forecaster, settled.origin, pool)
        undo.pop_all()
    typed = parts.kind != "parquet" and kind != "csv"
    version = picked.served.version
    order = Order(forecaster, version, settled.origin, asked.levels, objective, typed)
    return Job(kind, picked.stage, order, folder, parts, reading, doubts, pool, threads, note)


def _unreadable(error: BaseException) -> str:
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{_NAME} cannot be read as a table: {line[:200]}"


_PREFIX: Final = "rossmann-file-"


def drafts_dir(settings: Settings) -> Path | None:
    """The data folder's, which is a disk; None (the system's) where it cannot be written."""
    folder = settings.run_dir / "files"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def new_folder(parent: Path | None) -> Path:
    """An empty folder; its name tells whose it is."""
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))


def remove_leftovers(parent: Path | None) -> None:
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
