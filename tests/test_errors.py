"""Messages for settings that cannot be used."""

import pytest

from rossmann.errors import SettingsError
from rossmann.settings import load_settings


@pytest.mark.parametrize("service", ["api", "mlflow", "dashboard"])
def test_port_variable_of_kubernetes_is_explained(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = f"ROSSMANN_{service.upper()}_PORT"
    monkeypatch.setenv(variable, "tcp://10.0.0.1:80")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    message = str(caught.value)
    for part in (
        variable,
        "'tcp://10.0.0.1:80'",
        f"service named rossmann-{service}",
        "enableServiceLinks",
    ):
        assert part in message
    assert "\n" not in message


def test_message_has_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROSSMANN_API_PORT", "eighty")
    monkeypatch.setenv("ROSSMANN_WORKERS", "0")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "'eighty'" in str(caught.value)
    assert "ROSSMANN_WORKERS: " in str(caught.value)
    assert "Kubernetes" not in str(caught.value)


def test_message_never_has_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROSSMANN_DATABASE_URL", "mysql://me:secret@host/x")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "secret" not in str(caught.value)
