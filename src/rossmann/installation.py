"""This installation: its folder, its parameters file, and the command line that runs it."""

import os
import shlex
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from rossmann.errors import SettingsError

_DATA_DIR: Final = "ROSSMANN_DATA_DIR"
_VARIABLES: Final = (
    *("ROSSMANN_HOST", "ROSSMANN_MLFLOW_PORT", "ROSSMANN_API_PORT", "ROSSMANN_DASHBOARD_PORT"),
    *("ROSSMANN_API_BASE_PATH", "ROSSMANN_DASHBOARD_BASE_PATH", "ROSSMANN_MLFLOW_TRACKING_URI"),
)
"""They say where services are, and may have been set for one command only."""


def project_root() -> Path:
    """The checkout that this package runs from, or the working directory when it is installed."""
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def absolute_path(path: Path) -> Path:
    """A path of a setting: ``~`` is the home folder, relative paths begin at the project's root.

    Raises ``ValueError`` for the home folder of a user who does not exist.
    """
    try:
        path = path.expanduser()  # systemd and YAML leave ~ to us
    except RuntimeError as error:
        raise ValueError(f"{path} names a home folder that does not exist") from error
    return path if path.is_absolute() else (project_root() / path).resolve()


def params_file() -> Path:
    """The parameters file in use: ``ROSSMANN_PARAMS``, the checkout's, or the one installed."""
    named = os.environ.get("ROSSMANN_PARAMS")
    if named:
        if not Path(named).is_file():
            raise SettingsError(f"ROSSMANN_PARAMS names {named}, which is not a file")
        return Path(named)
    checkout = project_root() / "config" / "params.yaml"
    return checkout if checkout.is_file() else Path(__file__).parent / "params.yaml"


def documentation_source() -> Path:
    """The folder that holds ``docs/`` and ``zensical.toml``: the checkout, or this package."""
    checkout = project_root()
    return checkout if (checkout / "zensical.toml").is_file() else Path(__file__).parent


def shell_command(verb: str) -> str:
    """``rossmann VERB`` as a user's shell can run it now, from any folder.

    With the program's whole path where the shell would not find it, and with the environment
    variables that choose the data and the services of this process.
    """
    return f"{_program_with_variables()} {verb}"


def without_local_details(text: str) -> str:
    """A message for callers of the service: without addresses, paths and settings of this machine.

    Commands keep their verbs, so that an operator who reads the message knows what to run.
    """
    if not text:
        return text
    from rossmann.addresses import without_addresses

    return without_addresses(text.replace(_program_with_variables(), "rossmann"))


def _program_with_variables() -> str:
    variables = [f"{name}={shlex.quote(value)}" for name, value in _chosen_variables().items()]
    return " ".join([*variables, program()])


def _chosen_variables() -> dict[str, str]:
    # It imports pydantic, which doubles the time of --help.
    from rossmann.addresses import redact_password

    environment = os.environ
    chosen = {name: environment[name] for name in _VARIABLES if environment.get(name)}
    # An address with a password in it must not be shown.
    chosen = {name: value for name, value in chosen.items() if redact_password(value) == value}
    if environment.get("ROSSMANN_PARAMS"):
        chosen["ROSSMANN_PARAMS"] = str(Path(environment["ROSSMANN_PARAMS"]).resolve())
    if environment.get("ROSSMANN_DEMO", "0").lower() in {"1", "true", "yes", "on", "y", "t"}:
        chosen["ROSSMANN_DEMO"] = "1"
    if environment.get(_DATA_DIR):
        folder = absolute_path(Path(environment[_DATA_DIR]))
        if folder != project_root() / "data":
            chosen[_DATA_DIR] = str(folder)
    return chosen


def program() -> str:
    """The program in a shell's words: its name where the shell finds it, else its whole path."""
    script = Path(sys.executable).with_name("rossmann")
    if not script.is_file():
        return f"{shlex.quote(sys.executable)} -m rossmann.cli"
    found = shutil.which("rossmann")
    if found is not None and Path(found).resolve() == script.resolve():
        return "rossmann"
    return shlex.quote(str(script))


def install_command(package: str) -> str:
    """The command that adds a package to the environment that runs this."""
    python = shlex.quote(sys.executable)
    if find_spec("pip") is None:  # as uv makes environments
        return f"uv pip install --python {python} {package}"
    return f"{python} -m pip install {package}"
