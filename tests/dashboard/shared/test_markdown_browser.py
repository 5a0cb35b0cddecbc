"""Escaped texts as a real browser shows them: character by character, and nothing else.

``test_web_app_browser`` does so with fewer texts, in one kind of element, on a page of ours.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rossmann.dashboard.shared.markdown import visible_line
from tests.fixtures.browser import TIMEOUT_MS, ServiceProcess, free_port
from tests.fixtures.hostile_texts import TEXTS, mixed_texts
from tests.paths import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.nightly, pytest.mark.timeout(300)]
SCRIPT = """
import json
import streamlit as st
from pathlib import Path
from rossmann.dashboard.shared.markdown import escape_markdown, markdown_list

texts = json.loads(Path(__file__).with_name("texts.json").read_text())
escaped = [escape_markdown(text) for text in texts]
with st.container(key="list"):
    st.markdown(markdown_list(texts))
with st.container(key="paragraphs"):
    st.error("\\n\\n".join(f"{text}" for text in escaped))
with st.container(key="bold"):
    st.caption("\\n\\n".join(f"**{text}**: a" for text in escaped))
with st.container(key="labels"):
    st.radio("a", range(100), format_func=escaped.__getitem__)
with st.container(key="metrics"):
    for text in escaped[:20]:
        st.metric(text, text, text)
st.write("The end")
"""
TEXT_CONTENTS = "all => all.map(e => e.textContent)"
PARTS = {
    "list": "li",
    "paragraphs": "p",
    "bold": "strong",
    "labels": "[data-testid=stRadioOption], label[data-baseweb=radio]",
    "metrics": "[data-testid=stMetric] [data-testid=stMarkdownContainer]",
}
FORBIDDEN = "img, a, .katex, pre, code, table, h1, h2, em, del, script, [role=img], input[disabled]"


@pytest.fixture(scope="module")
def texts() -> list[str]:
    shown = [*TEXTS, *mixed_texts(4_000, seed=11)]
    return [text for text in shown if visible_line(text).strip()]


@pytest.fixture
def page_url(texts: list[str], tmp_path: Path) -> Iterator[str]:
    """A Streamlit page with the texts in five kinds of elements."""
    (tmp_path / "page.py").write_text(SCRIPT)
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    port = free_port()
    options = (f"--server.port={port}", "--server.headless=true", "--browser.gatherUsageStats=0")
    command = [sys.executable, "-m", "streamlit", "run", str(tmp_path / "page.py"), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    url = f"http://127.0.0.1:{port}"
    process = ServiceProcess(command, environment, f"{url}/_stcore/health", tmp_path / "log")
    process.start()
    yield url
    process.stop()


def test_escaped_texts_are_shown_literally(browser: Any, page_url: str, texts: list[str]) -> None:
    page = browser.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto(page_url)
    page.get_by_text("The end").wait_for()
    lines = [visible_line(text) for text in texts]
    expected = {
        "list": lines,
        "paragraphs": lines,
        "bold": lines,
        "labels": lines[:100],
        "metrics": [line for line in lines[:20] for _ in range(3)],
    }
    for part, selector in PARTS.items():
        container = page.locator(f".st-key-{part}")
        container.locator(selector).first.wait_for()
        assert container.locator(selector).evaluate_all(TEXT_CONTENTS) == expected[part]
        assert container.locator(FORBIDDEN).evaluate_all("all => all.map(e => e.outerHTML)") == []
    assert [url for url in requested if not url.startswith((page_url, "data:"))] == []
    page.close()
