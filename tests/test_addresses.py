"""Addresses: IPv6 and wildcards in URLs, own addresses, base paths, SQLite files of any name."""

import os
import socket
from pathlib import Path

import pytest
import sqlalchemy as sa

from rossmann.addresses import (
    host_and_port,
    is_this_machine,
    redact_password,
    sqlite_url,
    url_host,
    without_credentials,
)
from rossmann.errors import SettingsError
from rossmann.settings import load_settings
from tests.fixtures.networks import ODD_NAME


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "[::1]"),
        ("::1", "[::1]"),
        ("shop.example", "shop.example"),
    ],
)
def test_url_host_replaces_wildcards_and_brackets_ipv6(host: str, address: str) -> None:
    assert url_host(host) == address


def test_host_and_port_brackets_ipv6() -> None:
    assert host_and_port("::", 80) == "[::]:80"
    assert host_and_port("127.0.0.1", 80) == "127.0.0.1:80"


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST.", "a.localhost", "127.8.9.1", "[::1]", "0.0.0.0"]
)
def test_loopback_is_this_machine(host: str) -> None:
    assert is_this_machine(host)


@pytest.mark.parametrize(
    "host", ["shop.example", "192.0.2.7", "2001:db8::7", "localhost.example", ""]
)
def test_other_hosts_are_not_this_machine(host: str) -> None:
    assert not is_this_machine(host)


def test_address_of_an_own_interface_is_this_machine() -> None:
    own = socket.gethostbyname(os.uname().nodename)
    if own.startswith("127."):
        pytest.skip("this machine has no other address than loopback")
    assert is_this_machine(own)


def test_sqlite_file_of_any_name_is_opened_itself(tmp_path: Path) -> None:
    file = tmp_path / ODD_NAME / "x.db"
    file.parent.mkdir()
    engine = sa.create_engine(sqlite_url(file))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (a)")
    engine.dispose()
    assert file.stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [ODD_NAME]


def test_redact_password() -> None:
    assert redact_password("http://me:pw@host/x") == "http://***@host/x"
    assert without_credentials("http://me:p@w@host/x") == "http://host/x"
    assert without_credentials("http://host/x") == "http://host/x"


def test_browsers_get_the_public_address_without_credentials() -> None:
    inside = "http://me:pw@api.inside:8000/forecasts/"
    settings = load_settings(api_url=inside)
    assert settings.public_api_url == "http://api.inside:8000/forecasts"
    settings = load_settings(api_url=inside, api_public_url="https://intranet.example/forecasts/")
    assert settings.public_api_url == "https://intranet.example/forecasts"
    assert settings.service_url == inside.rstrip("/")
    with pytest.raises(SettingsError, match="ROSSMANN_API_PUBLIC_URL"):
        load_settings(api_public_url="intranet.example")


@pytest.mark.parametrize("host", ["::1", "[::1]", "::"])
def test_settings_build_ipv6_addresses(host: str) -> None:
    settings = load_settings(host=host, mlflow_tracking_uri="", api_url="")
    assert settings.tracking_uri == f"http://[::1]:{settings.mlflow_port}"
    assert settings.service_url == f"http://[::1]:{settings.api_port}"
    assert settings.dashboard_url == f"http://[::1]:{settings.dashboard_port}"


@pytest.mark.parametrize("given", ["forecasts", "/forecasts", "/forecasts/"])
def test_base_paths_are_part_of_addresses(given: str) -> None:
    settings = load_settings(api_base_path=given, dashboard_base_path="/a/b", api_url="")
    assert settings.service_url.endswith(f":{settings.api_port}/forecasts")
    assert settings.dashboard_url.endswith(f":{settings.dashboard_port}/a/b")


@pytest.mark.parametrize("given", ["a b", "/a//b", "/..", "/a/../b", "/a?b", "/é", "http://x/a"])
def test_odd_base_paths_are_refused(given: str) -> None:
    with pytest.raises(SettingsError, match="ROSSMANN_API_BASE_PATH: must be such as /forecasts"):
        load_settings(api_base_path=given)


def test_streamlit_variable_is_the_default_of_the_dashboard_base_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load_settings().dashboard_base_path == ""
    monkeypatch.setenv("STREAMLIT_SERVER_BASE_URL_PATH", "shop")
    assert load_settings().dashboard_base_path == "/shop"
    monkeypatch.setenv("ROSSMANN_DASHBOARD_BASE_PATH", "/other")
    assert load_settings().dashboard_base_path == "/other"


def test_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ROSSMANN_DATA_DIR", "~/x ~y")
    assert load_settings().data_dir == tmp_path / "x ~y"
    monkeypatch.setenv("ROSSMANN_DATA_DIR", "~nobody-of-that-name/x")
    with pytest.raises(SettingsError, match=r"ROSSMANN_DATA_DIR.*home folder"):
        load_settings()


@pytest.mark.parametrize(
    ("given", "host"),
    [
        (" 127.0.0.1 ", "127.0.0.1"),
        ("[::1]", "::1"),
        ("0.0.0.0", "0.0.0.0"),
        ("büro-pc", "büro-pc"),
    ],
)
def test_hosts(given: str, host: str) -> None:
    assert load_settings(host=given).host == host


@pytest.mark.parametrize(
    "given", ["http://127.0.0.1", "127.0.0.1:80", "[::1]:80", "::1]", "fe80::1%eth0", "a b", "-a"]
)
def test_what_is_no_host_is_refused_with_the_settings(given: str) -> None:
    with pytest.raises(SettingsError, match="ROSSMANN_HOST: "):
        load_settings(host=given)


@pytest.mark.parametrize("name", ["api_url", "api_public_url"])
@pytest.mark.parametrize("given", ["127.0.0.1:8000", "me:secret@host", "http://", "ftp://host"])
def test_what_is_no_address_of_a_server_is_refused(name: str, given: str) -> None:
    with pytest.raises(SettingsError, match=f"ROSSMANN_{name.upper()}: must be") as caught:
        load_settings(**{name: given})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("given", ["/static", "_stcore/x"])
def test_paths_of_streamlit_are_no_base_path_of_the_dashboard(given: str) -> None:
    with pytest.raises(SettingsError, match=r"ROSSMANN_DASHBOARD_BASE_PATH: .*Streamlit"):
        load_settings(dashboard_base_path=given)
