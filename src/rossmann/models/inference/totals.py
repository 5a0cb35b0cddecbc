"""Forecast totals of rows with their bands: what a door asks for by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from rossmann.errors import DamagedModel
from rossmann.models.calibration.bias_correction import CORRECTION, correction
from rossmann.models.calibration.totals_covariance import Group, Lines, bands, group_by, sum_by
from rossmann.models.calibration.totals_fit import Shelf, store_types
from rossmann.models.ensemble.prediction_intervals import row_scale
from rossmann.schema import FloatArray, Matrix, Objective, Rows

TOTALS: Final = "totals"
"""Where a version's card holds the table."""
BY: Final = ("store_week", "store", "store_type_week", "store_type", "chain_week", "chain")
"""Totals that can be asked for; a week is Monday to Sunday."""
_ALL: Final = -1


class Model(Protocol):
    """What totals need of a version."""

    @property
    def card(self) -> dict[str, Any]: ...  # noqa: D102 -- documented where it is defined
    def predict(self, matrix: Matrix, threads: int = 1) -> FloatArray: ...  # noqa: D102


@dataclass(frozen=True)
class Totals:
    """Totals of one sort, g of them: arrays (g,).

    ``store``: store number, ``kind``: place in ``schema.STORE_TYPES``, each -1 where the total is
    not of one; ``first``, ``last``: first and last day of its rows, since 1970-01-01; ``rows``:
    how many; ``sales``: the forecast; ``bands``: lower and upper bound of each level.
    """

    by: str
    store: Group
    kind: Group
    first: Group
    last: Group
    rows: Group
    sales: FloatArray
    bands: list[tuple[FloatArray, FloatArray]]


def forecast_totals(
    panel: Shelf,
    ensemble: Model,
    rows: Rows,
    origin: int,
    by: Sequence[str],
    levels: Sequence[float] = (),
    objective: Objective = "accuracy",
    threads: int = 1,
) -> list[Totals]:
    """Totals of ``rows`` (n,), each store and day once, as of ``origin``, for each sort of ``BY``.

    Closed rows count as zero for certain. With ``objective`` unbiased the totals are of unbiased
    forecasts, within the same bands. Raises ``ValueError`` for an unknown sort or a level outside
    .5 to .99, ``DamagedModel`` for a version without the tables that this takes.
    """
    unknown = [name for name in by if name not in BY]
    if unknown:
        raise ValueError(f"totals are by {', '.join(BY)} (got {unknown[0]})")
    card = ensemble.card
    missing = [t for t in (TOTALS, CORRECTION) if t not in card]
    if TOTALS in missing or (objective == "unbiased" and missing):
        raise DamagedModel("this version has no tables for totals: train a new one")
    lines, point = _lines(panel, ensemble, rows, origin, objective, threads)
    out = []
    for name in by:
        groups, store, kind = _groups(name, lines)
        count = len(store)
        _, found = bands(card["intervals"], card[TOTALS], lines, groups, levels)
        sales = sum_by(groups, point, count)
        out.append(
            Totals(
                by=name,
                store=store,
                kind=kind,
                first=_extreme(np.minimum, groups, lines.day, count),
                last=_extreme(np.maximum, groups, lines.day, count),
                rows=np.bincount(groups, minlength=count).astype(np.int64),
                sales=sales,
                bands=[(np.minimum(low, sales), np.maximum(high, sales)) for low, high in found],
            )
        )
    return out


def _lines(
    panel: Shelf, ensemble: Model, rows: Rows, origin: int, objective: Objective, threads: int
) -> tuple[Lines, FloatArray]:
    """The rows as totals see them, and the forecasts that are added up (n,)."""
    opened = np.nonzero(rows.open)[0]
    matrix = panel.matrix(rows.take(opened), origin)
    sales, scale, factor = (np.zeros(len(rows)) for _ in range(3))
    sales[opened] = ensemble.predict(matrix, threads)
    scale[opened] = row_scale(ensemble.card["intervals"], matrix)
    factor[opened] = 1.0
    if objective == "unbiased":
        factor[opened] = correction(ensemble.card[CORRECTION], matrix)
    kind = store_types(panel)[panel.locate(rows.store)]
    return Lines(rows.store, rows.day, kind, sales, scale), sales * factor


def _groups(name: str, lines: Lines) -> tuple[Group, Group, Group]:
    """Each row's group (n,), and each group's store and store type, (g,)."""
    whose = name.removesuffix("_week")
    nobody = np.full(len(lines.day), _ALL)
    store = lines.store if whose == "store" else nobody
    kind = nobody if whose == "chain" else lines.kind
    week = (lines.day.astype(np.int64) + 3) // 7  # 1970-01-01 was a Thursday
    groups, (stores, kinds, _) = group_by(store, kind, nobody if whose == name else week)
    return groups, stores, kinds


def _extreme(choose: np.ufunc, groups: Group, day: npt.NDArray[np.integer], count: int) -> Group:
    """The least or greatest day of each group, (count,)."""
    out = np.zeros(count, np.int64)
    out[groups] = day  # any of the group's own, to begin with
    choose.at(out, groups, day.astype(np.int64))
    return out
