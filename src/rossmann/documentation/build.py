"""Builds the documentation site: Zensical makes the pages, then each gets its Markdown copy.

The site works without a network, and from any path: all links are relative, and nothing is
fetched from another address.
"""

import hashlib
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from rossmann.errors import DocumentationError
from rossmann.filesystem.atomic_write import staging_folder
from rossmann.installation import documentation_source
from rossmann.web import CODE_BLOCK

CONFIG: Final = "zensical.toml"
_STAMP: Final = ".built-from"
_MERMAID: Final = "javascripts/mermaid.min.js"
_COMMENT: Final = re.compile(r"^<!--.*?-->\n", re.DOTALL | re.MULTILINE)
_LINK: Final = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_HIDDEN: Final = (
    "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap"
)


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the navigation.

    ``path``: below ``docs/``. ``section``: the navigation's heading over it, or "". ``summary``:
    the text of its first paragraph.
    """

    path: str
    title: str
    section: str
    summary: str
    text: str

    @property
    def html(self) -> str:
        """The page's file in the built site."""
        stem = self.path.removesuffix(".md")
        if stem == "index" or stem.endswith("/index"):
            return f"{stem}.html"
        return f"{stem}/index.html"


def read_pages(source: Path) -> list[Page]:
    """The pages of the navigation in its order; raises ``DocumentationError`` for one missing."""
    pages = []
    for section, path in _entries(_config(source)["nav"]):
        file = source / "docs" / path
        if not file.is_file():
            raise DocumentationError(f"{CONFIG} names docs/{path}, which is not there")
        pages.append(_read_page(path, section, file.read_text("utf-8")))
    return pages


def _config(source: Path) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((source / CONFIG).read_text("utf-8"))["project"]
    return project


def _entries(nav: list[Any], section: str = "") -> Iterator[tuple[str, str]]:
    for entry in nav:
        ((name, value),) = entry.items()
        if isinstance(value, str):
            yield section, value
        else:
            yield from _entries(value, name)


def _read_page(path: str, section: str, text: str) -> Page:
    plain = CODE_BLOCK.sub("", _COMMENT.sub("", text))
    heading, _, rest = plain.partition("\n")
    first = rest.strip().partition("\n\n")[0]
    summary = " ".join(_LINK.sub(r"\1", first).split())
    return Page(path, heading.removeprefix("# ").strip(), section, summary, text)


def is_current(source: Path, site: Path) -> bool:
    """Whether ``site`` was built from these pages, by the generator that is installed."""
    stamp = site / _STAMP
    return stamp.is_file() and stamp.read_text("utf-8") == _source_digest(source)


def build_site(site: Path, source: Path | None = None, *, strict: bool = False) -> bool:
    """Make ``site`` hold the documentation of ``source``; returns whether it had to be built.

    ``strict``: a link or an anchor that leads nowhere is an error.
    The folder is replaced as a whole, so readers find the old site or the new one. Raises
    ``DocumentationError`` with the generator's words, and where the folder holds something else.
    """
    source = source or documentation_source()
    if is_current(source, site):
        return False
    if site.is_dir() and any(site.iterdir()) and not (site / _STAMP).is_file():
        raise DocumentationError(f"{site} holds other files; choose a new or an empty folder")
    with staging_folder(site.parent) as folder:
        # Resolved: below a symbolic link the generator finds no pages.
        made = _generate(source, folder.resolve(), strict)
        _add_markdown(made, read_pages(source), _config(source))
        (made / _STAMP).write_text(_source_digest(source), "utf-8")
        old = folder / "old"
        if site.is_dir():
            site.rename(old)
        made.rename(site)
    return True


def _source_digest(source: Path) -> str:
    digest = hashlib.sha256(f"{version('zensical')} {version('rossmann')}".encode())
    digest.update(Path(__file__).read_bytes())
    for file in (source / CONFIG, *sorted((source / "docs").rglob("*"))):
        if file.is_file():
            digest.update(f"{file.relative_to(source)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _generate(source: Path, folder: Path, strict: bool) -> Path:
    shutil.copytree(source / "docs", folder / "docs")
    shutil.copy(source / CONFIG, folder / CONFIG)
    result = subprocess.run(
        [sys.executable, "-m", "zensical", "build", *(["--strict"] if strict else [])],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    site = folder / "site"
    if result.returncode or not (site / "index.html").is_file():
        words = _COLOUR.sub("", result.stdout + result.stderr.partition("Traceback")[0])[-4000:]
        raise DocumentationError(f"the site could not be built:\n{words.strip()}")
    return site


def _add_markdown(site: Path, pages: list[Page], config: dict[str, Any]) -> None:
    for page in pages:
        up = "../" * page.path.count("/") or "./"
        copy = site / page.path
        copy.parent.mkdir(parents=True, exist_ok=True)
        note = f"> For the index of all pages see [llms.txt]({up}llms.txt).\n\n"
        copy.write_text(note + _COMMENT.sub("", page.text), "utf-8")
        html = site / page.html
        html.write_text(_with_links(_content_first(html.read_text("utf-8")), page), "utf-8")
    (site / "llms.txt").write_text(_index(pages, config), "utf-8")
    (site / "sitemap.xml").unlink()  # empty: the site does not know its address


def _content_first(html: str) -> str:
    """The page with its side bars behind its content, for readers of the HTML from the top.

    A style sheet of ours (``docs/stylesheets``) keeps them at their places on the screen.
    """
    found = re.search(
        r'(<div class="md-sidebar md-sidebar--primary".*?)(<div class="md-content".*?</article>\s*'
        r"</div>)",
        html,
        re.DOTALL,
    )
    if found is None:
        return html
    return html[: found.start()] + found[2] + found[1] + html[found.end() :]


def _with_links(html: str, page: Page) -> str:
    """The page with links to its Markdown copy and the index, and the diagrams' script if any."""
    up = "../" * page.html.count("/") or "./"
    markdown = f"{up}{page.path}"
    head = f'<link rel="alternate" type="text/markdown" href="{markdown}">'
    if 'class="mermaid"' in html:
        head += f'<script src="{up}{_MERMAID}"></script>'
    start = (
        f'<div class="sr-only" style="{_HIDDEN}">All pages: <a tabindex="-1" '
        f'href="{up}llms.txt">llms.txt</a></div>'
    )
    end = f'<footer><p><small><a href="{markdown}">This page as Markdown</a></small></p></footer>'
    # Headings have the same text as in Markdown; the style sheet draws the mark.
    html = html.replace(">&para;</a>", "></a>")
    html = html.replace("</head>", f"{head}</head>", 1)
    html = re.sub(r"(<body[^>]*>)", lambda body: body[1] + start, html, count=1)
    return re.sub(r"</article>", lambda _: f"{end}</article>", html, count=1)


def _index(pages: list[Page], config: dict[str, Any]) -> str:
    """``llms.txt``: all pages with their summaries, by sections."""
    lines = [f"# {config['site_name']}", "", f"> {config['site_description']}"]
    section = None
    for page in pages:
        heading = page.section or "Start"
        if heading != section:
            lines += ["", f"## {heading}", ""]
            section = heading
        lines.append(f"- [{page.title}]({page.path}): {page.summary}")
    return "\n".join(lines) + "\n"
