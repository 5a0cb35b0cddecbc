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

from rossmann.models.evaluation.backtest import WindowScore
from rossmann.models.reports.figures import FORECASTER_LABELS, markdown_table, table_rows
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
    sections = [
        f"# {name}",
        "Forecasts the daily sales of each store of a drugstore chain, up to 48 days ahead, from"
        " what is known on the day of the forecast.",
        _data_section(card.get("data", {})),
        "## Backtest\nRMSPE over open days with sales, each window forecast from its origin by"
        " models that saw nothing after it. Lower is better.\n\n"
        + (markdown_table(table_rows(scores)) if scores else "No window was evaluated."),
        _members_section(card),
        _lineage_section(card),
        _limits_section(card),
        _loading_section(name),
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _data_section(data: Mapping[str, Any]) -> str:
    return (
        "## Data\n"
        f"- Learned from {_CHAINS.get(str(data.get('dataset')), 'unknown tables')},"
        f" data version `{data.get('version')}`.\n"
        f"- {_format_count(data.get('rows'))} rows of {_format_count(data.get('stores'))} stores,"
        f" {data.get('first_day')} to {data.get('last_day')}."
    )


def _format_count(number: object) -> str:
    return f"{number:,}" if isinstance(number, int) else "an unknown number of"


def _members_section(card: Mapping[str, Any]) -> str:
    weights = card.get("weights", {})
    blend = ", ".join(
        f"{FORECASTER_LABELS.get(k, k)} {100 * float(w):.0f} %" for k, w in weights.items()
    )
    return (
        "## Made of\n"
        f"- Blend: {blend}. Profile `{card.get('profile')}`,"
        f" release {card.get('release')}, trained {card.get('trained')}.\n"
        f"- {len(card.get('features', []))} features, fingerprint `{card.get('fingerprint')}`.\n"
        f"- Libraries: {_join_pairs(card.get('libraries', {}))}."
    )


def _lineage_section(card: Mapping[str, Any]) -> str:
    code, environment = card.get("code", {}), card.get("environment", {})
    files = card.get("data", {}).get("files", {})
    parameters = {
        name: f"({_join_pairs(value)})" if isinstance(value, Mapping) else value
        for name, value in card.get("params", {}).items()
        if name != "members"
    }
    listed = list(files.items())[:_MAX_TABLES]
    lines = [f"- Table `{name}`: SHA-256 `{digest}`" for name, digest in listed]
    if len(files) > _MAX_TABLES:
        lines.append(f"- and {len(files) - _MAX_TABLES} more, in the tag `data.raw`")
    lines += [f"- Code {name}: `{value}`" for name, value in code.items()]
    lines.append(f"- Parameters: {_join_pairs(parameters)}")
    lines.append(f"- Environment: {_join_pairs(environment)}")
    return "## Comes from\n" + "\n".join(lines)


def _join_pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _limits_section(card: Mapping[str, Any]) -> str:
    horizon = card.get("params", {}).get("horizon", 48)
    return (
        "## Limits\n"
        f"- Trained for 1 to {horizon} days ahead; a later day gets a warning.\n"
        "- The blend forecasts open days; the service answers 0 for closed ones.\n"
        "- Promotions and holidays must be planned ahead: without them the error grows."
    )


def _loading_section(name: str) -> str:
    return (
        "## Loading\n"
        "```python\n"
        f'mlflow.pyfunc.load_model("models:/{name}@production")\n'
        "```\n"
        "Input: the 46 features as doubles, in the signature's order. Output: sales. The version"
        " carries its own code; `requirements.txt` in the same folder names what else it needs."
    )


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
