"""Where settings come from: the environment, files of secrets, the parameters file."""

import re
from pathlib import Path

import pytest
import sqlalchemy as sa

from rossmann.addresses import with_password
from rossmann.documentation.reference.lists import OTHER_VARIABLES
from rossmann.errors import SettingsError
from rossmann.launcher.mlflow_server import server_environment
from rossmann.settings import Settings, load_settings
from tests.paths import ROOT

PASSWORD = "p@ss w/%:?#"


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of secrets."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    monkeypatch.setenv("ROSSMANN_SECRETS_DIR", str(folder))
    return folder


def test_a_file_of_the_secrets_folder_is_a_setting_without_its_line_end(secrets: Path) -> None:
    (secrets / "rossmann_api_key").write_text("rsf_secret\n")
    assert load_settings().api_key == "rsf_secret"
    assert "rsf_secret" not in str(load_settings().redacted())


def test_environment_goes_before_a_secret_and_a_secret_before_the_parameters(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (secrets / "rossmann_max_rows").write_text("12")
    assert load_settings().max_rows == 12
    monkeypatch.setenv("ROSSMANN_MAX_ROWS", "13")
    assert load_settings().max_rows == 13


def test_files_of_other_programs_in_the_folder_do_not_matter(secrets: Path) -> None:
    (secrets / "grafana_password").write_text("x")
    load_settings()


def test_a_bad_value_of_a_secret_is_named_and_not_repeated(secrets: Path) -> None:
    (secrets / "rossmann_database_url").write_text("mysql://me:hunter2@host/x")
    with pytest.raises(SettingsError, match="DATABASE_URL") as raised:
        load_settings()
    assert "hunter2" not in str(raised.value)


def test_a_folder_of_secrets_that_is_not_there_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROSSMANN_SECRETS_DIR", str(tmp_path / "none"))
    with pytest.raises(SettingsError, match="ROSSMANN_SECRETS_DIR must name a folder"):
        load_settings()


def test_password_from_a_file_goes_into_both_addresses(secrets: Path) -> None:
    (secrets / "rossmann_database_password").write_text(PASSWORD)
    settings = load_settings(
        database_url="postgresql://rossmann@db/log",
        mlflow_database_url="postgresql://rossmann@db/mlflow",
    )
    assert sa.make_url(settings.log_url).password == PASSWORD
    store = sa.make_url(server_environment(settings)["_MLFLOW_SERVER_FILE_STORE"])
    assert (store.password, store.database, store.get_driver_name()) == (
        PASSWORD,
        "mlflow",
        "psycopg2",
    )
    assert PASSWORD not in str(settings.redacted())


@pytest.mark.parametrize(
    "url", ["postgresql://me:own@db/x", "postgresql:///x?host=/tmp&password=own"]
)
def test_a_password_in_the_address_stays(url: str) -> None:
    assert with_password(url, PASSWORD) == url


def test_an_address_without_a_user_gets_the_password_too() -> None:
    url = sa.make_url(with_password("postgresql:///x?host=/tmp", PASSWORD))
    assert url.query["password"] == PASSWORD


def test_no_address_is_refused_without_repeating_it() -> None:
    with pytest.raises(SettingsError) as raised:
        with_password("hunter2", PASSWORD)
    assert "hunter2" not in str(raised.value)


def test_mlflow_takes_postgresql_only() -> None:
    with pytest.raises(SettingsError, match="MLFLOW_DATABASE_URL: must begin with postgresql"):
        load_settings(mlflow_database_url="sqlite:///x")


@pytest.mark.parametrize(
    ("misspelled", "right"),
    [
        ("ROSSMANN_WORKER", "ROSSMANN_WORKERS"),
        ("ROSSMANN_DATADIR", "ROSSMANN_DATA_DIR"),
        ("ROSSMANN_RATE_LIMITS", "ROSSMANN_RATE_LIMIT"),
        ("ROSSMANN_TRUSTED_PROXY", "ROSSMANN_TRUSTED_PROXIES"),
    ],
)
def test_a_misspelled_variable_is_an_error(
    monkeypatch: pytest.MonkeyPatch, misspelled: str, right: str
) -> None:
    monkeypatch.setenv(misspelled, "2")
    with pytest.raises(SettingsError, match=f"{misspelled} is no setting, {right} is one"):
        load_settings()


def test_no_setting_is_taken_for_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {f"ROSSMANN_{name.upper()}": "" for name in Settings.model_fields}
    compose = (ROOT / "deployment" / ".env.example").read_text("utf-8")
    variables |= dict.fromkeys(re.findall(r"^#? ?(ROSSMANN_[A-Z_]+)=", compose, re.MULTILINE), "")
    variables |= dict.fromkeys(OTHER_VARIABLES, "")
    for name in variables:
        monkeypatch.setenv(name, "")
    load_settings()
