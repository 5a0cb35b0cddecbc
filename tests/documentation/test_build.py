"""The built site: every page, its Markdown copy, the index, nothing from other addresses."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rossmann.documentation.build import build_site, is_current, read_pages
from rossmann.errors import DocumentationError
from tests.paths import ROOT

CONFIG = """
[project]
site_name = "Name"
site_description = "Description."
nav = [{ "Home" = "index.md" }, { "Part" = [{ "Page" = "part/page.md" }] }]
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of this checkout; a link or an anchor that leads nowhere fails the build."""
    folder = tmp_path_factory.mktemp("site") / "built"
    assert build_site(folder, ROOT, strict=True)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "docs" / "part").mkdir(parents=True)
    (source / "zensical.toml").write_text(CONFIG)
    (source / "docs" / "index.md").write_text("# Home\n\nBegin [here](part/page.md).\n")
    (source / "docs" / "part" / "page.md").write_text(
        "# Page\n\nText.\n\n<!-- fails -->\n```\na\n```\n"
    )
    return source


def html_files(site: Path) -> Iterator[Path]:
    return (file for file in site.rglob("*.html") if file.name != "404.html")


def test_each_page_is_there_as_html_and_as_markdown_and_in_the_index(site: Path) -> None:
    index = (site / "llms.txt").read_text("utf-8")
    pages = read_pages(ROOT)
    assert len(pages) > 50
    for page in pages:
        html = (site / page.html).read_text("utf-8")
        assert "llms.txt</a>" in html
        assert "&para;" not in html
        assert re.search(rf'rel="alternate" type="text/markdown" href="[./]*{page.path}"', html)
        copy = (site / page.path).read_text("utf-8")
        assert f"\n# {page.title}\n" in copy
        assert "<!--" not in copy
        assert f"]({page.path}): {page.summary}" in index


def test_all_pages_are_in_the_navigation() -> None:
    files = {str(file.relative_to(ROOT / "docs")) for file in (ROOT / "docs").rglob("*.md")}
    assert files == {page.path for page in read_pages(ROOT)}


def test_content_stands_before_the_navigation_of_the_page(site: Path) -> None:
    for page in read_pages(ROOT):
        html = (site / page.html).read_text("utf-8")
        assert html.index("<h1") < html.index("md-sidebar--primary") < html.index("</main>")


def test_pages_load_nothing_from_other_addresses(site: Path) -> None:
    for file in html_files(site):
        html = file.read_text("utf-8")
        loads = re.findall(r'<(?:script|img|iframe)[^>]* src="([^"]*)"', html)
        loads += re.findall(r'<link[^>]* rel="(?:stylesheet|icon)"[^>]* href="([^"]*)"', html)
        loads += re.findall(r'<link[^>]* href="([^"]*)"[^>]* rel="(?:stylesheet|icon)"', html)
        assert [load for load in loads if re.match(r"(\w+:)?//|/", load)] == [], file


def test_diagrams_have_their_script_and_other_pages_do_not(site: Path) -> None:
    with_diagram = [page for page in read_pages(ROOT) if "```mermaid" in page.text]
    assert with_diagram
    for page in read_pages(ROOT):
        html = (site / page.html).read_text("utf-8")
        assert ("mermaid.min.js" in html) == (page in with_diagram)


def test_site_is_built_once_and_again_after_a_change(source: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    assert build_site(site, source)
    assert is_current(source, site)
    assert not build_site(site, source)
    page = source / "docs" / "part" / "page.md"
    page.write_text(page.read_text() + "\nMore.\n")
    assert build_site(site, source)
    assert "More." in (site / "part" / "page" / "index.html").read_text()
    assert "<!--" not in (site / "part" / "page.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site", "source"]


def test_link_that_leads_nowhere_is_an_error_of_the_strict_build(
    source: Path, tmp_path: Path
) -> None:
    (source / "docs" / "index.md").write_text("# Home\n\n[a](part/page.md#missing)\n")
    with pytest.raises(DocumentationError, match="anchor does not exist"):
        build_site(tmp_path / "site", source, strict=True)
    assert not (tmp_path / "site").exists()


def test_missing_page_and_foreign_folder_are_named(source: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "mine.txt").write_text("mine")
    with pytest.raises(DocumentationError, match="other files"):
        build_site(foreign, source)
    assert (foreign / "mine.txt").read_text() == "mine"
    (source / "docs" / "part" / "page.md").unlink()
    with pytest.raises(DocumentationError, match=r"part/page\.md"):
        build_site(tmp_path / "site", source)
