"""Rules that every page of the documentation keeps."""

import re
from pathlib import Path

import pytest

from tests.paths import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(str(page.relative_to(ROOT)) for page in DOCS.rglob("*.md"))
MAX_WORDS = 1_500
MAX_SENTENCE = 40
FENCE = re.compile(r"^( *)```.*?^\1```[ \t]*$", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
LINK = re.compile(r"!?\[((?:[^\]\\]|\\.)*)\]\(([^)\s]+)\)")
UNFINISHED = re.compile(r"\b(TODO|FIXME|TBD|[A-Z]+_JSON|lorem ipsum)\b")
FIGURE = re.compile(r"`[^`]*`")


def prose(page: str) -> str:
    return COMMENT.sub("", FENCE.sub("", (ROOT / page).read_text("utf-8")))


def headings(page: str) -> list[str]:
    return re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)


def anchor(heading: str) -> str:
    """The anchor of a heading, as Python-Markdown makes it."""
    text = re.sub(r"[^\w\s-]", "", LINK.sub(r"\1", heading)).strip().lower()
    return re.sub(r"[-\s]+", "-", text)


def has_anchor(file: Path, name: str) -> bool:
    return not name or name in map(anchor, headings(str(file.resolve().relative_to(ROOT))))


@pytest.mark.parametrize("page", PAGES)
def test_page_begins_with_its_title_and_what_it_is_for(page: str) -> None:
    blocks = [block for block in prose(page).split("\n\n") if block.strip()]
    assert re.fullmatch(r"# \S.*", blocks[0].strip())
    assert blocks[1].strip()[0] not in "#|-`>!", "the title is followed by a paragraph"
    assert sum(line.startswith("# ") for line in prose(page).splitlines()) == 1


@pytest.mark.parametrize("page", PAGES)
def test_page_is_short(page: str) -> None:
    words = re.findall(r"[A-Za-z0-9][^\s|]*", LINK.sub(r"\1", prose(page)))
    assert len(words) <= MAX_WORDS


@pytest.mark.parametrize("page", PAGES)
def test_sentences_are_short(page: str) -> None:
    """Sentences of paragraphs; cells of tables and items of lists each count as one or more."""
    parts = re.split(r"\n\s*\n|\n(?=[-|*\d#>])|\|", LINK.sub(r"\1", prose(page)))
    sentences = (s for part in parts for s in re.split(r"(?<=[.!?:;])\s+", " ".join(part.split())))
    long = [one for one in sentences if len(FIGURE.sub("x", one).split()) > MAX_SENTENCE]
    assert long == []


@pytest.mark.parametrize("page", PAGES)
def test_headings_are_unique(page: str) -> None:
    anchors = [anchor(heading) for heading in headings(page)]
    assert len(set(anchors)) == len(anchors)


@pytest.mark.parametrize("page", [*PAGES, "README.md"])
def test_page_is_finished(page: str) -> None:
    assert UNFINISHED.findall((ROOT / page).read_text("utf-8")) == []


@pytest.mark.parametrize("page", [*PAGES, "README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_to_pages_and_anchors_that_exist(page: str) -> None:
    missing = []
    for _, target in LINK.findall(prose(page)):
        path, _, name = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        if not re.match(r"[a-z]+:", target) and not (file.exists() and has_anchor(file, name)):
            missing.append(target)
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_links_stay_inside_the_site(page: str) -> None:
    for _, target in LINK.findall(prose(page)):
        if not re.match(r"[a-z]+:|#", target):
            linked = ((ROOT / page).parent / target.partition("#")[0]).resolve()
            assert linked.is_relative_to(DOCS), f"{target} is not below docs/: name it as code"


def test_pictures_are_small() -> None:
    for picture in (DOCS / "images").glob("*.png"):
        assert picture.stat().st_size <= 300_000, picture.name


def test_paths_of_settings_alerts_and_code_lead_to_pages() -> None:
    """``docs/...md`` in code, settings and alert rules; anchors too."""
    files = [ROOT / "config" / "params.yaml", *(ROOT / "deployment").rglob("*.y*ml")]
    files += [*(ROOT / "src").rglob("*.py"), *(ROOT / "deployment").rglob("*.service")]
    found = 0
    for file in files:
        for path, name in re.findall(
            r"\b(docs/[\w/-]+\.md)(?:#([\w-]+))?", file.read_text("utf-8")
        ):
            found += 1
            assert Path(ROOT / path).is_file(), f"{file.name} names {path}"
            assert has_anchor(ROOT / path, name), f"{path}#{name}"
    assert found
