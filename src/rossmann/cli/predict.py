"""The verb ``predict``: a file in; its rows with their forecasts, and totals, out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rossmann.cli.terminal import (
    DateFormatOption,
    DecimalOption,
    SheetOption,
    echo,
    progress,
    reading_options,
)

if TYPE_CHECKING:
    import polars as pl

    from rossmann.data.prepare_predictions import Upload
    from rossmann.data.uploads.file_formats import FileFormat
    from rossmann.data.uploads.result_files import ResultFormat
    from rossmann.errors import ErrorDetail
    from rossmann.models.inference.forecaster import Forecast, Forecaster, ForecastRequest
    from rossmann.models.inference.totals import Totals
    from rossmann.schema import FloatArray, Objective
    from rossmann.serving.runtime.registry_view import LoadedVersion
    from rossmann.serving.runtime.version_manager import SelectedVersion
    from rossmann.settings import Settings

FORMATS = (".csv", ".parquet", ".xlsx")
DEFAULT_TOTALS_LEVELS = (0.8, 0.95)
"""Interval levels of totals where no option names any."""
EXPLAIN_CHUNK_ROWS = 500
"""Rows that are explained at once."""

FileArgument = Annotated[Path, typer.Argument(help="CSV, Parquet or Excel, a row per store-day")]
OutputOption = Annotated[Path, typer.Option("-o", "--output", help=f"ends in {', '.join(FORMATS)}")]
ModelOption = Annotated[str, typer.Option(help="Production, Staging or a version")]
AsOfOption = Annotated[str | None, typer.Option(help="last day of known sales, YYYY-MM-DD")]
IntervalOption = Annotated[list[float] | None, typer.Option(help="a level such as 0.8; repeatable")]
QuantileOption = Annotated[list[float] | None, typer.Option(help="such as 0.1; repeatable")]
ObjectiveOption = Annotated[str | None, typer.Option(help="accuracy or unbiased; else the setting")]
ExplainOption = Annotated[bool, typer.Option("--explain", help="add drivers, in per cent of sales")]
TotalsOption = Annotated[Path | None, typer.Option(help="file for totals by store, type and chain")]
KaggleOption = Annotated[
    bool, typer.Option("--kaggle", help="write the competition's submission: Id and Sales")
]
SkipFaultyOption = Annotated[bool, typer.Option("--skip-faulty", help="forecast valid rows only")]


def add_verbs(app: typer.Typer) -> None:
    """Add this module's verb to the command line."""
    app.command()(predict)


def predict(
    file: FileArgument,
    output: OutputOption,
    model: ModelOption = "Production",
    as_of: AsOfOption = None,
    interval: IntervalOption = None,
    date_format: DateFormatOption = None,
    objective: ObjectiveOption = None,
    explain: ExplainOption = False,
    totals: TotalsOption = None,
    skip_faulty: SkipFaultyOption = False,
    decimal: DecimalOption = None,
    sheet: SheetOption = None,
    kaggle: KaggleOption = False,
    quantile: QuantileOption = None,
) -> None:
    """Forecast every row of a file; the rows come back in their order with their forecast.

    With --explain, Baseline times every (1 + Driver_... / 100) is the forecast; it takes some
    25 ms a row. Intervals and quantiles of totals are not sums of the rows'. With --kaggle, the
    output has the columns Id and Sales only, as the competition "Rossmann Store Sales" takes them.

    Example: rossmann predict test.csv -o forecast.csv --interval 0.8 --quantile 0.1
    """
    from rossmann.settings import load_settings

    _check_outputs(output, totals, kaggle, bool(explain or interval or quantile or skip_faulty))
    settings = load_settings()
    upload = _read_rows(file, date_format, decimal, sheet)
    version = _load_version(settings, model, upload)
    origin = _parse_as_of(as_of)
    forecaster = version.served.forecaster
    upload = _add_panel_errors(upload, forecaster, origin)
    _check_errors(upload, file, skip_faulty, adds_up=totals is not None)
    chosen = _parse_objective(objective, settings)
    request = _make_request(upload, origin, interval, quantile, chosen)
    forecast = forecaster.forecast(request)
    _show_warnings(forecast)
    about = _about(version, forecast)
    if kaggle:
        _write_submission(upload, forecast.sales, output)
    else:
        added = _result_columns(version.served, upload, request, forecast, explain)
        _write_result(upload, added, output, about)
    if totals is not None:
        _write_totals(totals_table(forecaster, request, forecast.as_of), totals, about)
    _show_written(forecast, output)


