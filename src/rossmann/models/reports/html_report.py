"""The report of a backtest as one HTML file: no script, nothing fetched, prints on paper."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from rossmann.models.calibration.bias_correction import bias_rows
from rossmann.models.calibration.interval_coverage import coverage_rows, totals_rows
from rossmann.models.evaluation.metrics import FEW_STORES
from rossmann.models.reports.figures import FORECASTER_LABELS, figures, stores_of

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: .8rem 0; font-size: .9rem; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }
td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #888; vertical-align: bottom; }
svg { max-width: 100%; height: auto; } .scroll { overflow-x: auto; }
p.note { color: #555; max-width: 46rem; }
"""
_SLICES: Final = {
    "horizon": ("By days ahead", "How the error grows with the distance from the origin."),
    "weekday": ("By weekday", "Sundays are few: only a handful of stores open."),
    "promotion": ("By promotion", "Days with and without a promotion in the store."),
    "store_type": ("By store type", "The types of the store table."),
    "volatility": (
        "By volatility",
        "Stores and days in three equal parts, by how far sales of the same weekday and promotion"
        " scattered over the year before the origin.",
    ),
}
_FEW: Final = (
    "<p><strong>Few stores:</strong> the luck of each one moves every figure below. Take coverage,"
    " bias and the differences between groups as hints, the more so in a short window.</p>"
)
PAGE_FILE: Final = "report.html"
DATA_FILE: Final = "report.json"


def write_html_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write ``report.json`` and ``report.html`` into a folder, made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1, allow_nan=False)
    (folder / DATA_FILE).write_text(text + "\n", "utf-8")
    (folder / PAGE_FILE).write_text(render_html(report), "utf-8")


