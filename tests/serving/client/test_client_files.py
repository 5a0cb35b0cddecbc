"""Files through the typed client, and the examples of the files page."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fastapi import FastAPI

from rossmann.data.panel.panel import Panel
from rossmann.data.uploads.result_files import result_columns
from rossmann.errors import AuthenticationError, RequestError, ServiceError, VersionNotFoundError
from rossmann.serving.access.api_keys import key_digest
from rossmann.serving.batch_prediction.upload import OPTION_NAMES
from rossmann.serving.client.client import Client
from tests.paths import ROOT

Live = Callable[[FastAPI], AbstractContextManager[str]]
App = Callable[..., FastAPI]
PAGE = ROOT / "docs" / "deployment" / "files.md"
ADDRESS = "http://127.0.0.1:8000"
make_forecaster = pytest.fixture(lambda make_trained: make_trained)


@pytest.fixture
def plan(tmp_path: Path, row: Any, panel: Panel) -> Path:
    rows = [row(n % 48 + 1, Store=int(panel.store_numbers[n % 40])) for n in range(500)]
    path = tmp_path / "plan.csv"
    pl.DataFrame(rows).write_csv(path)
    return path


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_documented_curl_examples(live: Live, make_app: App, plan: Path) -> None:
    (script,) = (block for block in code_blocks("bash") if "-o forecast.csv" in block)
    script = script.replace("curl -f", "curl -sf --noproxy '*'")
    with live(make_app()) as url:
        subprocess.run(
            ["bash", "-euc", script.replace(ADDRESS, url)],
            cwd=plan.parent, env={"PATH": "/usr/bin:/bin"}, check=True, timeout=120,
        )  # fmt: skip
    csv = pl.read_csv(plan.parent / "forecast.csv")
    parquet = pl.read_parquet(plan.parent / "forecast.parquet")
    sheet = pl.read_excel(plan.parent / "forecast.xlsx")
    assert csv.height == parquet.height == sheet.height == 500
    assert csv["forecast"].to_list() == parquet["forecast"].to_list()
    assert sheet["forecast"].sum() != csv["forecast"].sum()  # its objective is unbiased
    assert {"lower_80", "upper_95", "warnings"} <= set(csv.columns)


def test_documented_python_example(live: Live, make_app: App, plan: Path, capsys: Any) -> None:
    (script,) = code_blocks("python")
    script = script.replace('Path("', f'Path("{plan.parent}/')
    with live(make_app()) as url:
        exec(compile(script.replace(ADDRESS, url), "files.md", "exec"), {})
    assert capsys.readouterr().out.startswith("500 ")
    assert pl.read_parquet(plan.parent / "forecast.parquet").height == 500


def test_documented_error_response(live: Live, make_app: App, plan: Path) -> None:
    documented = json.loads(code_blocks("json")[0].replace("1 and 1115", "1 and 40"))["detail"]
    lines = plan.read_text().splitlines()
    plan.write_text("\n".join([*lines[:2], "9999" + lines[2][lines[2].index(",") :]]))
    with live(make_app()) as url, Client(url) as client, pytest.raises(RequestError) as caught:
        client.predict_file(plan, plan.with_name("out.csv"))
    assert [{**f.as_dict(), "loc": list(f.loc)} for f in caught.value.errors] == documented
    assert not plan.with_name("out.csv").exists()


def test_page_documents_every_option_and_column(panel: Panel) -> None:
    text = PAGE.read_text("utf-8")
    for name in (*OPTION_NAMES, *result_columns((0.8,), (0.1,))):
        assert f"`{name}`" in text, name


def test_client_passes_every_option(live: Live, make_app: App, plan: Path) -> None:
    target = plan.with_name("out.xlsx")
    with live(make_app()) as url, Client(url) as client:
        options = {"stage": 2, "as_of": "2014-06-30", "objective": "unbiased"}
        summary = client.predict_file(
            plan, target, intervals=[0.8], quantiles=[0.1, 0.9], date_format="YYYY-MM-DD", **options
        )  # type: ignore[arg-type]
        assert (summary.count, summary.model_version, summary.model_stage) == (500, 2, "Staging")
        assert (summary.as_of, summary.objective) == ("2014-06-30", "unbiased")
        assert "horizon" in {warning.type for warning in summary.warnings}
        columns = set(pl.read_excel(target).columns)
        assert {"lower_80", "quantile_10", "quantile_90"} <= columns
        with pytest.raises(VersionNotFoundError):
            client.predict_file(plan, target, stage=77)
    with pytest.raises(ServiceError, match="away"):
        Client(url).predict_file(plan, target)


def test_predict_file_needs_a_key(live: Live, make_app: App, plan: Path) -> None:
    app = make_app(api_keys=f"predict:{key_digest('secret')}:x")
    target = plan.with_name("out.csv")
    with live(app) as url:
        with pytest.raises(AuthenticationError):
            Client(url).predict_file(plan, target)
        assert Client(url, "secret").predict_file(plan, target).count == 500
