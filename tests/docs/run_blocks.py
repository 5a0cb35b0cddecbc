"""Runs the code blocks of pages as a reader would, in a network of its own.

``python run_blocks.py PLAN``: a JSON file with ``root`` (the checkout), ``home`` (an empty folder
that becomes like a fresh clone), ``pages``, ``launch`` (whether the services are started first),
``clone`` (whether the home is a real clone, without the packages), ``night`` (whether blocks
marked nightly run), ``results`` (file: a JSON line for each block). Started by
``test_code_blocks.py`` below ``unshare``, so that the usual ports are free.
"""

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from rossmann.data.demo.write_tables import write_demo
from tests.docs.code_blocks import Block, code_blocks, parsed, shape_differences

SECONDS = 900
STORES = 120
API = "http://127.0.0.1:8000"
_LOOPBACK, _IFF_UP, _GET_FLAGS, _SET_FLAGS = b"lo", 1, 0x8913, 0x8914


def bring_up_loopback() -> None:
    """``ip link set lo up``, which a new network namespace needs, without the program."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", _LOOPBACK, 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(control, _GET_FLAGS, request))[1]
        fcntl.ioctl(control, _SET_FLAGS, struct.pack("16sh14x", _LOOPBACK, flags | _IFF_UP))


def make_home(root: Path, home: Path) -> None:
    """A folder that looks like a clone: links to the checkout's entries, and data of its own."""
    for entry in root.iterdir():
        if entry.name not in {"data", ".venv", ".git"}:
            (home / entry.name).symlink_to(entry)
    (home / ".venv").symlink_to(sys.prefix)
    write_demo(home / "data" / "demo" / "raw", seed=20150801, stores=STORES)


def run_text(text: str, state: Path, language: str) -> subprocess.CompletedProcess[str]:
    """Run a block in the variables and the folder that the last one left."""
    program = text
    if language == "python":
        file = state.with_suffix(".py")
        file.write_text(text)
        program = f"python {file}\n"
    script = f". {state}\nset -e\n{program}\nset +e\n{{ declare -px; echo cd $PWD; }} > {state}\n"
    return subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def post(path: str, body: str) -> tuple[int, str]:
    request = urllib.request.Request(
        API + path, body.encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class PageRun:
    """The blocks of one page, run in order; ``answer`` is what the last one printed."""

    def __init__(self, state: Path, night: bool) -> None:
        self.state, self.night, self.answer, self.skipped = state, night, "", False

    def run(self, block: Block) -> str:
        """What is wrong with a block, or ""."""
        if "skip" in block.markers or ("nightly" in block.markers and not self.night):
            self.skipped = self.skipped or block.language in {"bash", "python"}
            self.skipped = block.language in {"bash", "python", "json"}
            return ""
        if block.language in {"bash", "python"}:
            self.skipped = False
            result = run_text(block.text, self.state, block.language)
            self.answer = result.stdout
            if (result.returncode != 0) != ("fails" in block.markers):
                output = f"{result.stdout[-2000:]}\n{result.stderr[-3000:]}"
                return f"exit code {result.returncode}\n{output}"
        if block.language == "json":
            return self._check_json(block)
        return ""

    def _check_json(self, block: Block) -> str:
        example = parsed(block.text)
        if "post" in block.markers:
            self.skipped = False
            code, self.answer = post(block.markers["post"], block.text)
            return "" if code == 200 else f"HTTP {code}: {self.answer}"
        if "response" in block.markers and not self.skipped:
            try:
                answer = parsed(self.answer)
            except json.JSONDecodeError:
                return f"the block before printed no JSON: {self.answer[:500]}"
            return "\n".join(shape_differences(example, answer))
        return ""


def start_services(root: Path, state: Path) -> None:
    """Version 1 in Production, version 2 in Staging, all services healthy."""
    for command in (
        "rossmann up --detach --no-browser",
        "rossmann train --profile quick",
        "rossmann validate 2",
    ):
        result = run_text(command, state, "bash")
        if result.returncode and "validate" not in command:
            raise SystemExit(f"{command}: {result.stdout}\n{result.stderr}")


def run_pages(plan: dict[str, Any]) -> None:
    root, home = Path(plan["root"]), Path(plan["home"])
    state = home.parent / "state.sh"
    state.write_text(f"cd {home}\n")
    with Path(plan["results"]).open("w") as results:
        for page in plan["pages"]:
            state.write_text(plan["state"])
            run = PageRun(state, plan["night"])
            for block in code_blocks(root / page):
                began = time.monotonic()
                try:
                    wrong = run.run(block)
                except subprocess.TimeoutExpired:
                    wrong = f"not done after {SECONDS} s"
                record = {"page": page, "line": block.line, "wrong": wrong}
                results.write(json.dumps(record | {"seconds": time.monotonic() - began}) + "\n")
                results.flush()
                if wrong:
                    break  # what follows depends on it


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    if plan["own_network"]:
        bring_up_loopback()
    root, home = Path(plan["root"]), Path(plan["home"])
    state = home.parent / "state.sh"
    plan["state"] = f"cd {home}\n"
    os.environ.pop("PYTHONPATH")
    if plan["clone"]:
        subprocess.run(["git", "clone", "--quiet", root, home], check=True)
    else:
        os.environ["PATH"] = f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}"
        make_home(root, home)
    if plan["launch"]:
        state.write_text(plan["state"])
        start_services(root, state)
    try:
        run_pages(plan)
    finally:
        state.write_text(plan["state"])
        run_text(".venv/bin/rossmann down", state, "bash")


if __name__ == "__main__":
    main()
