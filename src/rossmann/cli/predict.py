"""The verb that forecasts a file.

MERGED: Totals of a forecast file as a table of their own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rossmann.cli.terminal import echo, progress

if TYPE_CHECKING:
    import polars as pl

    from rossmann.data.prepare_predictions import Upload
    from rossmann.models.inference.forecaster import Forecast, Forecaster
    from rossmann.schema import FloatArray, Objective, StoreDays
    from rossmann.settings import Settings


LEVELS = (0.8, 0.95)
"""Bands of totals where none are asked for."""


def totals_table(
    forecaster: "Forecaster", rows: "StoreDays", forecast: "Forecast", levels: Sequence[float]
) -> "pl.DataFrame":
    """By store, store type and chain, by week (Monday to Sunday) and whole, with bands."""
    import numpy as np
    import polars as pl

    from rossmann.models.inference.totals import TOTAL_LEVELS, forecast_totals
    from rossmann.schema import STORE_TYPES

    asked = tuple(levels) or LEVELS
    parts = []
    for found in forecast_totals(
        forecaster.panel,
        forecaster.ensemble,
        rows,
        forecast.as_of,
        TOTAL_LEVELS,
        asked,
        forecast.objective,
    ):
        names = np.array([*STORE_TYPES, ""])
        columns: dict[str, pl.Series] = {
            "Total": pl.Series([found.by] * len(found.sales)),
            "Store": pl.Series([None if s < 0 else int(s) for s in found.store], dtype=pl.Int64),
            "StoreType": pl.Series(names[found.store_type]),
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


FORMATS = (".csv", ".parquet", ".xlsx")
PART = 500
"""Rows that are explained at once."""


def add_verbs(app: typer.Typer) -> None:
    """Add this module's verb to the command line."""
    app.command()(predict)


def predict(
    file: Annotated[Path, typer.Argument(help="CSV, Parquet or Excel, a row for each store-day")],
    output: Annotated[Path, typer.Option("-o", "--output", help=f"ends in {', '.join(FORMATS)}")],
    model: Annotated[str, typer.Option(help="Production, Staging or a version")] = "Production",
    as_of: Annotated[
        str | None, typer.Option(help="last day whose sales may be seen, YYYY-MM-DD")
    ] = None,
    interval: Annotated[
        list[float] | None, typer.Option(help="a level, such as 0.8; may be repeated")
    ] = None,
    date_format: Annotated[
        str | None, typer.Option(help="such as MM/DD/YYYY, where dates can be read in two ways")
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="accuracy of each day, or unbiased totals; else the setting")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="add what drove each forecast, in per cent of sales")
    ] = False,
    totals: Annotated[
        Path | None,
        typer.Option(help="also write totals by store, store type and chain, with their bands"),
    ] = None,
    skip_faulty: Annotated[
        bool, typer.Option("--skip-faulty", help="forecast the good rows of a file with faults")
    ] = False,
) -> None:
    """Forecast every row of a file; the rows come back in their order with their forecast.

    With --explain, Baseline times every (1 + Driver_... / 100) is the forecast; it takes some
    25 ms a row. Bands of totals are not sums of the rows' bands: misses go together, in part.

    Example: rossmann predict test.csv -o forecast.csv --interval 0.8
    """
    from rossmann.data.prepare_predictions import read_upload
    from rossmann.errors import DataValidationError
    from rossmann.settings import load_settings

    for path in (output, totals):
        if path is not None and path.suffix.lower() not in FORMATS:
            raise typer.BadParameter(f"{path} must end in one of {', '.join(FORMATS)}")
    settings = load_settings()
    upload = read_upload(file.name, file.read_bytes(), date_format)
    for note in upload.notes:
        progress(note)
    for fault in upload.faults:
        progress(f"row {fault.loc[0]}: {fault.msg}")
    if upload.faults and not skip_faulty:
        raise DataValidationError(
            f"{file} has {len(upload.faults)} faults: mend them, or use --skip-faulty"
        )
    forecaster = _forecaster(settings, model)
    chosen = _objective(objective, settings)
    forecast = forecaster.forecast(upload.rows, _day(as_of), interval or [], chosen)
    for warning in forecast.warnings:
        progress(f"{warning.msg} ({warning.count} rows)")
    drivers = _drivers(forecaster, upload, forecast) if explain else {}
    _write(_table(upload, forecast, drivers), output)
    if totals is not None:
        found = totals_table(forecaster, upload.rows, forecast, interval or [])
        _write(found, totals)
        echo(f"{len(found):,} totals written to {totals}")
    kind = "unbiased totals" if forecast.objective == "unbiased" else "accuracy of each day"
    echo(f"{len(forecast.sales):,} forecasts ({kind}) written to {output}")


def _day(as_of: str | None) -> int | None:
    from rossmann.epoch_days import parse_iso_day

    day = None if as_of is None else parse_iso_day(as_of)
    if as_of is not None and day is None:
        raise typer.BadParameter(f"--as-of {as_of} is no date written YYYY-MM-DD")
    return day


def _objective(named: str | None, settings: "Settings") -> "Objective":
    from rossmann.schema import OBJECTIVES

    if named is None:
        return settings.objective
    for objective in OBJECTIVES:
        if objective == named:
            return objective
    raise typer.BadParameter(f"--objective {named} must be one of {', '.join(OBJECTIVES)}")


def _forecaster(settings: "Settings", model: str) -> "Forecaster":
    from rossmann.serving.runtime.service import build_service

    service = build_service(settings)
    if service.degraded_reason:
        progress(service.degraded_reason)
    picked = service.versions.load(int(model) if model.isdecimal() else model)
    progress(f"version {picked.served.version} ({picked.stage})")
    return picked.served.forecaster


def _drivers(
    forecaster: "Forecaster", upload: "Upload", forecast: "Forecast"
) -> "dict[str, FloatArray]":
    """Baseline and drivers of each row, in parts, so that progress shows."""
    import numpy as np

    from rossmann.models.inference.attributions import explanation_columns

    count = len(forecast.sales)
    parts = []
    for start in range(0, count, PART):
        rows = upload.rows.take(slice(start, start + PART))
        asked = forecaster.explain(rows, forecast.as_of, objective=forecast.objective)
        parts.append(explanation_columns(asked))
        progress(f"explained {min(start + PART, count):,} of {count:,} rows")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _table(
    upload: "Upload", forecast: "Forecast", drivers: "dict[str, FloatArray]"
) -> "pl.DataFrame":
    import polars as pl

    columns = {"Forecast": forecast.sales}
    for band in forecast.bands:
        columns[f"Low{band.level * 100:g}"] = band.lower
        columns[f"High{band.level * 100:g}"] = band.upper
    columns |= drivers
    good: pl.DataFrame = upload.frame[upload.index]
    return good.with_columns(pl.Series(name, values) for name, values in columns.items())


def _write(frame: "pl.DataFrame", output: Path) -> None:
    """Write beside the place and rename: a file that is there is whole."""
    from rossmann.launcher.stop_signals import Interrupts

    ending = output.suffix.lower()
    draft = output.with_name(f".{output.name}.draft{ending}")
    write = {".csv": frame.write_csv, ".parquet": frame.write_parquet, ".xlsx": frame.write_excel}
    try:
        with Interrupts():  # so that SIGTERM, too, leaves no draft behind
            write[ending](draft)  # type: ignore[operator]
            draft.replace(output)
    finally:
        draft.unlink(missing_ok=True)
