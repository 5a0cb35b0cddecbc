"""The model card: what a version is and how accurate, as Markdown and as one HTML page.

MLflow shows an HTML artifact as a page, and a Markdown one as text. The page fetches nothing:
figures are part of it.
"""

import base64
import re
from collections.abc import Mapping
from html import unescape
from pathlib import Path
from typing import Any, Final

from rossmann.models.calibration.bias_correction import BIAS_CORRECTION_KEY
from rossmann.models.calibration.interval_coverage import past_rows
from rossmann.models.ensemble.ensemble import DAY_KINDS, FILTER_WEIGHTS_KEY
from rossmann.models.evaluation.backtest import WindowScore
from rossmann.models.reports.figures import (
    FORECASTER_LABELS,
    markdown_table,
    measure_rows,
    table_rows,
)
from rossmann.models.reports.html_report import REPORT_PAGE_FILE, render_template
from rossmann.schema import Dataset

CARD_PAGE_FILE: Final = "card.html"
_MAX_FIGURES: Final = 3
_MAX_TABLES: Final = 6
"""Raw tables that are listed one by one."""
_CHAINS: Final = {
    Dataset.REAL.value: "the Rossmann chain (real tables)",
    Dataset.DEMO.value: "the demo chain (synthetic tables)",
}


def render_markdown(card: Mapping[str, Any], scores: list[WindowScore], name: str) -> str:
    """The Markdown of ``card`` (the content of ``ensemble.json``), registered under ``name``."""
    data, weights = card.get("data", {}), card.get("weights", {})
    files = list(data.get("files", {}).items())
    past = card.get("totals", {}).get("past", [])
    parameters = {
        key: f"({_join_pairs(value)})" if isinstance(value, Mapping) else value
        for key, value in card.get("params", {}).items()
        if key != "members"
    }
    return render_template(
        "card.md.j2",
        model=name,
        card=card,
        data=data,
        chain=_CHAINS.get(str(data.get("dataset")), "unknown tables"),
        rows=_format_count(data.get("rows")),
        stores=_format_count(data.get("stores")),
        backtest=_backtest_tables(scores),
        past=markdown_table(past_rows(past)) if past else "",
        calibration=_calibration_lines(card),
        blend=", ".join(
            f"{FORECASTER_LABELS.get(k, k)} {100 * float(w):.0f} %" for k, w in weights.items()
        ),
        tables=files[:_MAX_TABLES],
        more_tables=len(files) - _MAX_TABLES,
        join_pairs=_join_pairs,
        parameters=parameters,
    )


def _backtest_tables(scores: list[WindowScore]) -> str:
    if not scores:
        return "No window was evaluated."
    return "\n".join(markdown_table(rows) for rows in (table_rows(scores), measure_rows(scores)))


def _calibration_lines(card: Mapping[str, Any]) -> list[str]:
    """What the calibration rests on, in words."""
    lines = []
    weights = card.get(FILTER_WEIGHTS_KEY, {})
    if any(weights.get(kind) for kind in DAY_KINDS):
        shares = ", ".join(f"{weights[kind]:.2f} on {kind} days" for kind in DAY_KINDS)
        lines.append(f"The Kalman filter alone has a weight of {shares}.")
    seasons = card.get("intervals", {}).get("seasons", {})
    rare = [name for name, years in seasons.items() if years < 2]
    if rare:
        lines.append(
            f"Not verified: days of {' and '.join(rare)}. Windows hold them in one year at most."
        )
    table = card.get(BIAS_CORRECTION_KEY, {})
    if None not in table.get("standard_error", [None]):  # one window says nothing of its error
        parts = zip(table["groups"], table["factors"], table["standard_error"], strict=True)
        factors = ", ".join(f"{name} {factor:.4f} (± {error:.4f})" for name, factor, error in parts)
        lines.append(
            f"Factors of unbiased totals, with the standard error of what {table['windows']}"
            f" windows showed: {factors}; shrunk to theory, the more the larger the error."
        )
    lines += [
        f"A fit {age['age_days']} days older forecast the window from {age['origin']} with WAPE"
        f" {age['wape']:.4f} and bias {age['bias']:+.1%}."
        for age in card.get("metrics", {}).get("age", [])
    ]
    return lines


def _format_count(number: object) -> str:
    return f"{number:,}" if isinstance(number, int) else "an unknown number of"


def _join_pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def render_html(card: str, title: str, folder: Path) -> str:
    """The page of a card in Markdown, with the figures of the trained model in ``folder``.

    Those are the first figures of its backtest report or, where it has none, its pictures.
    """
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark").enable("table").render(card)
    report = folder / REPORT_PAGE_FILE
    has_report = report.is_file()
    return render_template(
        "card.html.j2",
        title=title,
        body=body,
        figures=_report_figures(report.read_text("utf-8")) if has_report else [],
        pictures=[] if has_report else _embedded_pictures(folder / "pictures"),
    )


def _report_figures(page: str) -> list[dict[str, str]]:
    """Title and SVG of the first figures of a report."""
    figures = []
    for section in page.split("<h2>")[1:]:
        title = section.partition("</h2>")[0]
        svg = re.search(r"<svg.*?</svg>", section, re.DOTALL)
        if svg:
            figures.append({"title": unescape(re.sub(r"<[^>]*>", "", title)), "svg": svg[0]})
    return figures[:_MAX_FIGURES]


def _embedded_pictures(folder: Path) -> list[dict[str, str]]:
    """Name and base64 content of the first PNG files."""
    files = sorted(folder.glob("*.png"))[:_MAX_FIGURES]
    return [
        {"name": file.stem, "data": base64.b64encode(file.read_bytes()).decode()} for file in files
    ]
