"""Home page: services, versions and data, also while service or registry is unavailable."""

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from rossmann.dashboard.shared import service_state
from rossmann.dashboard.shared.markdown import escape_markdown
from rossmann.dashboard.shared.service_state import clear_cache
from rossmann.dashboard.web_app import SCRIPT

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


def test_script_shows_the_page_and_nothing_else(stub_service: Any) -> None:
    """Streamlit would show the value of any bare expression of a script."""
    page = AppTest.from_file(str(SCRIPT), default_timeout=30).run()
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
    assert "rossmann up" in page.expander[0].markdown[0].value
    assert not page.metric


def test_sidebar_warns_of_demo_data_while_the_service_is_away(
    stub_service: Any, monkeypatch: pytest.MonkeyPatch, wait_until: Any
) -> None:
    monkeypatch.setattr(service_state, "MAX_AGE_SECONDS", 0)
    page = open_home()
    stub_service.stop()

    def sidebar() -> str:
        return "\n".join(m.value for m in page.run().sidebar.markdown)

    wait_until("the outage is seen", lambda: "Prediction service away" in sidebar())
    assert "Demo data" in sidebar()


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
    assert "rossmann mlflow" in page.expander[0].markdown[0].value
    assert page.metric[0].value == "3"


def test_degraded_reason_is_shown(stub_service: Any) -> None:
    stub_service.status, stub_service.reason = "degraded", "version 5 cannot be had"
    assert "version 5 cannot be had" in open_home().warning[0].value


def test_addresses_are_shown_without_passwords(
    stub_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROSSMANN_MLFLOW_TRACKING_URI", "http://me:s3cret@mlflow.inside:5000")
    monkeypatch.setenv("ROSSMANN_API_URL", stub_service.url.replace("//", "//me:s3cret@"))
    stub_service.status, stub_service.reason = "degraded", "http://me:s3cret@mlflow.inside is slow"
    page = open_home()
    shown = texts(page)
    assert escape_markdown("http://mlflow.inside:5000") in shown
    assert escape_markdown(stub_service.url) in shown
    assert escape_markdown("http://mlflow.inside is slow") in page.warning[0].value
    stub_service.stop()
    clear_cache()
    page = open_home()
    shown += texts(page) + page.expander[0].markdown[0].value
    assert "is away" in shown and "s3cret" not in shown
    assert links(page)[-1] == f"{stub_service.url}/docs"


def links(page: AppTest) -> list[str]:
    return [link.proto.page for link in page.get("page_link")]


def test_link_to_the_api_is_the_public_address(
    stub_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROSSMANN_API_PUBLIC_URL", "https://intranet.example/forecasts/")
    assert links(open_home())[-1] == "https://intranet.example/forecasts/docs"
