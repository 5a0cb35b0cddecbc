"""The command line of a verb, as a user's shell can run it from any folder."""

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

from rossmann.launcher.run_files import RunFolder

_VARIABLES: Final = (
    *("ROSSMANN_PARAMS", "ROSSMANN_HOST"),
    *("ROSSMANN_MLFLOW_PORT", "ROSSMANN_API_PORT", "ROSSMANN_DASHBOARD_PORT"),
    *("ROSSMANN_API_BASE_PATH", "ROSSMANN_DASHBOARD_BASE_PATH"),
)
"""They say where services are, and may have been set for one command only."""


def shell_command(verb: str, run: RunFolder) -> str:
    """``rossmann VERB`` for the services of that run folder.

    With the whole path where the shell would not find the program, and with the environment
    variables by which it finds the services.
    """
    chosen = {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}
    if os.environ.get("ROSSMANN_DATA_DIR"):
        chosen["ROSSMANN_DATA_DIR"] = str(run.folder.parent)
    variables = [f"{name}={shlex.quote(value)}" for name, value in chosen.items()]
    return " ".join([*variables, *_program(), verb])


def _program() -> list[str]:
    program = Path(sys.executable).with_name("rossmann")
    if not program.is_file():
        return [shlex.quote(sys.executable), "-m", "rossmann.cli"]
    found = shutil.which("rossmann")
    if found is not None and Path(found).resolve() == program.resolve():
        return ["rossmann"]
    return [shlex.quote(str(program))]
