"""Home page: services, versions and data, also while service or registry is unavailable."""

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from rossmann.dashboard.shared.service_state import clear_cache
from tests.paths import ROOT

HOME = "from rossmann.dashboard.app import run\nrun()"


@pytest.fixture(autouse=True)
def _clear_cache() -> None:
    clear_cache()


def open_home() -> AppTest:
    page = AppTest.from_string(HOME, default_timeout=30).run()
    assert not page.exception
    return page


def texts(page: AppTest) -> str:
    return "\n".join(str(element.value) for element in [*page.markdown, *page.caption])


SCRIPTS = ("deployment/streamlit/Home.py", "src/rossmann/dashboard/app.py")


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_show_the_same_page_and_nothing_else(stub_service: Any, script: str) -> None:
    """Streamlit would show the value of any bare expression of a script."""
    page = AppTest.from_file(str(ROOT / script), default_timeout=30).run()
    assert page.title[0].value == open_home().title[0].value
    assert texts(page) == texts(open_home())
    assert not page.exception


def test_versions_and_data_are_shown(stub_service: Any) -> None:
    page = open_home()
    assert {m.label: m.value for m in page.metric} == {
        "Production version": "3",
        "Staging version": "4",
    }
    assert "31 Jul 2015" in texts(page)
    assert "17 Sep 2015" in texts(page)
    assert not page.error and not page.warning


@pytest.mark.parametrize(("dataset", "label"), [("demo", "Demo data"), ("rossmann", "Real data")])
def test_sidebar_shows_the_dataset(stub_service: Any, dataset: str, label: str) -> None:
    stub_service.dataset = dataset
    assert label in "\n".join(m.value for m in open_home().sidebar.markdown)


def test_unavailable_service_is_shown_with_advice(stub_service: Any) -> None:
    stub_service.stop()
    page = open_home()
    assert "goes on by itself" in page.error[0].value
    # The commands are for those who run the service, folded away.
    assert "scripts/" not in page.error[0].value
    assert "scripts/launch_dashboard.sh" in page.expander[0].markdown[0].value
    assert not page.metric


def test_page_recovers_with_the_service(stub_service: Any) -> None:
    stub_service.stop()
    page = open_home()
    stub_service.start()
    clear_cache()
    page.run()
    assert not page.error
    assert page.metric[0].value == "3"


def test_unavailable_registry_is_shown(stub_service: Any) -> None:
    stub_service.status, stub_service.registry = "degraded", "away"
    stub_service.reason = "the registry is away: no answer"
    page = open_home()
    assert "registry is away" in page.warning[0].value
    assert "scripts/start_mlflow.sh" in page.expander[0].markdown[0].value
    assert page.metric[0].value == "3"


def test_degraded_reason_is_shown(stub_service: Any) -> None:
    stub_service.status, stub_service.reason = "degraded", "version 5 cannot be had"
    assert "version 5 cannot be had" in open_home().warning[0].value
