"""The documentation over HTTP: addresses, Markdown for those who prefer it, headers."""

from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from rossmann.web import DocumentationSite

PAGE = "<html><head><script>one()</script></head><body>Page</body></html>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    site = tmp_path / "site"
    for name in ("", "a/b/"):
        (site / name).mkdir(parents=True, exist_ok=True)
        (site / name / "index.html").write_text(PAGE)
    (site / "index.md").write_text("[b](a/b.md#x) [site](https://example.com/) [here](#x)\n")
    (site / "a" / "b.md").write_text("[up](../index.md)\n\n```text\n[code](../index.md)\n```\n")
    (site / "llms.txt").write_text("- [b](a/b.md): text\n")
    (site / "404.html").write_text(PAGE)
    (site / "x.js").write_text("1")
    (tmp_path / "secret").write_text("secret")
    return site


@pytest.fixture(params=["", "/base/documentation"])
def client(request: pytest.FixtureRequest, folder: Path) -> TestClient:
    app = Starlette(routes=[Mount(request.param or "/", DocumentationSite(folder))])
    return TestClient(app, base_url=f"http://host{request.param}/", follow_redirects=False)


def test_page_has_a_policy_of_its_own_and_files_are_found(client: TestClient) -> None:
    for path in ("", "a/b/"):
        response = client.get(path)
        assert response.status_code == 200
        assert response.text == PAGE
        assert "'sha256-" in response.headers["content-security-policy"]
        assert response.headers["cache-control"] == "no-cache"
    assert client.get("x.js").headers["cache-control"] == "max-age=3600"
    assert client.head("a/b/").status_code == 200


def test_page_without_slash_leads_to_it_by_a_path_only(client: TestClient) -> None:
    response = client.get("a/b", headers={"Host": "evil.example"})
    assert response.status_code == 308
    assert response.headers["location"] == "b/"


@pytest.mark.parametrize("path", ["none", "a/b/none.md", "../secret", "%2e%2e/secret", "a"])
def test_what_is_not_there_is_404_with_the_page_of_the_site(client: TestClient, path: str) -> None:
    response = client.get(path, follow_redirects=True)
    assert response.status_code == 404
    assert "secret" not in response.text


def test_other_methods_are_refused(client: TestClient) -> None:
    response = client.post("a/b/")
    assert response.status_code == 405
    assert response.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    ("accept", "markdown"),
    [
        ("text/markdown", True),
        ("text/markdown, text/html;q=0.9", True),
        ("text/html, text/markdown;q=0.5", False),
        ("text/html,*/*", False),
        ("text/markdown;q=0", False),
        ("text/markdown;q=x", False),
        ("", False),
    ],
)
def test_markdown_is_sent_to_those_who_prefer_it(
    client: TestClient, accept: str, markdown: bool
) -> None:
    response = client.get("a/b/", headers={"Accept": accept})
    assert response.headers["content-type"].startswith("text/markdown" if markdown else "text/html")
    assert "Accept" in response.headers["vary"]


def test_links_of_markdown_are_absolute(client: TestClient) -> None:
    base = str(client.base_url).rstrip("/")
    text = client.get("a/b.md").text
    assert text == f"[up]({base}/index.md)\n\n```text\n[code](../index.md)\n```\n"
    assert client.get("a/b/", headers={"Accept": "text/markdown"}).text == text
    assert client.get("llms.txt").text == f"- [b]({base}/a/b.md): text\n"
    own = client.get("index.md").text
    assert own == f"[b]({base}/a/b.md#x) [site](https://example.com/) [here](#x)\n"


def test_site_that_is_not_built_says_how_and_appears_when_it_is(tmp_path: Path) -> None:
    site = tmp_path / "site"
    client = TestClient(Starlette(routes=[Mount("/", DocumentationSite(site))]))
    response = client.get("/")
    assert response.status_code == 404
    assert "rossmann docs --build" in response.text
    site.mkdir()
    (site / "index.html").write_text(PAGE)
    assert client.get("/").text == PAGE