def _make_request(
    upload: "Upload",
    origin: int | None,
    interval: Sequence[float] | None,
    quantile: Sequence[float] | None,
    objective: "Objective",
) -> "ForecastRequest":
    """The request for an upload's rows; a level that is given twice counts once."""
    from rossmann.models.inference.forecaster import ForecastRequest

    levels, quantiles = (tuple(dict.fromkeys(numbers or ())) for numbers in (interval, quantile))
    return ForecastRequest(upload.rows, origin, levels, objective, quantiles)


def _show_written(forecast: "Forecast", output: Path) -> None:
    purpose = "unbiased totals" if forecast.objective == "unbiased" else "accuracy of each day"
    echo(f"{len(forecast.sales):,} forecasts ({purpose}) written to {output}")


def _check_outputs(output: Path, totals: Path | None, kaggle: bool, adds_columns: bool) -> None:
    """Raise ``BadParameter`` for files that cannot be written as asked.

    ``adds_columns``: for columns or rows that a submission (``kaggle``) has no place for.
    """
    for path in (output, totals):
        if path is not None and path.suffix.lower() not in FORMATS:
            raise typer.BadParameter(f"{path} must end in one of {', '.join(FORMATS)}")
    if kaggle and output.suffix.lower() != ".csv":
        raise typer.BadParameter(f"--kaggle writes CSV: {output} must end in .csv")
    if kaggle and adds_columns:
        raise typer.BadParameter(
            "--kaggle writes Id and Sales of every row: leave out --explain, --interval,"
            " --quantile and --skip-faulty"
        )


def _write_submission(upload: "Upload", sales: "FloatArray", output: Path) -> None:
    from rossmann.data.prepare_predictions import submission_table
    from rossmann.data.uploads.result_files import ResultFormat

    table = submission_table(upload, sales)
    _write(table, table.columns, ResultFormat("csv"), output)


def _read_rows(
    file: Path, date_format: str | None, decimal: str | None, sheet: str | None
) -> "Upload":
    """The file's rows and errors; what is ambiguous raises with the option that decides it."""
    from rossmann.data.prepare_predictions import read_upload

    with reading_options(date_format, decimal, sheet) as options:
        return read_upload(
            file.name, file.read_bytes(), options.date_format, options.decimal, options.sheet
        )


def _add_panel_errors(upload: "Upload", forecaster: "Forecaster", as_of: int | None) -> "Upload":
    """The upload with the errors of stores and days that the panel does not have."""
    from rossmann.errors import RequestError
    from rossmann.models.inference.forecaster import ForecastRequest

    sample = upload.stores_and_days()
    if not len(sample.rows):
        return upload
    try:
        forecaster.resolve_origin(ForecastRequest(sample.rows, as_of))
    except RequestError as error:
        return upload.without(sample.errors_of(error.errors))
    return upload


def _check_errors(upload: "Upload", file: Path, skip_faulty: bool, adds_up: bool) -> None:
    """Print errors; raises ``DataValidationError`` for those that are not skipped.

    ``adds_up``: totals are asked for, which must not hold a store's day twice.
    """
    from rossmann.errors import DataValidationError

    repeated = upload.repeated_days() if adds_up else []
    _show_errors(upload, [*upload.errors, *repeated])
    if repeated:
        raise DataValidationError(
            f"{file} has {len(repeated)} rows that repeat a store's day: keep one row of each, or"
            " leave out --totals"
        )
    if upload.errors and not skip_faulty:
        count = len(upload.errors)
        errors = "1 error: correct it" if count == 1 else f"{count:,} errors: correct them"
        raise DataValidationError(f"{file} has {errors}, or use --skip-faulty")


