"""Which process on a port is a service of this launch: by its answer, command line and data."""

from pathlib import Path

import pytest

from rossmann.launcher.services import PortOwner, Service, State, find_port_owner
from tests.fixtures.launches import LaunchHarness


@pytest.mark.parametrize(
    ("theirs", "ours", "owned"),
    [
        ("/data/one", "/data/one", True),
        ("/data/one/../one/", "/data/one", True),
        ("/data/two", "/data/one", False),
        ("", "/data/one", True),  # started without the variable: its folder is not known
        ("/data/one", "", True),
    ],
)
def test_service_of_another_data_folder_is_not_used(theirs: str, ours: str, owned: bool) -> None:
    environment = {"ROSSMANN_DATA_DIR": ours} if ours else {}
    service = Service("API", ["x"], "127.0.0.1", 1, "", "", "", environment)
    assert service.owns(PortOwner(1, "rossmann serve", "/", theirs)) == owned
    assert service.owns(None)


def test_folder_is_read_from_the_process_and_named(
    harness: LaunchHarness, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other, own = tmp_path / "other", tmp_path / "own"
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(other))
    service = harness.service("api", environment={"ROSSMANN_DATA_DIR": str(own)})
    harness.run_fake(service)
    assert service.state() is State.OTHER_PROCESS
    assert f"data folder {other})" in str(find_port_owner(service.port))
