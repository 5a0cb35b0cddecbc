"""What there is to tell about stores: a summary, their past days and their plan."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from rossmann.epoch_days import iso, read_day
from rossmann.errors import Fault, RequestError
from rossmann.models.inference.protocols import StorePanel
from rossmann.models.inference.row_checks import furthest, shown, store_faults
from rossmann.schema import ASSORTMENTS, STATE_HOLIDAYS, STORE_TYPES
from rossmann.serving.schemas.stores import (
    PastDay,
    PlannedRow,
    StoreHistory,
    StorePlan,
    StoreSummary,
)

_YEAR: Final = 364
"""Days of sales that a summary's mean is taken over: whole weeks."""


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What the store table says; ``competition_distance`` in metres, None where unknown."""

    store_type: str
    assortment: str
    competition_distance: float | None
    promo2: bool


def read_facts(folder: Path) -> dict[int, StoreFacts]:
    """The store table of a data version, by store number."""
    table = pl.read_parquet(folder / "stores.parquet")
    names = ("Store", "StoreType", "Assortment", "CompetitionDistance", "Promo2")
    return {
        number: StoreFacts(
            STORE_TYPES[kind],
            ASSORTMENTS[assortment],
            None if metres is None or np.isnan(metres) else metres,
            bool(promo2),
        )
        for number, kind, assortment, metres, promo2 in table.select(names).iter_rows()
    }


class StoreBook:
    """Answers about stores; every method raises ``RequestError`` for what it does not have."""

    def __init__(self, panel: StorePanel, facts: Mapping[int, StoreFacts]) -> None:
        self._panel = panel
        self._facts = facts

    @cached_property
    def _summaries(self) -> dict[int, StoreSummary]:
        return {int(number): self._summary(int(number)) for number in self._panel.store_numbers}

    def all(self) -> list[StoreSummary]:
        """Every store, by number."""
        return list(self._summaries.values())

    def one(self, number: int) -> StoreSummary:
        """One store."""
        self._known(number)
        return self._summaries[number]

    def _summary(self, number: int) -> StoreSummary:
        facts = self._facts[number]
        past = self._panel.history(number, self._panel.last_day, _YEAR)
        sold = np.flatnonzero(np.nan_to_num(past.sales) > 0)
        last = int(sold[-1]) if len(sold) else None
        return StoreSummary(
            store=number,
            store_type=facts.store_type,
            assortment=facts.assortment,
            competition_distance=facts.competition_distance,
            promo2=facts.promo2,
            last_day=None if last is None else iso(past.day[last]),
            last_sales=None if last is None else float(past.sales[last]),
            mean_sales=float(past.sales[sold].mean()) if len(sold) else None,
        )

    def history(self, number: int, days: int, until: str | None) -> StoreHistory:
        """The last ``days`` days up to ``until``, or up to the end of history."""
        self._known(number)
        first, last = self._panel.first_day, self._panel.last_day
        end = last if until is None else _day("until", until, first, last)
        past = self._panel.history(number, end, days)
        unknown = np.isnan(past.sales)
        return StoreHistory(
            store=number,
            until=iso(end),
            days=[
                PastDay(
                    Date=iso(past.day[at]),
                    Sales=None if unknown[at] else float(past.sales[at]),
                    Open=int(past.open[at]),
                    Promo=int(past.promo[at]),
                )
                for at in range(len(past.day))
            ],
        )

    def plan(self, number: int, start: str | None, days: int) -> StorePlan:
        """The plan from ``start`` on, or from the day after history; cut where forecasts end."""
        self._known(number)
        first, last = self._panel.first_day, self._panel.last_day
        end = furthest(last)
        begin = last + 1 if start is None else _day("start", start, first, end)
        when = np.arange(begin, min(begin + days, end + 1), dtype=np.int32)
        rows = self._panel.usual_rows(number, when)
        known = self._panel.scheduled(self._panel.locate(rows.store), rows.day)
        return StorePlan(
            store=number,
            start=iso(begin),
            rows=[
                PlannedRow(
                    Store=number,
                    DayOfWeek=(int(rows.day[at]) + 3) % 7 + 1,
                    Date=iso(rows.day[at]),
                    Open=int(rows.open[at]),
                    Promo=int(rows.promo[at]),
                    StateHoliday=STATE_HOLIDAYS[rows.state_holiday[at]],
                    SchoolHoliday=int(rows.school_holiday[at]),
                    scheduled=bool(known[at]),
                )
                for at in range(len(rows))
            ],
        )

    def _known(self, number: int) -> None:
        faults = store_faults(self._panel, {0: number})
        if faults:
            raise RequestError([Fault(("path", "store"), faults[0].msg, faults[0].type)])


class Books:
    """The book of the panel in service: another one when the panel has changed."""

    def __init__(self, panel: Callable[[], StorePanel]) -> None:
        self._panel = panel
        self._now: tuple[StorePanel, StoreBook] | None = None

    def now(self) -> StoreBook:
        """The book to answer one request from."""
        panel, made = self._panel(), self._now
        if made is None or made[0] is not panel:
            # Two threads may both make it: the same content.
            made = self._now = (panel, StoreBook(panel, read_facts(panel.info.folder)))
        return made[1]


def _day(name: str, text: str, low: int, high: int) -> int:
    day = read_day(text)
    if day is None:
        msg = f"{name} must be a real date written YYYY-MM-DD (got {shown(text)})"
        raise RequestError([Fault(("query", name), msg, "date_format")])
    if not low <= day <= high:
        msg = f"{name} must be from {iso(low)} to {iso(high)} (got {shown(text)})"
        raise RequestError([Fault(("query", name), msg, "date_range")])
    return day
