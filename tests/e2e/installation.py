"""A data folder with its own ports, for tests of the launcher with the real services."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import psutil
import yaml

from tests.paths import ROOT

SMALL_PROFILE = {
    "rows": 30_000,
    "members": {
        "lightgbm": {"rounds": 40, "learning_rate": 0.1, "num_leaves": 31},
        "xgboost": {"rounds": 40, "max_depth": 6, "eta": 0.1},
        "catboost": {"rounds": 40, "depth": 6, "learning_rate": 0.2},
    },
    "weights": {"lightgbm": 0.3, "xgboost": 0.3, "catboost": 0.4},
}


def small_parameters(folder: Path) -> Path:
    """A parameters file whose profiles train small versions; all else is the checkout's."""
    parameters = yaml.safe_load((ROOT / "config" / "params.yaml").read_text("utf-8"))
    # Copies: YAML would write one profile as an alias of the other, which no tuning can change.
    parameters["profiles"] = {name: deepcopy(SMALL_PROFILE) for name in parameters["profiles"]}
    file = folder / "params.yaml"
    file.write_text(yaml.safe_dump(parameters))
    return file


class Installation:
    """A data folder, three unused ports, and the command line with these settings.

    ``variables``: more of the environment.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.launch_output = ""
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("ROSSMANN_")},
            "ROSSMANN_DATA_DIR": str(folder),
            **(variables or {}),
        }
        sockets = [socket.socket() for _ in range(3)]
        for name, probe in zip(("API", "MLFLOW", "DASHBOARD"), sockets, strict=True):
            probe.bind(("127.0.0.1", 0))
            self.environment[f"ROSSMANN_{name}_PORT"] = str(probe.getsockname()[1])
        for probe in sockets:
            probe.close()
        self.api = f"http://127.0.0.1:{self.environment['ROSSMANN_API_PORT']}"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "rossmann.cli", *arguments],
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *arguments: str, code: int = 0) -> str:
        child = self.start(*arguments)
        out, err = child.communicate(timeout=600)
        assert child.returncode == code, f"{arguments}\n{out}\n{err}"
        return out

    def running_commands(self) -> list[str]:
        """Command lines of the running processes that use this folder."""
        folder = str(self.folder)
        commands = []
        for process in psutil.process_iter(["cmdline", "environ", "pid", "status"]):
            info = process.info
            command = " ".join(info["cmdline"] or [])
            uses_folder = (info["environ"] or {}).get("ROSSMANN_DATA_DIR") == folder
            if (folder in command or uses_folder) and info["status"] != psutil.STATUS_ZOMBIE:
                commands.append(command)
        return commands
