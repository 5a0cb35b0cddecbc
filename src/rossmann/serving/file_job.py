"""One file from its first reading to its last part."""

from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa

from rossmann.data.upload_parts import Kind, Parts, open_parts
from rossmann.errors import BrokenRule, Fault, RequestError, ServiceError
from rossmann.schema import Objective
from rossmann.serving.doubts import Warned
from rossmann.serving.file_check import Reading, read_records, settle
from rossmann.serving.file_faults import refuse_faults
from rossmann.serving.file_forecast import Note, Order, send_forecasts
from rossmann.serving.file_options import Asked
from rossmann.serving.file_warnings import Doubts
from rossmann.serving.file_write import Writer, open_writer, refuse_length
from rossmann.serving.versions import Picked

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
