"""Load by wrk where it is installed (Debian has it), as it uses little processor time."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from http_load import run_load

_SCRIPT: Final = """
local requests, at = {%s}, 0
request = function()
  at = at %% #requests + 1
  return requests[at]
end
"""
_RUN_AS_BATCH: Final = (
    "import os, sys; os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)); "
    "os.execvp(sys.argv[1], sys.argv[1:])"
)
"""This scheduling class does not preempt the server, as a client on another machine does not."""


def requests_per_second(
    port: int, requests: list[bytes], connections: int, seconds: float
) -> float:
    """Responses per second over concurrent connections."""
    if shutil.which("wrk") is None:
        return run_load(port, requests, connections, seconds).per_second
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "load.lua"
        # JSON escapes these bytes as Lua does, except the slash, which is not escaped here.
        literals = ", ".join(json.dumps(request.decode()) for request in requests)
        script.write_text(_SCRIPT % literals)
        options = ["-t1", f"-c{connections}", f"-d{max(round(seconds), 1)}s"]
        wrk = ["wrk", *options, "-s", str(script), f"http://127.0.0.1:{port}/"]
        command = [sys.executable, "-c", _RUN_AS_BATCH, *wrk]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in output or "Socket errors" in output:
        raise SystemExit(f"not all requests succeeded:\n{output}")
    match = re.search(r"Requests/sec:\s+([\d.]+)", output)
    assert match is not None, output
    return float(match[1])
