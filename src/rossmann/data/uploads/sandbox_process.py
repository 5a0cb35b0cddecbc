"""The child process of ``SandboxedReader``: reads files of strangers within limits of memory.

Each line of stdin is a ``ReadTask`` in JSON, each line of stdout a ``ReadResult`` or an error. It
ends when stdin does, and when memory ends: its parent says so then.
"""

import json
import os
import resource
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from rossmann.data.uploads.parquet_chunks import CHUNK_ROWS, ParquetChunks
from rossmann.data.uploads.sandboxed_reader import ReadResult, ReadTask
from rossmann.data.uploads.workbook import SeveralSheetsError, read_sheet
from rossmann.errors import DataValidationError

_KEEP_BYTES: Final = 400 << 20
"""After a read that took more memory the process ends, so that the memory returns."""


def main() -> None:
    """Read files until stdin ends; the argument is the limit of address space, in bytes."""
    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Libraries print what they think of a file, but stdout is for answers only.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import fastexcel  # noqa: F401 -- before the first file comes

    for line in sys.stdin:
        answer = _answer(ReadTask(**json.loads(line)))
        answer["ends"] = psutil.Process().memory_info().rss > _KEEP_BYTES
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if answer["ends"]:
            return


def _answer(task: ReadTask) -> dict[str, Any]:
    try:
        convert = _convert_parquet if task.file_format == "parquet" else _convert_workbook
        return asdict(convert(task))
    except SeveralSheetsError as error:
        return {"sheets": error.sheets}
    except DataValidationError as error:
        return {"error": str(error)}


def _convert_workbook(task: ReadTask) -> ReadResult:
    sheet = read_sheet(task.name, Path(task.path), task.sheet)
    sheet.frame.write_parquet(task.target, row_group_size=4 * CHUNK_ROWS)
    return ReadResult(sheet.columns, sheet.notes, sheet.first_row)


def _convert_parquet(task: ReadTask) -> ReadResult:
    """The table in our own writing: sizes and types are those of the values that are there."""
    table = ParquetChunks(task.name, Path(task.path))
    with (
        pa.OSFile(task.target, "wb") as file,
        pq.ParquetWriter(file, table.schema, compression="lz4") as writer,
    ):
        for batch, _ in table.read():
            writer.write_batch(batch)
            if file.tell() > task.max_bytes:
                limit = f"{task.max_bytes >> 20:,} MB unpacked"
                raise DataValidationError(f"{task.name} holds more than {limit}: send it in parts")
    return ReadResult(table.columns, table.notes, table.first_row)


if __name__ == "__main__":
    main()
