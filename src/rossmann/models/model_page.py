"""The model card as one HTML page with its pictures inside, for MLflow's artifact pages.

MLflow shows an HTML artifact as a page, and a Markdown one as text. Nothing is fetched: pictures
are part of the page.
"""

import base64
import re
from html import escape
from pathlib import Path
from typing import Final

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


def render_page(card: str, title: str, folder: Path) -> str:
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
