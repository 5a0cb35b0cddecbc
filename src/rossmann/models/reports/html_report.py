"""The backtest report as JSON and as one HTML page that needs no script and no other file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rossmann.models.calibration.bias_correction import bias_rows
from rossmann.models.calibration.interval_coverage import (
    coverage_rows,
    event_rows,
    past_rows,
    totals_rows,
)
from rossmann.models.evaluation.metrics import SMALL_CHAIN_STORES, format_percent
from rossmann.models.reports.figures import (
    COMPARED_FORECASTERS,
    FORECASTER_LABELS,
    format_store_count,
    report_figures,
)

REPORT_PAGE_FILE: Final = "report.html"
REPORT_DATA_FILE: Final = "report.json"
_TEMPLATES: Final = Path(__file__).parent / "templates"

Table = list[list[str]]
"""Rows of cell texts; the first row is the header."""


def write_html_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write ``report.json`` and ``report.html`` into a folder, which is created if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1, allow_nan=False)
    (folder / REPORT_DATA_FILE).write_text(text + "\n", "utf-8")
    (folder / REPORT_PAGE_FILE).write_text(render_html(report), "utf-8")


def render_html(report: Mapping[str, Any]) -> str:
    """The page of a report as ``segments.build_report_data`` returns it."""
    return render_template(
        "report.html.j2",
        report=report,
        stores=format_store_count(report["data"]),
        small_chain=report["data"]["stores"] < SMALL_CHAIN_STORES,
        figures=report_figures(report),
        tables=_tables(report),
    )


def render_template(name: str, **context: Any) -> str:
    """A page from ``templates/``; HTML is escaped unless the template marks it as safe."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # takes 0.1 s to import

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["percent"] = format_percent
    return environment.get_template(name).render(context)


def _tables(report: Mapping[str, Any]) -> dict[str, Table]:
    """The tables of the page, each segmentation's by its name."""
    tables = {
        "overview": _overview_table(report),
        "bias": bias_rows(report["totals_bias"]),
        "dominant_rows": dominant_rows_table(report["dominant_rows"]),
        "worst_days": _worst_days_table(report["worst_days"]),
        "worst_stores": _worst_stores_table(report["worst_stores"]),
        **{name: _segment_table(groups) for name, groups in report["slices"].items()},
    }
    if report["coverage"]:
        tables["coverage"] = coverage_rows(report["coverage"])
        tables["events"] = event_rows(report["coverage"])
    if report["totals"]:
        tables["totals"] = totals_rows(report["totals"])
        tables["past"] = past_rows(report["totals"]["past"])
    return tables


def _overview_table(report: Mapping[str, Any]) -> Table:
    windows = report["windows"]
    by_window = (f"RMSPE from {window['origin']}" for window in windows)
    rows = [["Forecaster", *by_window, "RMSPE, all", "Capped RMSPE", "WAPE", "MAPE", "MAE", "Bias"]]
    for name, label in FORECASTER_LABELS.items():
        if name in report["forecasters"]:
            rmspe = (_format_number(window["rmspe"].get(name)) for window in windows)
            rows.append([label, *rmspe, *_format_measures(report["forecasters"][name])])
    return rows


def _segment_table(groups: Sequence[Mapping[str, Any]]) -> Table:
    levels = list(groups[0]["coverage"])
    compared = [name for name in COMPARED_FORECASTERS[1:] if name in groups[0]["forecasters"]]
    header = [
        *("", "Rows", "RMSPE", "Capped RMSPE", "WAPE", "MAPE", "MAE", "Bias"),
        *(f"In {100 * float(level):.0f} % band" for level in levels),
        *(f"RMSPE: {FORECASTER_LABELS[name]}" for name in compared),
    ]
    rows = [
        [
            group["label"],
            f"{group['rows']:,}",
            *_format_measures(group),
            *(format_percent(group["coverage"][level]) for level in levels),
            *(_format_number(group["forecasters"][name]) for name in compared),
        ]
        for group in groups
    ]
    return [header, *rows]


def dominant_rows_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows that alone make more than 5 % of a window's squared error; a header only for none."""
    cells = [
        [row["origin"], row["date"], str(row["store"]), f"{row['sold']:,.0f}",
         f"{row['forecast']:,.0f}", format_percent(row["share"])]
        for row in rows
    ]  # fmt: skip
    return [["Origin", "Date", "Store", "Sold", "Forecast", "Share of squared error"], *cells]


def _worst_days_table(days: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        [
            day["date"],
            day["origin"],
            f"{day['stores']:,}",
            format_percent(day["promo"], ".0f"),
            _format_number(day["rmspe"]),
            format_percent(day["bias"]),
            format_percent(day["share"]),
        ]
        for day in days
    ]
    return [["Date", "Origin", "Stores", "On promotion", "RMSPE", "Bias", "Share of error"], *rows]


def _worst_stores_table(stores: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        [
            str(store["store"]),
            store["type"],
            str(store["days"]),
            _format_number(store["rmspe"]),
            format_percent(store["bias"]),
            format_percent(store["share"]),
        ]
        for store in stores
    ]
    return [["Store", "Type", "Days", "RMSPE", "Bias", "Share of error"], *rows]


def _format_measures(measures: Mapping[str, Any]) -> list[str]:
    return [
        _format_number(measures["rmspe"]),
        _format_number(measures["capped_rmspe"]),
        format_percent(measures["wape"]),
        format_percent(measures["mape"]),
        "-" if measures["mae"] is None else f"{measures['mae']:,.0f}",
        format_percent(measures["bias"]),
    ]


def _format_number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