def render_html(report: Mapping[str, Any]) -> str:
    """The page for a report as ``backtest_slices.summarize`` makes it."""
    drawn = figures(report)
    parts = [
        f"<h1>Backtest, profile {escape(str(report['profile']))}</h1>",
        _intro(report),
        _overview(report, drawn["windows"]),
        _section(
            "The chain, day by day",
            "All stores together: what was sold and what had been forecast on the origin.",
            drawn["chain"],
        ),
        _bias(report),
        _intervals(report, drawn),
        _totals(report, drawn),
        *(
            _section(title, note, drawn[name], _slice_table(report["slices"][name]))
            for name, (title, note) in _SLICES.items()
        ),
        _worst(report),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Backtest</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _intro(report: Mapping[str, Any]) -> str:
    data = report["data"]
    best, naive = (report["forecasters"][k]["rmspe"] for k in ("ensemble", "seasonal_naive"))
    count = len(report["windows"])
    return (
        f"<p>Data: {escape(data['dataset'])}, version {escape(data['version'])}, "
        f"{data['rows']:,} rows of {stores_of(data)}, {data['first_day']} to "
        f"{data['last_day']}. {count} window{'s' if count > 1 else ''}, {report['rows']:,} open "
        "days with sales.</p><p>Each window was forecast on its origin, by models that had seen no "
        "day after it, the same way as the service forecasts. The typical error is "
        f"<strong>{_percent(best)}</strong> of a day's sales (RMSPE), against {_percent(naive)} "
        "for repeating the last day of the same weekday and promotion.</p>"
        + (_FEW if data["stores"] < FEW_STORES else "")
    )


def _overview(report: Mapping[str, Any], picture: str) -> str:
    names = [k for k in FORECASTER_LABELS if k in report["forecasters"]]
    rows = [
        [
            FORECASTER_LABELS[k],
            *(_number(w["rmspe"].get(k)) for w in report["windows"]),
            *_all_measures(report["forecasters"][k]),
        ]
        for k in names
    ]
    head = ["Forecaster", *(f"RMSPE from {w['origin']}" for w in report["windows"])]
    table = _table([*head, "RMSPE, all", "MAPE", "MAE", "Bias"], rows)
    note = (
        "RMSPE weighs large misses most; MAPE is the mean miss in per cent, MAE in money; bias is"
        " the total forecast over the total sold, less 1. Without a schedule: the promotions and"
        " school holidays around each day were taken as not known."
    )
    return _section("All forecasters", note, picture, table)


def _bias(report: Mapping[str, Any]) -> str:
    head, *rows = bias_rows(report["totals_bias"])
    note = (
        "Total forecast over total sold, less 1, for either objective. A small error of each day"
        " (accuracy) takes forecasts below the mean; unbiased totals are corrected for that, each"
        " window by what the others showed. A single window still misses by what nobody could"
        " know: the chain as a whole does better or worse than usual."
    )
    return _section("Bias of totals", note, _table(head, rows))


def _intervals(report: Mapping[str, Any], drawn: Mapping[str, str]) -> str:
    title = "How honest the bands are"
    if not report["coverage"]:
        note = "A band is judged on a window that did not make it: that takes two windows or more."
        return _section(title, note)
    head, *rows = coverage_rows(report["coverage"])
    note = (
        "Share of days whose sales lay within the band. Each window's bands were made from the"
        " misses of the other windows, so none was judged on what made it. The registered version"
        " uses the misses of all windows."
    )
    return _section(title, note, drawn["coverage"], _table(head, rows))


def _totals(report: Mapping[str, Any], drawn: Mapping[str, str]) -> str:
    title = "How honest the bands of totals are"
    if not report.get("totals"):
        return _section(title, "A band is judged on a window that did not make it.")
    head, *rows = totals_rows(report["totals"])
    note = (
        f"Totals in {report['totals']['windows']} windows, each by tables made of the others."
        " Misses of different stores and days go together: bounds added up are far too wide, and"
        " taking the rows as independent gives bands far too narrow. Widths are shares of the"
        " forecast, for the lower of the two levels. Totals of one window are few: take their"
        " coverage as a hint."
    )
    return _section(title, note, drawn["totals"], _table(head, rows))


def _slice_table(groups: Sequence[Mapping[str, Any]]) -> str:
    levels = list(groups[0]["coverage"])
    head = ["", "Rows", "RMSPE", "MAPE", "MAE", "Bias", *(f"In {_level(k)} band" for k in levels)]
    shown = [k for k in ("without_schedule", "kalman", "median", "seasonal_naive")
             if k in groups[0]["forecasters"]]  # fmt: skip
    rows = [
        [
            g["label"],
            f"{g['rows']:,}",
            *_all_measures(g),
            *(_percent(g["coverage"][k]) for k in levels),
            *(_number(g["forecasters"][k]) for k in shown),
        ]
        for g in groups
    ]
    return _table([*head, *(f"RMSPE: {FORECASTER_LABELS[k]}" for k in shown)], rows)


def _worst(report: Mapping[str, Any]) -> str:
    days = [
        [d["date"], d["origin"], f"{d['stores']:,}", _percent(d["promo"], 0), _number(d["rmspe"]),
         _percent(d["bias"]), _percent(d["share"])]
        for d in report["worst_days"]
    ]  # fmt: skip
    stores = [
        [str(s["store"]), s["type"], str(s["days"]), _number(s["rmspe"]), _percent(s["bias"]),
         _percent(s["share"])]
        for s in report["worst_stores"]
    ]  # fmt: skip
    return (
        _section(
            "Worst days",
            "The days that hold the largest shares of the squared error.",
            _table(
                ["Date", "Origin", "Stores", "On promotion", "RMSPE", "Bias", "Share of error"],
                days,
            ),
        )
        + _section(
            "Worst stores",
            "The stores that hold the largest shares of the squared error: look here for what"
            " happened (a competitor, a refit, a neighbour that closed).",
            _table(["Store", "Type", "Days", "RMSPE", "Bias", "Share of error"], stores),
        )
    )  # fmt: skip


def _section(title: str, note: str, *parts: str) -> str:
    return f'<h2>{escape(title)}</h2><p class="note">{escape(note)}</p>' + "".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    titles = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    return (
        f'<div class="scroll"><table><thead><tr>{titles}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _all_measures(one: Mapping[str, Any]) -> list[str]:
    money = "-" if one["mae"] is None else f"{one['mae']:,.0f}"
    return [_number(one["rmspe"]), _percent(one["mape"]), money, _percent(one["bias"])]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _percent(share: float | None, digits: int = 1) -> str:
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def _level(name: str) -> str:
    return f"{100 * float(name):.0f} %"
