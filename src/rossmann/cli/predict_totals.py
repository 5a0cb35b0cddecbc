"""Totals of a forecast file as a table of their own."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

    from rossmann.schema import Rows
    from rossmann.serving.forecaster import Forecast, Forecaster

LEVELS = (0.8, 0.95)
"""Bands of totals where none are asked for."""


def totals_table(
    forecaster: "Forecaster", rows: "Rows", forecast: "Forecast", levels: Sequence[float]
) -> "pl.DataFrame":
    """By store, store type and chain, by week (Monday to Sunday) and whole, with bands."""
    import numpy as np
    import polars as pl

    from rossmann.models.totals_forecast import BY, forecast_totals
    from rossmann.schema import STORE_TYPES

    asked = tuple(levels) or LEVELS
    parts = []
    for found in forecast_totals(
        forecaster.panel, forecaster.ensemble, rows, forecast.as_of, BY, asked, forecast.objective
    ):
        names = np.array([*STORE_TYPES, ""])
        columns: dict[str, pl.Series] = {
            "Total": pl.Series([found.by] * len(found.sales)),
            "Store": pl.Series([None if s < 0 else int(s) for s in found.store], dtype=pl.Int64),
            "StoreType": pl.Series(names[found.kind]),
            "First": pl.Series(found.first.astype(np.int32)).cast(pl.Date),
            "Last": pl.Series(found.last.astype(np.int32)).cast(pl.Date),
            "Rows": pl.Series(found.rows),
            "Forecast": pl.Series(found.sales),
        }
        for level, (low, high) in zip(asked, found.bands, strict=True):
            columns[f"Low{level * 100:g}"] = pl.Series(low)
            columns[f"High{level * 100:g}"] = pl.Series(high)
        parts.append(pl.DataFrame(columns))
    return pl.concat(parts)
