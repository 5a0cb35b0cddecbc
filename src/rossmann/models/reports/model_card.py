"""The model card: one page in Markdown that says what a version is, and how good.

MERGED: The model card as one HTML page with its pictures inside, for MLflow's artifact pages.

MLflow shows an HTML artifact as a page, and a Markdown one as text. Nothing is fetched: pictures
are part of the page.
"""

import base64
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any, Final

from rossmann.models.evaluation.windows import WindowScore
from rossmann.models.reports.figures import FORECASTER_LABELS, markdown, table_rows
from rossmann.schema import Dataset

_FILES = 6
"""Tables that are named one by one."""
_CHAINS = {
    Dataset.REAL.value: "the Rossmann chain (real tables)",
    Dataset.DEMO.value: "the demo chain (synthetic tables)",
}


def render_markdown(card: Mapping[str, Any], scores: list[WindowScore], name: str) -> str:
    """The page for ``card`` (what ``ensemble.json`` holds), registered under ``name``."""
    parts = [
        f"# {name}",
        "Forecasts the daily sales of each store of a drugstore chain, up to 48 days ahead, from"
        " what is known on the day of the forecast.",
        _data(card.get("data", {})),
        "## Backtest\nRMSPE over open days with sales, each window forecast from its origin by"
        " models that saw nothing after it. Lower is better.\n\n"
        + (markdown(table_rows(scores)) if scores else "No window was evaluated."),
        _members(card),
        _origin(card),
        _limits(card),
        _loading(name),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _data(data: Mapping[str, Any]) -> str:
    return (
        "## Data\n"
        f"- Learned from {_CHAINS.get(str(data.get('dataset')), 'unknown tables')},"
        f" data version `{data.get('version')}`.\n"
        f"- {_count(data.get('rows'))} rows of {_count(data.get('stores'))} stores,"
        f" {data.get('first_day')} to {data.get('last_day')}."
    )


def _count(number: object) -> str:
    return f"{number:,}" if isinstance(number, int) else "an unknown number of"


def _members(card: Mapping[str, Any]) -> str:
    weights = card.get("weights", {})
    libraries = card.get("libraries", {})
    blend = ", ".join(
        f"{FORECASTER_LABELS.get(k, k)} {100 * float(w):.0f} %" for k, w in weights.items()
    )
    versions = ", ".join(f"{k} {v}" for k, v in libraries.items())
    return (
        "## Made of\n"
        f"- Blend: {blend}. Profile `{card.get('profile')}`,"
        f" release {card.get('release')}, trained {card.get('trained')}.\n"
        f"- {len(card.get('features', []))} features, fingerprint `{card.get('fingerprint')}`.\n"
        f"- Libraries: {versions}."
    )


def _origin(card: Mapping[str, Any]) -> str:
    code, environment = card.get("code", {}), card.get("environment", {})
    files = card.get("data", {}).get("files", {})
    parameters = {k: v for k, v in card.get("params", {}).items() if k != "members"}
    lines = [
        f"- Table `{name}`: SHA-256 `{digest}`" for name, digest in list(files.items())[:_FILES]
    ]
    if len(files) > _FILES:
        lines.append(f"- and {len(files) - _FILES} more, in the tag `data.raw`")
    lines += [f"- Code {name}: `{value}`" for name, value in code.items()]
    lines.append("- Parameters: " + ", ".join(f"{k} {_short(v)}" for k, v in parameters.items()))
    lines.append("- Environment: " + ", ".join(f"{k} {v}" for k, v in environment.items()))
    return "## Comes from\n" + "\n".join(lines)


def _short(value: object) -> str:
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{k} {v}" for k, v in value.items()) + ")"
    return str(value)


def _limits(card: Mapping[str, Any]) -> str:
    horizon = card.get("params", {}).get("horizon", 48)
    return (
        "## Limits\n"
        f"- Trained for 1 to {horizon} days ahead; a later day gets a warning.\n"
        "- The blend forecasts open days; the service answers 0 for closed ones.\n"
        "- Promotions and holidays must be planned ahead: without them the error grows."
    )


def _loading(name: str) -> str:
    return (
        "## Loading\n"
        "```python\n"
        f'mlflow.pyfunc.load_model("models:/{name}@production")\n'
        "```\n"
        "Input: the 46 features as doubles, in the signature's order. Output: sales. The version"
        " carries its own code; `requirements.txt` beside it names what else it needs."
    )


PAGE_FILE: Final = "card.html"
_REPORT: Final = "report.html"
_MOST_PICTURES: Final = 3
_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 56rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 1.8rem; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
svg, img { max-width: 100%; height: auto; } code { overflow-wrap: anywhere; }
"""


def render_html(card: str, title: str, folder: Path) -> str:
    """The page for a card in Markdown, with the pictures of the trained version in ``folder``."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark").enable("table").render(card)
    drawn = "".join(f"<h2>{escape(name)}</h2>{picture}" for name, picture in _pictures(folder))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        f"{body}\n{drawn}\n</body></html>\n"
    )


def _pictures(folder: Path) -> list[tuple[str, str]]:
    """The first pictures of the backtest's report; without one, those beside it."""
    report = folder / _REPORT
    if report.is_file():
        text = report.read_text("utf-8")
        found = []
        for section in text.split("<h2>")[1:]:
            title = section.partition("</h2>")[0]
            drawn = re.search(r"<svg.*?</svg>", section, re.DOTALL)
            if drawn:
                found.append((re.sub(r"<[^>]*>", "", title), drawn[0]))
        return found[:_MOST_PICTURES]
    files = sorted((folder / "pictures").glob("*.png"))[:_MOST_PICTURES]
    return [(file.stem.capitalize(), _embedded(file)) for file in files]


def _embedded(file: Path) -> str:
    content = base64.b64encode(file.read_bytes()).decode()
    return f'<img alt="{escape(file.stem)}" src="data:image/png;base64,{content}">'
