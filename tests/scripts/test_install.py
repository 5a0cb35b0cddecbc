"""The installation scripts, tested without a package index."""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.paths import ROOT

SCRIPTS = [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci" / "run"]

PRINT_DONT_WRITE_BYTECODE = "import sys; print(sys.dont_write_bytecode)"
# Hides an installed uv: these tests cover plain pip.
NO_UV = 'command() { [ "$2" != uv ] && builtin command "$@"; }'
# An interpreter whose `-m venv` copies itself and whose `-m pip` only records its arguments.
FAKE_PYTHON = """#!/usr/bin/env bash
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; exit; fi
if [ "$1 $2" = "-m pip" ]; then echo "$@" >>"{record}"; exit {code}; fi
exec {python} "$@"
"""

OLD_PYTHON = """#!/usr/bin/env bash
case "$2" in *SystemExit*) exit 1 ;; *print*) echo 3.10 ;; esac
"""
NEWER_VERSION = 'case "$2" in *print*) echo 3.99; exit ;; esac\nexec '
WHEEL = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
BUILD_BACKEND = r"""
import zipfile

FILES = {
    "METADATA": "Metadata-Version: 2.1\nName: small\nVersion: 1\n",
    "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "RECORD": "",
}

def build_editable(folder, *_):
    with zipfile.ZipFile(f"{folder}/small-1-py3-none-any.whl", "w") as wheel:
        for name, content in FILES.items():
            wheel.writestr(f"small-1.dist-info/{name}", content)
    return "small-1-py3-none-any.whl"

build_wheel = build_editable
"""


class Checkout:
    """A copy of the scripts and requirements, with the fake interpreter."""

    def __init__(self, folder: Path, code: int = 0) -> None:
        self.folder = folder / "checkout"
        self.record = folder / "pip.log"
        shutil.copytree(ROOT / "scripts", self.folder / "scripts")
        for name in ("pyproject.toml", "requirements.lock", "requirements-dev.lock"):
            shutil.copy(ROOT / name, self.folder)
        self.python = folder / "python"
        self.python.write_text(
            FAKE_PYTHON.format(record=self.record, code=code, python=sys.executable)
        )
        self.python.chmod(0o755)

    def install(self, lock: str = "requirements.lock") -> subprocess.CompletedProcess[str]:
        script = f"set -euo pipefail; source scripts/common.sh; {NO_UV}; install_into_venv {lock}"
        return subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env={"PYTHON": str(self.python), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )

    def installs(self) -> list[str]:
        if not self.record.exists():
            return []
        return [line for line in self.record.read_text().splitlines() if " install " in line]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_have_valid_bash_syntax(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)


def test_pinned_requirements_are_installed_once(checkout: Checkout) -> None:
    first = checkout.install()
    assert first.returncode == 0, first.stderr
    assert "packages of requirements.lock installed" in first.stdout
    packages, project = checkout.installs()
    assert "--require-hashes -r requirements.lock" in packages
    assert "--no-index --no-build-isolation -e ." in project
    second = checkout.install()
    assert second.returncode == 0
    assert second.stdout == ""
    assert len(checkout.installs()) == 2


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml"])
def test_changed_requirements_are_installed_again(checkout: Checkout, name: str) -> None:
    checkout.install()
    with (checkout.folder / name).open("a") as file:
        file.write("# changed\n")
    checkout.install()
    assert len(checkout.installs()) == 4


def test_development_requirements_include_the_others(checkout: Checkout) -> None:
    checkout.install("requirements-dev.lock")
    checkout.install("requirements.lock")
    checkout.install("requirements-dev.lock")
    assert len(checkout.installs()) == 2


def test_failed_installation_is_reported_and_retried(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, code=1)
    for _ in range(2):
        result = checkout.install()
        assert result.returncode != 0
        assert "could not be installed" in result.stderr
        assert "install.log" in result.stderr
    assert len(checkout.installs()) == 2


def test_moved_checkout_gets_a_new_environment(checkout: Checkout) -> None:
    checkout.install()
    moved = checkout.folder.rename(checkout.folder.with_name("moved"))
    checkout.folder = moved
    result = checkout.install()
    assert result.returncode == 0, result.stderr
    assert "virtual environment .venv made" in result.stdout
    assert len(checkout.installs()) == 4


def test_existing_environment_of_the_user_is_kept(checkout: Checkout) -> None:
    folder = checkout.folder / ".venv" / "bin"
    folder.mkdir(parents=True)
    shutil.copy(checkout.python, folder / "python")
    (folder / "user_file").touch()
    result = checkout.install()
    assert result.returncode == 0, result.stderr
    assert (folder / "user_file").exists()
    assert len(checkout.installs()) == 2


def test_environment_of_an_older_python_is_named_with_the_remedy(checkout: Checkout) -> None:
    folder = checkout.folder / ".venv" / "bin"
    folder.mkdir(parents=True)
    (folder / "python").write_text(OLD_PYTHON)
    (folder / "python").chmod(0o755)
    result = checkout.install()
    assert result.returncode == 1
    assert result.stderr == (
        "error: .venv is of Python 3.10, and 3.11 or later is needed; remove it and run this again:"
        f" rm -rf {checkout.folder}/.venv\n"
    )
    assert (folder / "python").exists()
    (checkout.folder / ".venv" / ".folder").write_text(f"{checkout.folder}\n")  # one of our own
    result = checkout.install()
    assert result.returncode == 0, result.stderr
    assert "virtual environment .venv made" in result.stdout


def test_update_of_python_installs_again(checkout: Checkout) -> None:
    checkout.install()
    python = checkout.folder / ".venv" / "bin" / "python"
    python.write_text(python.read_text().replace("exec ", NEWER_VERSION, 1))
    checkout.install()
    assert len(checkout.installs()) == 4


VARIABLES: list[dict[str, str]] = [
    {"PIP_TARGET": "TMP/elsewhere"},
    {"PIP_PREFIX": "TMP/elsewhere"},
    {"PIP_CONFIG_FILE": "TMP/pip.conf"},
    {"PIP_DRY_RUN": "1"},
    {"PIP_PYTHON": "TMP/elsewhere/python"},
    {"PIP_CONSTRAINT": "TMP/nowhere.txt", "PIP_REQUIRE_HASHES": "1"},
    {"PIP_REQUIRE_VIRTUALENV": "1", "VIRTUAL_ENV": "TMP/elsewhere", "CONDA_PREFIX": "TMP/conda"},
    {"PYTHONHOME": "TMP/elsewhere"},
]


@pytest.mark.parametrize(
    "variables",
    [
        {"PIP_USER": "1"},
        {"PYTHONPATH": "TMP/shadow"},
        *(pytest.param(each, marks=pytest.mark.nightly) for each in VARIABLES),
    ],
    ids="+".join,
)
def test_packages_are_installed_into_venv_whatever_pip_is_told(
    variables: dict[str, str], tmp_path: Path
) -> None:
    """The real venv and pip; the project is a small one, so that no index is needed."""
    checkout = tmp_path / "check out ü"
    shutil.copytree(ROOT / "scripts", checkout / "scripts")
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "pip.py").write_text("raise SystemExit('another pip')")
    (checkout / "requirements.lock").write_text("")
    (checkout / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (checkout / "backend.py").write_text(BUILD_BACKEND)
    (tmp_path / "pip.conf").write_text("[global]\nuser = true\n")
    script = (
        f"set -euo pipefail; source scripts/common.sh; {NO_UV}; install_into_venv requirements.lock"
    )
    result = subprocess.run(
        ["bash", "-c", script],
        cwd=checkout,
        env={
            "PYTHON": sys.executable,
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            **{name: value.replace("TMP", str(tmp_path)) for name, value in variables.items()},
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert list((checkout / ".venv").rglob("small-1.dist-info"))
    assert not list((tmp_path / ".local").rglob("*")) and not (tmp_path / "elsewhere").exists()


@pytest.mark.nightly
@pytest.mark.parametrize("digest", ["of the file", "of another file"])
def test_only_files_with_a_locked_hash_are_installed(digest: str, tmp_path: Path) -> None:
    """The real venv and pip, and a folder in place of an index that delivers another file."""
    checkout, wheels = tmp_path / "checkout", tmp_path / "wheels"
    shutil.copytree(ROOT / "scripts", checkout / "scripts")
    wheels.mkdir()
    (checkout / "backend.py").write_text(BUILD_BACKEND)
    (checkout / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    wheel = wheels / "locked-1-py3-none-any.whl"
    files = {"METADATA": "Metadata-Version: 2.1\nName: locked\nVersion: 1\n", "RECORD": ""}
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("locked-1.dist-info/WHEEL", WHEEL)
        for name, content in files.items():
            archive.writestr(f"locked-1.dist-info/{name}", content)
    content = wheel.read_bytes() if digest == "of the file" else b"another file"
    found = hashlib.sha256(content).hexdigest()
    (checkout / "requirements.lock").write_text(f"locked==1 \\\n    --hash=sha256:{found}\n")
    script = (
        f"set -euo pipefail; source scripts/common.sh; {NO_UV}; install_into_venv requirements.lock"
    )
    places = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_REQUIRE_HASHES": "0"}
    result = subprocess.run(
        ["bash", "-c", script],
        cwd=checkout,
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **places},
        capture_output=True,
        text=True,
        check=False,
    )
    installed = list((checkout / ".venv").rglob("locked-1.dist-info"))
    assert (result.returncode == 0) == bool(installed) == (digest == "of the file"), result.stderr
    assert installed or "HASH" in result.stderr.upper()


def test_clone_with_autocrlf_keeps_line_ends_of_scripts_and_locks(tmp_path: Path) -> None:
    """A repository of the working tree's files, cloned as on Windows."""
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    files = [".gitattributes", "pyproject.toml", "requirements.lock", "config/params.yaml"]
    files += [str(script.relative_to(ROOT)) for script in SCRIPTS]
    for name in files:
        (origin / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, origin / name)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.autocrlf=true"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "files"]):
        subprocess.run([*git, *command], cwd=origin, check=True, capture_output=True)
    subprocess.run(
        ["git", "clone", "-q", "--config", "core.autocrlf=true", str(origin), str(clone)],
        check=True,
    )
    for name in files:
        assert (clone / name).read_bytes() == (ROOT / name).read_bytes(), name
    for script in (clone / "scripts").iterdir():
        subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize(
    "script", ["launch_dashboard.sh", "start_mlflow.sh"], ids=lambda name: name.partition(".")[0]
)
def test_scripts_find_their_checkout_from_any_folder(script: str, tmp_path: Path) -> None:
    """By a link, and with a ``CDPATH`` that holds another checkout."""
    checkout, other = tmp_path / "check out", tmp_path / "other"
    shutil.copytree(ROOT / "scripts", checkout / "scripts")
    shutil.copytree(ROOT / "scripts", other / "scripts")
    (checkout / "scripts" / "common.sh").write_text("install_into_venv() { :; }\n")
    program = checkout / ".venv" / "bin" / "rossmann"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "$PWD: $*"\n')
    program.chmod(0o755)
    link = tmp_path / "bin" / "launch"
    link.parent.mkdir()
    link.symlink_to(checkout / "scripts" / script)
    verb = {"launch_dashboard.sh": "up", "start_mlflow.sh": "mlflow"}[script]
    for folder, path in ((checkout, f"scripts/{script}"), (tmp_path, "bin/launch")):
        result = subprocess.run(
            ["bash", path],
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "CDPATH": f"{other}:{tmp_path}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.stdout.strip() == f"{checkout}: {verb}", result.stderr


def test_error_for_an_old_python_names_the_minimum_version(checkout: Checkout) -> None:
    checkout.python.write_text("#!/bin/sh\nexit 1\n")
    result = checkout.install()
    assert result.returncode != 0
    assert "Python 3.11 or later is needed" in result.stderr


def test_scripts_enable_bytecode_files() -> None:
    """Containers may disable them; each start would then compile every import."""
    result = subprocess.run(
        [
            "bash",
            "-c",
            f"source scripts/common.sh; {sys.executable} -c '{PRINT_DONT_WRITE_BYTECODE}'",
        ],
        cwd=ROOT,
        env={"PYTHONDONTWRITEBYTECODE": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "False"
