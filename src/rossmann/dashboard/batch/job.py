"""Forecasts a batch in chunks, all from one origin and by one model version."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rossmann.data.prepare_predictions import Upload
from rossmann.errors import ErrorDetail, RequestError
from rossmann.schema import STATE_HOLIDAYS, FloatArray, Objective, StoreDays
from rossmann.serving.client.client import Client

CHUNK_ROWS: Final = 5_000
LEVEL: Final = 0.8
_EPOCH: Final = date(1970, 1, 1)


def to_request_rows(rows: StoreDays) -> list[dict[str, Any]]:
    """Rows of a request: a list of n objects with the seven fields."""
    days = {day: _EPOCH + timedelta(days=day) for day in np.unique(rows.day).tolist()}
    return [
        {
            "Store": store,
            "DayOfWeek": days[day].isoweekday(),
            "Date": days[day].isoformat(),
            "Open": open_,
            "Promo": promo,
            "StateHoliday": STATE_HOLIDAYS[holiday],
            "SchoolHoliday": school,
        }
        for store, day, open_, promo, holiday, school in zip(
            rows.store.tolist(),
            rows.day.tolist(),
            rows.open.tolist(),
            rows.promo.tolist(),
            rows.state_holiday.tolist(),
            rows.school_holiday.tolist(),
            strict=True,
        )
    ]


@dataclass
class BatchRun:
    """The state of one batch; ``run`` goes on where it stopped, so an outage costs no work.

    ``rows``: the n rows to forecast; ``file_rows``: the index of each in the file, shape (n,);
    ``usable``: False where the service rejected the row, shape (n,).
    ``sales``, ``low``, ``high``: one per row of the file, NaN where there is no forecast.
    ``errors``: of rejected rows, with ``loc`` (row number from 1, field).
    ``warnings``: text -> number of rows.
    """

    rows: StoreDays
    file_rows: npt.NDArray[np.int64]
    usable: npt.NDArray[np.bool_]
    sales: FloatArray
    low: FloatArray
    high: FloatArray
    objective: Objective = "accuracy"
    as_of: str | None = None
    version: int | None = None
    done: int = 0
    errors: list[ErrorDetail] = field(default_factory=list)
    warnings: Counter[str] = field(default_factory=Counter)

    @classmethod
    def from_upload(cls, upload: Upload, objective: Objective = "accuracy") -> "BatchRun":
        """A run over the valid rows of an upload, all with one objective."""
        file_rows = np.asarray(upload.index, dtype=np.int64)
        sales, low, high = np.full((3, upload.frame.height), np.nan)
        usable = np.ones(len(file_rows), dtype=bool)
        return cls(upload.rows, file_rows, usable, sales, low, high, objective)

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
        while self.as_of is None and self.usable.any():
            usable = np.flatnonzero(self.usable)
            first_rows = [
                usable[np.unique(values[usable], return_index=True)[1]]
                for values in (self.rows.day, self.rows.store)
            ]
            # Days first: they decide on the origin.
            sample = np.concatenate(first_rows)[:CHUNK_ROWS]
            try:
                response = service.predict(to_request_rows(self.rows.take(sample)))
            except RequestError as error:
                self._reject(error, sample)
                continue
            self.as_of, self.version = response.as_of, response.model_version

    def _forecast(self, service: Client, indices: npt.NDArray[np.int64]) -> None:
        """Forecast one chunk; where the service rejects rows, request the others again."""
        while len(indices := indices[self.usable[indices]]):
            try:
                response = service.predict(
                    to_request_rows(self.rows.take(indices)),
                    stage="Production" if self.version is None else self.version,
                    as_of=self.as_of,
                    intervals=(LEVEL,),
                    objective=self.objective,
                )
            except RequestError as error:
                self._reject(error, indices)
                continue
            file_rows = self.file_rows[indices]
            self.sales[file_rows] = response.predictions
            self.low[file_rows] = response.intervals[0].lower
            self.high[file_rows] = response.intervals[0].upper
            for warning in response.warnings:
                self.warnings[warning.msg] += warning.count
            return

    def _reject(self, error: RequestError, indices: npt.NDArray[np.int64]) -> None:
        """Mark invalid rows, and all others with the same unknown store or invalid date."""
        before = int(self.usable.sum())
        for detail in error.errors:
            match detail.loc:
                case ("inputs", int(i), "Store"):
                    same = self.rows.store == self.rows.store[indices[i]]
                case ("inputs", int(i), "Date"):
                    same = self.rows.day == self.rows.day[indices[i]]
                case ("inputs", int(i), *_):
                    same = np.arange(len(self.file_rows)) == indices[i]
                case _:
                    continue
            numbers = (self.file_rows[same & self.usable] + 1).tolist()
            self.errors += [
                ErrorDetail((n, *detail.loc[2:]), detail.msg, detail.type) for n in numbers
            ]
            self.usable &= ~same
        self.errors.sort(key=lambda detail: int(detail.loc[0]))
        if int(self.usable.sum()) == before:
            raise error
