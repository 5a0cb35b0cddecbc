"""A data folder with its own ports, for tests of the launcher with the real services."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil


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
