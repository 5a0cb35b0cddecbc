"""Commands, scripts and JSON of the documentation, run as they are written."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.docs.code_blocks import MARKERS, code_blocks, shape_differences
from tests.e2e.installation import small_parameters
from tests.paths import ROOT

pytestmark = pytest.mark.timeout(3_600)

DOCS = ROOT / "docs"
HOUR = "docs/getting-started.md"
PAGES = sorted(str(page.relative_to(ROOT)) for page in (ROOT / "README.md", *DOCS.rglob("*.md")))
RUN = [page for page in PAGES if page != HOUR]
LANGUAGES = {"bash", "json", "python", "text", "yaml", "sql", "mermaid", "ini", "nginx", ""}
NETWORK = ("unshare", "--net", "--map-root-user")
"""Begins a command in a network namespace of its own, also for users who are not root."""
PORTS = (5000, 8000, 8501)
Results = dict[str, list[dict[str, Any]]]


def network_command() -> tuple[str, ...]:
    """What lets services have their usual ports; empty where these are free anyway."""
    if shutil.which("unshare") and not subprocess.run([*NETWORK, "true"], check=False).returncode:
        return NETWORK
    for port in PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"no network namespace can be made here, and port {port} is taken")
    return ()


def run_pages(folder: Path, pages: list[str], **plan: Any) -> Results:
    """Run the blocks of pages; returns a record for each block, by page."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed, which the pages use")
    home = folder / "rossmann"
    home.mkdir()
    network = () if plan.get("clone") else network_command()
    results = folder / "results.jsonl"
    plan = {"root": str(ROOT), "home": str(home), "pages": pages, "launch": True} | plan
    plan = {"clone": False, "results": str(results), "own_network": bool(network)} | plan
    (folder / "plan.json").write_text(json.dumps(plan))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ROSSMANN_")}
    environment["PYTHONPATH"] = str(ROOT)
    if not plan["clone"]:
        environment |= {"ROSSMANN_PARAMS": str(small_parameters(folder))}
        environment |= {"ROSSMANN_DATA_DIR": str(home / "data")}
    command = [*network, sys.executable, str(ROOT / "tests" / "docs" / "run_blocks.py")]
    done = subprocess.run(
        [*command, str(folder / "plan.json")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    found: Results = {page: [] for page in pages}
    for line in results.read_text().splitlines():
        record = json.loads(line)
        found[record["page"]].append(record)
    return found


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Results]:
    """The results of all pages by day or by night; each is run once."""
    known: dict[bool, Results] = {}

    def get(night: bool) -> Results:
        if night not in known:
            known[night] = run_pages(tmp_path_factory.mktemp("pages"), RUN, night=night)
        return known[night]

    return get


def failures(records: list[dict[str, Any]]) -> str:
    return "\n\n".join(f"line {one['line']}: {one['wrong']}" for one in records if one["wrong"])


@pytest.mark.parametrize("page", RUN)
def test_blocks_of_a_page_run_as_written(page: str, results: Any) -> None:
    records = results(False)[page]
    assert not failures(records)
    assert len(records) == len(code_blocks(ROOT / page))


@pytest.mark.nightly
@pytest.mark.parametrize("page", RUN)
def test_long_blocks_of_a_page_run_as_written(page: str, results: Any) -> None:
    assert not failures(results(True)[page])


@pytest.mark.nightly
def test_the_newcomers_hour(tmp_path: Path) -> None:
    """From the launch to the rollback, on a small chain with small versions."""
    assert not failures(run_pages(tmp_path, [HOUR], launch=False, night=False)[HOUR])


@pytest.mark.nightly
def test_the_newcomers_hour_in_a_fresh_clone(tmp_path: Path) -> None:
    """With the installation, the whole demo chain and the standard versions; on the usual ports."""
    for port in PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"port {port} is taken")
    assert not failures(run_pages(tmp_path, [HOUR], launch=False, night=True, clone=True)[HOUR])


@pytest.mark.parametrize("page", PAGES)
def test_blocks_have_known_languages_and_markers(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    blocks = code_blocks(ROOT / page)
    assert len(blocks) == sum(line.lstrip().startswith("```") for line in text.splitlines()) / 2
    for block in blocks:
        assert block.language in LANGUAGES, f"line {block.line}"
        assert all(block.markers[name] for name in {"skip", "nightly", "post"} & set(block.markers))
        if block.language == "json":
            assert json.loads(block.text) is not None
    comments = [line for line in text.splitlines() if line.startswith("<!-- ")]
    comments = [line for line in comments if not line.startswith("<!-- Written by `rossmann docs")]
    assert all(line.split()[1].rstrip(":") in MARKERS for line in comments)


def test_shapes_differ_by_keys_and_types() -> None:
    example = {"a": [1, 2], "b": "x", "c": None}
    assert shape_differences(example, {"a": [0.5], "b": "", "c": {"d": 1}}) == []
    assert len(shape_differences(example, {"a": ["1"], "b": "", "d": 1})) == 3
    assert shape_differences({"a": True}, {"a": 1}) != []