def _show_errors(upload: "Upload", errors: "Sequence[ErrorDetail]") -> None:
    for error in errors:
        progress(f"{upload.source.table.position(int(error.loc[0]) - 1)}: {error.msg}")


def _show_warnings(forecast: "Forecast") -> None:
    for warning in forecast.warnings:
        progress(f"{warning.msg} ({warning.count} rows)")


def _load_version(settings: "Settings", model: str, upload: "Upload") -> "SelectedVersion":
    """The version; where there is none, the file's own errors are shown all the same."""
    from rossmann.errors import RossmannError

    for note in upload.notes:
        progress(note)
    try:
        return _select_version(settings, model)
    except RossmannError:
        _show_errors(upload, upload.errors)
        raise


def _select_version(settings: "Settings", model: str) -> "SelectedVersion":
    from rossmann.logging_config import configure_logging
    from rossmann.serving.runtime.service import build_service

    configure_logging("warning", settings.log_format)  # to stderr: stdout is for the result
    service = build_service(settings)
    if service.degraded_reason:
        progress(service.degraded_reason)
    selected = service.versions.load(int(model) if model.isdecimal() else model)
    progress(f"version {selected.served.version} ({selected.stage})")
    return selected


def _parse_as_of(as_of: str | None) -> int | None:
    from rossmann.epoch_days import parse_iso_day

    day = None if as_of is None else parse_iso_day(as_of)
    if as_of is not None and day is None:
        raise typer.BadParameter(f"--as-of {as_of} is no date written YYYY-MM-DD")
    return day


def _parse_objective(name: str | None, settings: "Settings") -> "Objective":
    from rossmann.schema import OBJECTIVES

    if name is None:
        return settings.objective
    for objective in OBJECTIVES:
        if objective == name:
            return objective
    raise typer.BadParameter(f"--objective {name} must be one of {', '.join(OBJECTIVES)}")


def _about(version: "SelectedVersion", forecast: "Forecast") -> tuple[tuple[str, str], ...]:
    """What a result says of its origin: data, version, last known day, objective."""
    from rossmann.data.uploads.result_files import about_forecasts
    from rossmann.epoch_days import format_iso_day

    served, origin = version.served, format_iso_day(forecast.as_of)
    info = served.forecaster.panel.info
    return about_forecasts(info, served.version, version.stage, origin, forecast.objective)


def _result_columns(
    served: "LoadedVersion",
    upload: "Upload",
    request: "ForecastRequest",
    forecast: "Forecast",
    explain: bool,
) -> "dict[str, pl.Series]":
    """The columns of ``POST /predict/file``, by name; ``explain`` adds baseline and drivers."""
    import numpy as np
    import polars as pl

    from rossmann.data.uploads.result_files import result_columns, warning_texts
    from rossmann.models.inference.row_warnings import input_warnings

    count = len(forecast.sales)
    masks = [
        *input_warnings(upload.weekday_mismatch, upload.open_missing),
        *served.forecaster.warning_masks(upload.rows, forecast.as_of),
    ]
    flags = np.zeros(count, np.uint8)
    for bit, (_, _, mask) in enumerate(masks):
        flags[mask] |= 1 << bit
    texts, index = warning_texts([name for name, _, _ in masks], flags)
    values = [
        pl.Series(forecast.sales),
        *(pl.Series(side) for one in forecast.intervals for side in (one.lower, one.upper)),
        *(pl.Series(one.sales) for one in forecast.quantiles),
        pl.repeat(served.version, count, dtype=pl.Int32, eager=True),
        pl.repeat(forecast.as_of, count, dtype=pl.Int32, eager=True).cast(pl.Date),
        pl.Series(texts, dtype=pl.String).gather(index),
    ]
    names = result_columns(request.levels, request.quantiles)
    columns = dict(zip(names, values, strict=True))
    if explain:
        columns |= _explanation_columns(served.forecaster, request, forecast.as_of)
    return columns


