"""The served site, checked by the npm package ``afdocs`` where it is installed."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from rossmann.documentation.build import build_site, read_pages
from rossmann.web import DocumentationSite
from tests.fixtures.serving import run_live
from tests.paths import ROOT

AFDOCS = os.environ.get("ROSSMANN_AFDOCS") or shutil.which("afdocs")


@pytest.mark.skipif(AFDOCS is None, reason="afdocs is not installed (npm install --global afdocs)")
def test_programs_that_read_the_site_find_nothing_to_mend(tmp_path: Path) -> None:
    build_site(tmp_path / "site", ROOT)
    app = Starlette(routes=[Mount("/documentation", DocumentationSite(tmp_path / "site"))])
    with run_live(app) as url:
        options = ["--format", "json", "--quiet", "--request-delay", "0", "--max-links", "200"]
        command = [str(AFDOCS), "check", f"{url}/documentation/", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    results = {one["id"]: one for one in json.loads(done.stdout)["results"]}
    wrong = {
        name: one["message"] for name, one in results.items() if one["status"] in {"fail", "warn"}
    }
    assert wrong == {}
    assert len(results) >= 22
    assert str(len(read_pages(ROOT))) in results["markdown-url-support"]["message"]
