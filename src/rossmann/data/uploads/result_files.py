"""The one writer of result tables: CSV in the file's dialect, Parquet and Excel, chunk by chunk."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Protocol, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from rossmann.data.uploads.csv_dialect import CsvDialect
from rossmann.data.uploads.file_formats import FileFormat
from rossmann.data.uploads.table_reader import unique_names
from rossmann.data.uploads.value_formats import DecimalMark
from rossmann.errors import ErrorDetail, RequestError
from rossmann.schema import Dataset

Send = Callable[[bytes], None]
MEDIA_TYPES: Final[dict[FileFormat, str]] = {
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}
_ROW_GROUP: Final = 65_536
"""Rows of a Parquet row group."""
_SHEET_ROWS: Final = 1_048_575
"""Rows of a sheet below its header."""
_BLOCK: Final = 1 << 20


_CHARSETS: Final = {
    "cp1252": ("cp1252", "windows-1252"),
    "latin-1": ("latin-1", "iso-8859-1"),
    "utf-16": ("utf-16-le", "utf-16"),
}
"""Codec, and name in a Content-Type, of the dialects that are not UTF-8."""


@dataclass(frozen=True)
class ResultFormat:
    """How a result file is written.

    ``dialect``: of a CSV file that the rows come from, None for another one. ``decimal``: the
    decimal mark of numbers in CSV. ``about``: names and values for a sheet of a workbook.
    ``sheets``: further ones, each a name and a table of integers and text.
    """

    file_format: FileFormat
    dialect: CsvDialect | None = None
    decimal: DecimalMark = "."
    about: tuple[tuple[str, str], ...] = ()
    sheets: tuple[tuple[str, pl.DataFrame], ...] = ()

    @property
    def media_type(self) -> str:
        """The Content-Type."""
        if self.file_format != "csv" or self.dialect is None:
            return MEDIA_TYPES[self.file_format]
        charset = _CHARSETS.get(self.dialect.encoding, ("", "utf-8"))[1]
        return f"text/csv; charset={charset}"


def result_decimal(
    dialect: CsvDialect | None, decimal: DecimalMark | None, date_format: str
) -> DecimalMark:
    """The decimal mark of a result: the file's; where no number of it has one, a comma with
    semicolons and German dates, as spreadsheets write them there.
    """
    is_german = dialect is not None and dialect.separator == ";" and date_format.startswith("DD.")
    return decimal or ("," if is_german else ".")


class DataVersion(Protocol):
    """Which tables a forecast is from."""

    @property
    def dataset(self) -> str:
        """The chain, one of ``schema.Dataset``."""

    @property
    def version(self) -> str:
        """The data version."""


def about_forecasts(
    data: DataVersion, version: int, stage: str, as_of: str, objective: str
) -> tuple[tuple[str, str], ...]:
    """Names and values that say where forecasts come from, for a sheet of a workbook."""
    tables = "demo data (synthetic)" if data.dataset == Dataset.DEMO else "Rossmann tables"
    return (
        ("Model version", str(version)),
        ("Stage", stage),
        ("Origin (last day of known sales)", as_of),
        ("Objective", objective),
        ("Data", tables),
        ("Data version", data.version),
    )


def result_columns(levels: Sequence[float], quantiles: Sequence[float] = ()) -> list[str]:
    """Names of the columns that forecasts with intervals and quantiles add to a user's file.

    They come last.
    """
    bounds = [f"{side}_{name}" for name in percent_names(levels) for side in ("lower", "upper")]
    columns = [f"quantile_{name}" for name in percent_names(quantiles)]
    return ["forecast", *bounds, *columns, "model_version", "as_of", "warnings"]


def percent_names(shares: Sequence[float]) -> list[str]:
    """Different shares in per cent, as names of columns have them: 80, 2.5.

    They have six digits, or all of them where six do not tell the shares apart.
    """
    names = [f"{share * 100:g}" for share in shares]
    if len(set(names)) == len(names):
        return names
    return [f"{(Decimal(str(float(share))) * 100).normalize():f}" for share in shares]


def kept_columns(
    columns: Sequence[str], added: Sequence[str], file_format: FileFormat
) -> tuple[list[str], list[str]]:
    """The names under which a file's own columns come back, and what is to be said of them.

    A column with the name of an added one is renamed. CSV may have blank and repeated names.
    """
    names = list(columns) if file_format == "csv" else unique_names(columns)
    notes = []
    for index, name in enumerate(names):
        if name in added:
            new = next(
                candidate
                for candidate in (f"{'input_' * n}{name}" for n in range(1, len(names) + 2))
                if candidate not in names and candidate not in added
            )
            names[index] = new
            notes.append(f"the column {name} of the file comes back as {new}")
    return names, notes


def warning_texts(
    types: Sequence[str], flags: npt.NDArray[np.uint8]
) -> tuple[list[str | None], npt.NDArray[np.int64]]:
    """Texts of the column ``warnings``, and the index (n,) of each row's text.

    A text is the types of a row's warnings with blanks between, None where it has none.
    ``flags`` (n,): bit k is set where a row has the warning ``types[k]``.
    """
    distinct, index = np.unique(flags, return_inverse=True)
    texts = [
        " ".join(name for bit, name in enumerate(types) if value >> bit & 1) or None
        for value in distinct.tolist()
    ]
    return texts, index


class Writer(Protocol):
    """Writes chunks in order, and sends bytes as soon as a block is full."""

    def encode(self, chunk: pa.RecordBatch) -> Any:
        """A chunk in the form that ``write`` takes; may run in any thread."""

    def write(self, encoded: Any) -> None:
        """Write the next chunk."""

    def close(self) -> None:
        """Finish the file."""


def open_writer(form: ResultFormat, schema: pa.Schema, folder: Path, send: Send) -> Writer:
    """The writer of tables of ``schema``; ``folder``: for temporary files."""
    match form.file_format:
        case "parquet":
            return ParquetWriter(schema, send)
        case "xlsx":
            return ExcelWriter(schema, folder / "answer.xlsx", send, form)
        case _:
            return CsvWriter(schema, form, send)


def write_frame(frame: pl.DataFrame, names: Sequence[str], form: ResultFormat, path: Path) -> None:
    """Write a whole table under the column names ``names``, which may repeat in CSV."""
    columns = [f"c{index}" for index in range(frame.width)]
    with path.open("wb") as file, TemporaryDirectory(prefix="rossmann-write-") as folder:
        writer: Writer | None = None

        def send(block: bytes) -> None:
            file.write(block)

        for part in frame.rename(dict(zip(frame.columns, columns, strict=True))).iter_slices(
            _ROW_GROUP
        ):
            table = part.to_arrow(compat_level=pl.CompatLevel.oldest()).combine_chunks()
            for batch in table.rename_columns(list(names)).to_batches():
                writer = writer or open_writer(form, batch.schema, Path(folder), send)
                writer.write(writer.encode(batch))
        if writer is not None:
            writer.close()


def check_row_limit(file_format: FileFormat, rows: int) -> None:
    """Raise ``RequestError`` for more rows than a file of that format holds."""
    if file_format == "xlsx" and rows > _SHEET_ROWS:
        msg = f"a sheet holds at most {_SHEET_ROWS:,} rows, not {rows:,}: ask for csv or parquet"
        raise RequestError([ErrorDetail(("format",), msg, "too_many_rows")])


class CsvWriter:
    """CSV in the dialect of the file that its rows come from, else with commas in UTF-8.

    Numbers are written with all digits needed to read them back.
    """

    def __init__(self, schema: pa.Schema, form: ResultFormat, send: Send) -> None:
        dialect = form.dialect
        self._send = send
        self._encoding = "utf-8"
        self._options: dict[str, Any] = {"separator": ",", "include_header": False}
        mark = b""
        if dialect is not None:
            self._options["separator"] = dialect.separator
            self._options["line_terminator"] = dialect.line_end
            self._encoding = _CHARSETS.get(dialect.encoding, ("utf-8", ""))[0]
            mark = "\ufeff".encode(self._encoding) if dialect.has_bom else b""
        self._options["decimal_comma"] = form.decimal == "," and self._options["separator"] != ","
        header = pl.DataFrame([list(schema.names)], orient="row")
        send(mark + self._encoded(header))

    def encode(self, chunk: pa.RecordBatch) -> bytes:
        """The chunk as text."""
        frame = pl.from_arrow(chunk.rename_columns([f"c{n}" for n in range(chunk.num_columns)]))
        assert isinstance(frame, pl.DataFrame)
        return self._encoded(frame)

    def _encoded(self, frame: pl.DataFrame) -> bytes:
        text: str = frame.write_csv(**self._options)
        return text.encode(self._encoding, "replace")

    def write(self, encoded: bytes) -> None:
        """Write the next chunk."""
        self._send(encoded)

    def close(self) -> None:
        """Finish the file."""


class ParquetWriter:
    """Parquet, a row group at a time."""

    def __init__(self, schema: pa.Schema, send: Send) -> None:
        self._pipe = _Pipe(send)
        self._schema = schema
        self._writer = pq.ParquetWriter(pa.PythonFile(self._pipe, mode="w"), schema)
        self._chunks: list[pa.RecordBatch] = []

    def encode(self, chunk: pa.RecordBatch) -> pa.RecordBatch:
        """The chunk as it is."""
        return chunk

    def write(self, encoded: pa.RecordBatch) -> None:
        """Write the next chunk."""
        self._chunks.append(encoded)
        if sum(map(len, self._chunks)) >= _ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_batches(self._chunks, self._schema))
        self._chunks = []
        self._pipe.flush()

    def close(self) -> None:
        """Finish the file."""
        if self._chunks:
            self._flush()
        self._writer.close()
        self._pipe.flush()


class _Pipe:
    """File object that sends what is written to it, in blocks."""

    closed = False

    def __init__(self, send: Send) -> None:
        self._send = send
        self._buffer = bytearray()
        self._sent = 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:
        self._buffer += data
        if len(self._buffer) >= _BLOCK:
            self.flush()
        return len(data)

    def flush(self) -> None:
        if self._buffer:
            self._sent += len(self._buffer)
            self._send(bytes(self._buffer))
            self._buffer.clear()

    def tell(self) -> int:
        return self._sent + len(self._buffer)

    def close(self) -> None:
        self.flush()


class _ExactFloat(float):
    """A number that xlsxwriter writes with all 17 digits instead of 16."""

    def __format__(self, _: str) -> str:
        return repr(float(self))

    @classmethod
    def of(cls, value: float) -> Self:
        return cls(value)


class ExcelWriter:
    """A workbook with a sheet of forecasts and those of its format; sent when it is complete.

    Text is never a formula or a link.
    """

    def __init__(self, schema: pa.Schema, path: Path, send: Send, form: ResultFormat) -> None:
        from xlsxwriter import Workbook  # type: ignore[import-untyped]

        self._path, self._send, self._form = path, send, form
        self._book = Workbook(str(path), {"constant_memory": True, "tmpdir": str(path.parent)})
        self._sheet = self._book.add_worksheet("Forecasts")
        self._days = self._book.add_format({"num_format": "yyyy-mm-dd"})
        self._sales = self._book.add_format({"num_format": "#,##0.00"})
        self._bold = self._book.add_format({"bold": True})
        self._write_header(schema.names)

    def _write_header(self, names: Sequence[str]) -> None:
        self._sheet.freeze_panes(1, 0)
        for column, name in enumerate(names):
            self._sheet.set_column(column, column, max(10, min(len(name) + 2, 40)))
            self._sheet.write_string(0, column, name, self._bold)
        self._row = 1

    def encode(self, chunk: pa.RecordBatch) -> list[list[Any]]:
        """The values by column."""
        return [column.to_pylist() for column in chunk.columns]

    def write(self, encoded: list[list[Any]]) -> None:
        """Write the next chunk."""
        # Row by row: in constant-memory mode an earlier row can no longer be written.
        for values in zip(*encoded, strict=True):
            for column, value in enumerate(values):
                self._put(self._row, column, value)
            self._row += 1

    def _put(self, row: int, column: int, value: Any) -> None:
        match value:
            case None:
                return
            case bool():
                self._sheet.write_boolean(row, column, value)
            case int() if abs(value) < 10**15:
                self._sheet.write_number(row, column, value)
            case float() if math.isfinite(value):
                self._sheet.write_number(row, column, _ExactFloat.of(value), self._sales)
            case str() | int() | float():
                self._sheet.write_string(row, column, str(value))
            case _ if getattr(value, "year", 0) >= 1900 and getattr(value, "tzinfo", None) is None:
                self._sheet.write_datetime(row, column, value, self._days)
            case _:
                self._sheet.write_string(row, column, str(value))

    def close(self) -> None:
        """Finish the file and send it."""
        for name, table in self._form.sheets:
            self._sheet = self._book.add_worksheet(name)
            self._write_header(table.columns)
            self.write([column.to_list() for column in table.get_columns()])
        if self._form.about:
            sheet = self._book.add_worksheet("About")
            sheet.set_column(0, 1, 24)
            for row, (name, value) in enumerate(self._form.about):
                sheet.write_string(row, 0, name)
                sheet.write_string(row, 1, value)
        self._book.close()
        with self._path.open("rb") as file:
            while block := file.read(_BLOCK):
                self._send(block)
