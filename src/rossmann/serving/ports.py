"""What the service needs from the parts below it; tests put small ones in their place."""
# ruff: noqa: D102 -- each of these is documented where it is defined

from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rossmann.models.model_versions import Expected
from rossmann.schema import DayArray, FlagArray, FloatArray, Matrix, Rows, Stage


class Calendar(Protocol):
    """What the checks need of a panel: its stores, and from when to when it has history."""

    @property
    def first_day(self) -> int: ...
    @property
    def last_day(self) -> int: ...
    @property
    def store_numbers(self) -> DayArray: ...
    def locate(self, stores: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]: ...


class PanelLike(Calendar, Protocol):
    """What a forecast needs of a panel."""

    def reach(self, rows: Rows) -> tuple[int, int, int]: ...
    def matrix(self, rows: Rows, origin: int | npt.NDArray[np.int64]) -> Matrix: ...
    def offset_parts(self, rows: Rows, origin: int) -> FloatArray: ...
    def scheduled(
        self, positions: npt.NDArray[np.int64], days: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.bool_]: ...
    def history_days(
        self, positions: npt.NDArray[np.int64], origin: int
    ) -> npt.NDArray[np.integer[Any]]: ...
    def doubts(
        self,
        places: npt.NDArray[np.int64],
        days: DayArray,
        origin: int | npt.NDArray[np.int64],
        fewest: int,
    ) -> int: ...
    def idle_days(
        self, positions: npt.NDArray[np.int64], origin: int, fewest: int
    ) -> npt.NDArray[np.int64]: ...


class EnsembleLike(Protocol):
    """What a forecast needs of a model."""

    @property
    def card(self) -> dict[str, Any]: ...
    def predict(self, matrix: Matrix, threads: int = 1) -> FloatArray: ...
    def contributions(self, matrix: Matrix, threads: int = 1) -> FloatArray: ...
    def bounds(
        self, matrix: Matrix, sales: FloatArray, levels: Sequence[float]
    ) -> list[tuple[FloatArray, FloatArray]]: ...


class InfoLike(Protocol):
    """What is told about the tables that a panel was made from."""

    @property
    def dataset(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def folder(self) -> Path: ...
    @property
    def rows(self) -> int: ...
    @property
    def stores(self) -> int: ...
    @property
    def first_day(self) -> date: ...
    @property
    def last_day(self) -> date: ...
    @property
    def schedule_end(self) -> date | None: ...


class PastLike(Protocol):
    """A store's past days."""

    @property
    def day(self) -> DayArray: ...
    @property
    def sales(self) -> FloatArray: ...
    @property
    def open(self) -> FlagArray: ...
    @property
    def promo(self) -> FlagArray: ...


class StorePanel(PanelLike, Protocol):
    """What the pages about stores need besides."""

    @property
    def info(self) -> InfoLike: ...
    def usual_rows(self, store: int, days: DayArray) -> Rows: ...
    def history(self, store: int, until: int, days: int) -> PastLike: ...


class VersionLike(Protocol):
    """A version in the registry."""

    @property
    def version(self) -> int: ...
    @property
    def stage(self) -> Stage: ...
    @property
    def run_id(self) -> str: ...
    @property
    def created(self) -> datetime: ...
    @property
    def tags(self) -> dict[str, str]: ...


class RegistryLike(Protocol):
    """What the service needs of the registry."""

    def versions(self) -> Sequence[VersionLike]: ...
    def fetch(self, version: int, cache: Path) -> Path: ...
    def promote(
        self, version: int, reason: str, who: str, expected: Expected = "any"
    ) -> VersionLike: ...
    def rollback(self, reason: str, who: str) -> VersionLike: ...
