"""A fake service for tests of the launcher, with a selectable failure.

    python fake_service.py PORT FOLDER [unhealthy | ignores_sigterm | fails | parent]

Writes ``FOLDER/PORT.up`` when it listens, and appends its port to ``FOLDER/ended`` on SIGTERM.
``unhealthy`` responds with 503, ``ignores_sigterm`` runs on after SIGTERM, ``fails`` prints an
error and exits with 7, ``parent`` has a child in another session.
"""

import http.server
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

port, folder, behaviour = int(sys.argv[1]), Path(sys.argv[2]), (*sys.argv[3:], "healthy")[0]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(503 if behaviour == "unhealthy" else 200)
        self.end_headers()
        self.wfile.write(b"OK")


def on_sigterm(number: int, frame: FrameType | None) -> None:
    with (folder / "ended").open("a") as file:
        file.write(f"{port}\n")
    if behaviour != "ignores_sigterm":
        raise SystemExit(0)


def main() -> None:
    print(f"fake service on {port}", flush=True)
    if behaviour == "fails":
        print("the database is unavailable", flush=True)
        raise SystemExit(7)
    signal.signal(signal.SIGTERM, on_sigterm)
    if behaviour == "parent":
        child = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
        )
        (folder / f"{port}.child").write_text(str(child.pid))
    server = http.server.HTTPServer(("127.0.0.1", port), Handler)
    (folder / f"{port}.up").write_text(str(os.getpid()))
    server.serve_forever()


main()
