"""Forecasts a batch in chunks, all from one origin and by one model version."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rossmann.data.prepare_predictions import Upload, sort_by_row
from rossmann.data.uploads.parquet_chunks import format_position
from rossmann.data.uploads.result_files import result_columns
from rossmann.epoch_days import weekday_of
from rossmann.errors import ErrorDetail, RequestError
from rossmann.schema import STATE_HOLIDAYS, FloatArray, Objective, StoreDays
from rossmann.serving.client.client import Client
from rossmann.serving.client.responses import FileResult

CHUNK_ROWS: Final = 10_000
LEVEL: Final = 0.8
FORECAST, LOW, HIGH, VERSION, AS_OF, WARNINGS = result_columns((LEVEL,))
"""Columns of a result, as ``POST /predict/file`` names them."""
_NOTED: Final = ("day_of_week", "open_unsaid")
"""Types of warnings that the notes of an upload hold already."""


def request_table(upload: Upload, indices: npt.NDArray[np.int64]) -> pl.DataFrame:
    """The valid rows at ``indices`` as a table for the service: the seven fields.

    An empty Open stays empty and a wrong DayOfWeek wrong, so that the service warns of them.
    """
    rows = upload.rows.take(indices)
    weekday = weekday_of(rows.day) + 1
    return pl.DataFrame(
        {
            "Store": rows.store,
            "DayOfWeek": np.where(upload.weekday_mismatch[indices], weekday % 7 + 1, weekday),
            "Date": pl.Series(rows.day).cast(pl.Date),
            "Open": pl.Series(rows.open).set(pl.Series(upload.open_missing[indices]), None),
            "Promo": rows.promo,
            "StateHoliday": pl.Series(STATE_HOLIDAYS).gather(rows.state_holiday),
            "SchoolHoliday": rows.school_holiday,
        }
    )


def _without_row(error: ErrorDetail) -> ErrorDetail:
    """The error without the row of the request in its text, which is not that of the file."""
    place = format_position("row", int(error.loc[1]) + 1) if len(error.loc) > 1 else ""
    return replace(error, msg=error.msg.removeprefix(f"{place}: "))


@dataclass
class BatchRun:
    """The state of one batch; ``run`` goes on where it stopped, so an outage costs no work.

    ``usable``: False where the service rejected one of the n valid rows of the upload, (n,).
    ``sales``, ``low``, ``high``: one per row of the file, NaN where there is no forecast.
    ``row_warnings``: types of a row's warnings, None where there are none; one per row of the file.
    ``errors``: of rejected rows, with ``loc`` (row number from 1, field).
    ``warnings``: text -> number of rows.
    """

    upload: Upload
    usable: npt.NDArray[np.bool_]
    sales: FloatArray
    low: FloatArray
    high: FloatArray
    row_warnings: npt.NDArray[np.object_]
    objective: Objective = "accuracy"
    as_of: str | None = None
    version: int | None = None
    done: int = 0
    checked_invalid: bool = False
    errors: list[ErrorDetail] = field(default_factory=list)
    warnings: Counter[str] = field(default_factory=Counter)

    @classmethod
    def from_upload(cls, upload: Upload, objective: Objective = "accuracy") -> "BatchRun":
        """A run over the valid rows of an upload, all with one objective."""
        count = upload.frame.height
        sales, low, high = np.full((3, count), np.nan)
        usable = np.ones(len(upload.rows), dtype=bool)
        return cls(upload, usable, sales, low, high, np.full(count, None), objective)

    @property
    def rows(self) -> StoreDays:
        """The n valid rows."""
        return self.upload.rows

    @property
    def file_rows(self) -> npt.NDArray[np.int64]:
        """The index of each of them in the file, (n,)."""
        return self.upload.index

    @property
    def finished(self) -> bool:
        """Whether every row has its forecast or its error."""
        return self.done >= len(self.file_rows)

    def run(self, service: Client) -> Iterator[int]:
        """Send chunk after chunk; yields how many rows are done.

        Raises ``ServiceError`` when the service becomes unavailable; finished chunks are kept.
        """
        self.check(service)
        while not self.finished:
            stop = min(self.done + CHUNK_ROWS, len(self.file_rows))
            self._forecast(service, np.arange(self.done, stop))
            self.done = stop
            yield self.done

    def check(self, service: Client) -> None:
        """Find the rows that the service rejects, and the origin of all others; once.

        A row is rejected for its store or its day: one row of each is enough. A request has one
        origin, set by its earliest day. Chunks would each get their own, so the origin of the
        whole file is sent with each of them; the model version too. Days that the service rejects
        are dropped first, or they would set the origin.
        """
        if not self.checked_invalid:
            self._check_invalid(service)
        while self.as_of is None and self.usable.any():
            usable = np.flatnonzero(self.usable)
            first_rows = [
                usable[np.unique(values[usable], return_index=True)[1]]
                for values in (self.rows.day, self.rows.store)
            ]
            # Days first: they decide on the origin.
            sample = np.concatenate(first_rows)[:CHUNK_ROWS]
            try:
                answer, _ = self._request(service, sample)
            except RequestError as error:
                self._reject(error, sample)
                continue
            self.as_of, self.version = answer.as_of, answer.model_version

    def _check_invalid(self, service: Client) -> None:
        """Find what the service rejects in rows that have another fault already."""
        sample = self.upload.stores_and_days(invalid_only=True)
        if len(sample.rows):
            try:
                self._send(service, sample.refused_table())
            except RequestError as error:
                self.errors += sample.errors_of(map(_without_row, error.errors))
        self.checked_invalid = True

    def _forecast(self, service: Client, indices: npt.NDArray[np.int64]) -> None:
        """Forecast one chunk; where the service rejects rows, request the others again."""
        while len(indices := indices[self.usable[indices]]):
            try:
                answer, result = self._request(
                    service,
                    indices,
                    stage="Production" if self.version is None else self.version,
                    as_of=self.as_of,
                    intervals=(LEVEL,),
                    objective=self.objective,
                )
            except RequestError as error:
                self._reject(error, indices)
                continue
            file_rows = self.file_rows[indices]
            self.sales[file_rows] = result[FORECAST]
            self.low[file_rows] = result[LOW]
            self.high[file_rows] = result[HIGH]
            self.row_warnings[file_rows] = result[WARNINGS].to_list()
            for warning in answer.warnings:
                if warning.count and warning.type not in _NOTED:
                    self.warnings[warning.msg] += warning.count
            return

    def _request(
        self, service: Client, indices: npt.NDArray[np.int64], **options: Any
    ) -> tuple[FileResult, pl.DataFrame]:
        """Forecasts of the rows at ``indices``: as a file, for its answer warns row by row."""
        return self._send(service, request_table(self.upload, indices), **options)

    def _send(
        self, service: Client, table: pl.DataFrame, **options: Any
    ) -> tuple[FileResult, pl.DataFrame]:
        with TemporaryDirectory(prefix="rossmann-batch-") as folder:
            source, target = Path(folder) / "rows.parquet", Path(folder) / "forecasts.parquet"
            table.write_parquet(source)
            answer = service.predict_file(source, target, **options)
            return answer, pl.read_parquet(target)

    def _reject(self, error: RequestError, indices: npt.NDArray[np.int64]) -> None:
        """Mark invalid rows, and all others with the same unknown store or invalid date."""
        before = int(self.usable.sum())
        for detail in error.errors:
            match detail.loc:
                case ("rows", int(i), "Store"):
                    same = self.rows.store == self.rows.store[indices[i]]
                case ("rows", int(i), "Date"):
                    same = self.rows.day == self.rows.day[indices[i]]
                case ("rows", int(i), *_):
                    same = np.arange(len(self.file_rows)) == indices[i]
                case _:
                    continue
            numbers = (self.file_rows[same & self.usable] + 1).tolist()
            fault = _without_row(detail)
            self.errors += [replace(fault, loc=(n, *detail.loc[2:])) for n in numbers]
            self.usable &= ~same
        self.errors = sort_by_row(self.errors)
        if int(self.usable.sum()) == before:
            raise error
