"""wrk (Debian has it) where it is installed: a client so light that servers may use all cores."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from http_load import play

_SCRIPT: Final = """
local requests, at = {%s}, 0
request = function()
  at = at %% #requests + 1
  return requests[at]
end
"""
_PATIENT: Final = (
    "import os, sys; os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)); "
    "os.execvp(sys.argv[1], sys.argv[1:])"
)
"""A client on another machine does not interrupt a server to read each answer, as one beside it
would: in this class of the scheduler it waits for its turn."""


def rate(port: int, requests: list[bytes], at_once: int, seconds: float) -> float:
    """Answers a second to whole ``requests``, ``at_once`` of them on their way."""
    if shutil.which("wrk") is None:
        return play(port, requests, at_once, seconds).per_second
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "play.lua"
        # JSON's escapes of these bytes are Lua's, but for the slash, which is not written as one
        told = ", ".join(json.dumps(request.decode()) for request in requests)
        script.write_text(_SCRIPT % told)
        shape = ["-t1", f"-c{at_once}", f"-d{max(round(seconds), 1)}s"]
        wrk = ["wrk", *shape, "-s", str(script), f"http://127.0.0.1:{port}/"]
        command = [sys.executable, "-c", _PATIENT, *wrk]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"not all requests were answered:\n{said}")
    found = re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert found is not None, said
    return float(found[1])
