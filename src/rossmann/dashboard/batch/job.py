"""A batch on its way through the service: in chunks, all from one origin and one model version."""

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

CHUNK: Final = 5_000
LEVEL: Final = 0.8
_EPOCH: Final = date(1970, 1, 1)


def to_request_rows(rows: StoreDays) -> list[dict[str, Any]]:
    """Rows as the service takes them: a list of n objects with the seven fields."""
    days = {day: _EPOCH + timedelta(days=day) for day in np.unique(rows.day).tolist()}
    return [
        {
            "Store": store,
            "DayOfWeek": days[day].isoweekday(),
            "Date": days[day].isoformat(),
            "Open": opened,
            "Promo": promo,
            "StateHoliday": STATE_HOLIDAYS[holiday],
            "SchoolHoliday": school,
        }
        for store, day, opened, promo, holiday, school in zip(
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

    ``rows``: the n rows to answer; ``lines``: the place in the file of each, shape (n,).
    ``sales``, ``low``, ``high``: one per row of the file, NaN where there is no answer.
    ``faults``: what the service refused, with ``loc`` (row number from 1, field).
    ``warnings``: text → rows that it touches.
    """

    rows: StoreDays
    lines: npt.NDArray[np.int64]
    usable: npt.NDArray[np.bool_]
    sales: FloatArray
    low: FloatArray
    high: FloatArray
    objective: Objective = "accuracy"
    as_of: str | None = None
    version: int | None = None
    done: int = 0
    faults: list[ErrorDetail] = field(default_factory=list)
    warnings: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, upload: Upload, objective: Objective = "accuracy") -> "BatchRun":
        """A job for the good rows of an upload, all made for the same."""
        lines = np.asarray(upload.index, dtype=np.int64)
        sales, low, high = np.full((3, upload.frame.height), np.nan)
        usable = np.ones(len(lines), dtype=bool)
        return cls(upload.rows, lines, usable, sales, low, high, objective)

    @property
    def finished(self) -> bool:
        """Whether every row has its answer or its fault."""
        return self.done >= len(self.lines)

    def run(self, service: Client) -> Iterator[int]:
        """Send chunk after chunk, yielding how many rows are done.

        Raises ``ServiceError`` when the service goes away: what is done is kept.
        """
        if self.as_of is None:
            self._settle_origin(service)
        while not self.finished:
            stop = min(self.done + CHUNK, len(self.lines))
            self._answer(service, np.arange(self.done, stop))
            self.done = stop
            yield self.done

    def _settle_origin(self, service: Client) -> None:
        """Ask with one row per day of the file: the service names the origin of them all.

        A request has one origin, set by its earliest day. Chunks would each get their own, so the
        whole file's is asked for once and sent with each of them; the model version too. Days that
        the service refuses are dropped first, or they would set the origin.
        """
        while self.usable.any():
            left = np.flatnonzero(self.usable)
            first = np.unique(self.rows.day[left], return_index=True)[1]
            sample = left[first[:CHUNK]]
            try:
                answer = service.predict(to_request_rows(self.rows.take(sample)))
            except RequestError as error:
                self._refuse(error, sample)
                continue
            self.as_of, self.version = answer.as_of, answer.model_version
            return

    def _answer(self, service: Client, places: npt.NDArray[np.int64]) -> None:
        """One chunk; rows that the service refuses are set aside and the others asked again."""
        while len(places := places[self.usable[places]]):
            try:
                answer = service.predict(
                    to_request_rows(self.rows.take(places)),
                    stage="Production" if self.version is None else self.version,
                    as_of=self.as_of,
                    intervals=(LEVEL,),
                    objective=self.objective,
                )
            except RequestError as error:
                self._refuse(error, places)
                continue
            lines = self.lines[places]
            self.sales[lines] = answer.predictions
            self.low[lines] = answer.intervals[0].lower
            self.high[lines] = answer.intervals[0].upper
            for notice in answer.warnings:
                self.warnings[notice.msg] += notice.count
            return

    def _refuse(self, error: RequestError, places: npt.NDArray[np.int64]) -> None:
        """Set aside the rows at fault, and all others with the same unknown store or bad date."""
        before = int(self.usable.sum())
        for fault in error.faults:
            match fault.loc:
                case ("inputs", int(i), "Store"):
                    same = self.rows.store == self.rows.store[places[i]]
                case ("inputs", int(i), "Date"):
                    same = self.rows.day == self.rows.day[places[i]]
                case ("inputs", int(i), *_):
                    same = np.arange(len(self.lines)) == places[i]
                case _:
                    continue
            numbers = (self.lines[same & self.usable] + 1).tolist()
            self.faults += [
                ErrorDetail((n, *fault.loc[2:]), fault.msg, fault.type) for n in numbers
            ]
            self.usable &= ~same
        if int(self.usable.sum()) == before:
            raise error