def _explanation_columns(
    forecaster: "Forecaster", request: "ForecastRequest", origin: int
) -> "dict[str, pl.Series]":
    """Baseline and drivers of each row, in chunks, so that progress shows."""
    import numpy as np
    import polars as pl

    from rossmann.models.inference.attributions import explanation_columns

    count, request = len(request.rows), replace(request, levels=(), quantiles=())
    chunks: list[dict[str, FloatArray]] = []
    for start in range(0, count, EXPLAIN_CHUNK_ROWS):
        stop = min(start + EXPLAIN_CHUNK_ROWS, count)
        explanation = forecaster.explain(request.take(slice(start, stop), origin))
        chunks.append(explanation_columns(explanation))
        progress(f"explained {stop:,} of {count:,} rows")
    return {name: pl.Series(np.concatenate([one[name] for one in chunks])) for name in chunks[0]}


def _write_result(
    upload: "Upload",
    columns: "dict[str, pl.Series]",
    output: Path,
    about: tuple[tuple[str, str], ...],
) -> None:
    """Write the good rows as in the file, and then ``columns``; in the file's dialect of CSV."""
    from rossmann.data.prepare_predictions import result_table

    table = result_table(upload.source, columns, _file_format(output), upload.index)
    for note in table.notes:
        progress(note)
    _write(table.frame, table.names, replace(table.form, about=about), output)


def _file_format(path: Path) -> "FileFormat":
    formats: dict[str, FileFormat] = {".csv": "csv", ".parquet": "parquet", ".xlsx": "xlsx"}
    return formats[path.suffix.lower()]


def _write_totals(table: "pl.DataFrame", output: Path, about: tuple[tuple[str, str], ...]) -> None:
    from rossmann.data.uploads.result_files import ResultFormat

    _write(table, table.columns, ResultFormat(_file_format(output), about=about), output)
    echo(f"{len(table):,} totals written to {output}")


def totals_table(
    forecaster: "Forecaster", request: "ForecastRequest", origin: int
) -> "pl.DataFrame":
    """By store, store type and chain, by week (Monday to Sunday) and whole.

    With intervals, at ``DEFAULT_TOTALS_LEVELS`` unless the request names levels, and quantiles.
    """
    import polars as pl

    from rossmann.models.inference.totals import TOTAL_LEVELS, forecast_totals

    request = replace(request, levels=request.levels or DEFAULT_TOTALS_LEVELS)
    totals = forecast_totals(forecaster, request, origin, TOTAL_LEVELS)
    return pl.concat([_totals_frame(one, request) for one in totals])


def _totals_frame(totals: "Totals", request: "ForecastRequest") -> "pl.DataFrame":
    import numpy as np
    import polars as pl

    from rossmann.data.uploads.result_files import percent_names
    from rossmann.schema import STORE_TYPES

    store_types = np.array([*STORE_TYPES, ""])
    stores = [None if number < 0 else int(number) for number in totals.store]
    columns: dict[str, pl.Series] = {
        "Total": pl.Series([totals.by] * len(totals.sales)),
        "Store": pl.Series(stores, dtype=pl.Int64),
        "StoreType": pl.Series(store_types[totals.store_type]),
        "First": pl.Series(totals.first.astype(np.int32)).cast(pl.Date),
        "Last": pl.Series(totals.last.astype(np.int32)).cast(pl.Date),
        "Rows": pl.Series(totals.rows),
        "Forecast": pl.Series(totals.sales),
    }
    for name, (low, high) in zip(percent_names(request.levels), totals.intervals, strict=True):
        columns[f"Low{name}"], columns[f"High{name}"] = pl.Series(low), pl.Series(high)
    for name, sales in zip(percent_names(request.quantiles), totals.quantiles, strict=True):
        columns[f"Quantile{name}"] = pl.Series(sales)
    return pl.DataFrame(columns)


def _write(frame: "pl.DataFrame", names: Sequence[str], form: "ResultFormat", path: Path) -> None:
    """Write in one step: a file that is there is whole."""
    from rossmann.data.uploads.result_files import write_frame
    from rossmann.filesystem.atomic_write import atomic_path
    from rossmann.launcher.stop_signals import Interrupts

    # Interrupts: so that SIGTERM, too, leaves no draft.
    with Interrupts(), atomic_path(path) as draft:
        write_frame(frame, names, form, draft)
