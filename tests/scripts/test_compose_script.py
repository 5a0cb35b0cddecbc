"""``scripts/compose.sh``: the files that it makes, and what it asks of Docker.

No engine runs where these tests do: a program named ``docker`` notes how it was called.
"""

import hashlib
import os
import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rossmann.serving.access.api_keys import Permission, parse_setting
from tests.e2e.compose_file import compose_file
from tests.paths import ROOT

Script = Callable[..., subprocess.CompletedProcess[str]]

DOCKER = """#!/bin/sh
printf '%s\\n' "$PWD: $(printf '%s' "$*" | tr '\\n' ' ')" >> "$(dirname "$0")/calls"
case "$*" in
  "compose version") exit "${NO_COMPOSE:-0}" ;;
  *pg_dump*) echo "dump of $*" ;;
  *" pack "*) echo "archive"; exit "${PACK:-0}" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the two folders, and a ``docker``."""
    ignored = shutil.ignore_patterns("secrets", ".env")
    shutil.copytree(ROOT / "deployment", tmp_path / "deployment", ignore=ignored)
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "compose.sh", tmp_path / "scripts")
    (tmp_path / "bin").mkdir()
    docker = tmp_path / "bin" / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    return tmp_path


@pytest.fixture
def script(checkout: Path) -> Script:
    """Runs the script in the copy."""

    def run(*arguments: str, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("ROSSMANN_")}
        path = f"{checkout / 'bin'}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "scripts/compose.sh", *arguments],
            cwd=checkout,
            env={**inherited, "PATH": path, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


def calls(checkout: Path) -> list[str]:
    """Arguments of all calls of docker but those that ask for its version."""
    lines = (checkout / "bin" / "calls").read_text().splitlines()
    place = f"{checkout / 'deployment'}: compose "
    assert all(line.startswith(place) for line in lines)
    return [line.removeprefix(place) for line in lines if not line.endswith("compose version")]


def secrets(checkout: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (checkout / "deployment" / "secrets").iterdir()}


def test_up_makes_what_is_missing_and_starts_all(checkout: Path, script: Script) -> None:
    told = script("up").stdout
    assert calls(checkout) == ["up --build --detach --wait"]
    expected = {Path(one["file"]).name for one in compose_file()["secrets"].values()}
    assert set(secrets(checkout)) == expected
    assert "https://localhost:443/dashboard/" in told and "WARNING: the certificate" in told
    assert told.count("shown this once") == 1
    example = (checkout / "deployment" / ".env.example").read_text()
    assert (checkout / "deployment" / ".env").read_text() == example


def test_a_second_up_changes_nothing(checkout: Path, script: Script) -> None:
    script("secrets")
    before = secrets(checkout)
    told = script("up").stdout
    assert secrets(checkout) == before
    assert "shown this once" not in told and "WARNING" not in told


def test_containers_can_read_files_that_other_users_of_the_host_cannot(
    checkout: Path, script: Script
) -> None:
    script("secrets")
    folder = checkout / "deployment" / "secrets"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}
    assert (checkout / "deployment" / ".env").stat().st_mode & 0o077 == 0


def test_the_service_knows_the_dashboards_key(checkout: Path, script: Script) -> None:
    script("secrets")
    found = secrets(checkout)
    [record] = parse_setting(found["rossmann_api_keys"])
    key = found["rossmann_api_key"]
    assert key.startswith("rsf_") and len(key) == 47
    assert record.digest == hashlib.sha256(key.encode()).hexdigest()
    assert (record.permission, record.name) == (Permission.PREDICT, "dashboard")
    passwords = [found[name] for name in found if name.endswith("password")]
    assert len(set(passwords)) == 3 and all(len(one) == 43 for one in passwords)


def test_users_get_new_passwords_in_place(checkout: Path, script: Script) -> None:
    script("secrets")
    file = checkout / "deployment" / "secrets" / "dashboard_users"
    first, number = file.read_text(), file.stat().st_ino
    password = script("user", "night.shift").stdout.strip().rpartition(": ")[2]
    planner, other = file.read_text().splitlines()
    assert file.stat().st_ino == number, "the container holds the file, not its name"
    assert planner == first.strip()
    salt = other.split("$")[2]
    hashed = subprocess.check_output(["openssl", "passwd", "-apr1", "-salt", salt, password])
    assert other == f"night.shift:{hashed.decode().strip()}"
    script("user", "planner")
    names = [line.split(":")[0] for line in file.read_text().splitlines()]
    assert names == ["night.shift", "planner"]
    assert "a name has letters" in script("user", "a:b", code=1).stderr


@pytest.mark.parametrize("site", ["forecasts.example", "192.0.2.7"])
def test_the_certificate_is_for_the_site(site: str, checkout: Path, script: Script) -> None:
    script("secrets", ROSSMANN_SITE=site)
    folder = checkout / "deployment" / "secrets"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls_certificate.pem", folder / "tls_key.pem")
    asked = ["openssl", "x509", "-noout", "-ext", "subjectAltName"]
    file = folder / "tls_certificate.pem"
    shown = subprocess.check_output([*asked, "-in", file], text=True)
    assert site in shown and ("IP Address" in shown) == (site == "192.0.2.7")


def test_a_backup_keeps_the_order_and_asks_for_a_new_folder(checkout: Path, script: Script) -> None:
    script("secrets")
    script("backup", "kept/monday")
    order = [line.split("exec -T ")[1] for line in calls(checkout)]
    assert [line.split()[0] for line in order] == ["api", "database", "database", "mlflow", "api"]
    assert order[0].endswith(" pack prediction_log/spool")
    assert order[1].endswith("--format=custom rossmann")
    assert order[3].endswith(" pack mlflow") and order[4].endswith(" keys.txt")
    kept = checkout / "kept" / "monday"
    assert kept.stat().st_mode & 0o077 == 0
    names = {"spool.tar.gz", "rossmann.dump", "mlflow.dump", "registry.tar.gz", "data.tar.gz"}
    assert {path.name for path in kept.iterdir()} == names | {".env", "secrets"}
    assert "must be a new one" in script("backup", "kept/monday", code=1).stderr
    assert "could not be copied" in script("backup", "kept/tuesday", code=1, PACK="1").stderr


def test_a_restore_fills_databases_and_volumes(checkout: Path, script: Script) -> None:
    script("secrets")
    script("backup", "kept")
    before = secrets(checkout)
    shutil.rmtree(checkout / "deployment" / "secrets")
    (checkout / "bin" / "calls").unlink()
    script("restore", "kept")
    assert secrets(checkout) == before
    made = [line.split() for line in calls(checkout)]
    assert [line[0] for line in made] == ["ps", "up", "exec", "exec", "run", "run", "run"]
    services = [line[line.index("python") + 1] for line in made[4:]]
    assert services == ["mlflow", "prepare", "prepare"]
    assert "name the folder" in script("restore", code=1).stderr


def test_other_commands_are_those_of_compose(checkout: Path, script: Script) -> None:
    script("down")
    script("logs", "--tail", "5", "api")
    assert calls(checkout) == ["down", "logs --tail 5 api"]
    assert "compose.sh up" in script().stdout


def test_without_an_engine_it_says_what_to_install(script: Script) -> None:
    assert "install Docker" in script("down", code=1, NO_COMPOSE="1").stderr
