"""Seconds from ``run`` to a ready service in a container, several starts; and its processor time.

python benchmarks/container_start.py IMAGE DATA --engine docker

DATA: a data folder with a Production version, owned by the image's user. ``--option`` adds an
option of the engine's ``run``, such as --option=--cgroups=no-conmon.
"""

import argparse
import subprocess
import time
import urllib.error
import urllib.request

NAME = "rossmann-container-start"
SECONDS = 120.0


def is_ready(url: str) -> bool:
    """Whether the service answers requests."""
    try:
        with urllib.request.urlopen(f"{url}/health/ready", timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def processor_seconds(engine: list[str]) -> float:
    """User and system time of the container's first process and its children so far."""
    script = "import os; f = open('/proc/1/stat').read().rpartition(')')[2].split();"
    script += " print(sum(map(int, f[11:15])) / os.sysconf('SC_CLK_TCK'))"
    command = [*engine, "exec", NAME, "python", "-c", script]
    return float(subprocess.check_output(command, text=True))


def start_once(engine: list[str], options: argparse.Namespace) -> tuple[float, float]:
    """Seconds until ready, and processor time of the start."""
    command = [
        *(*engine, "run", "--detach", "--name", NAME, "--network", "host", "--read-only"),
        *("--tmpfs", "/tmp:size=512m,mode=1777", "--volume", f"{options.data}:/var/lib/rossmann"),
        *(f"--env=ROSSMANN_API_PORT={options.port}", *options.option, options.image),
    ]
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    try:
        while not is_ready(f"http://127.0.0.1:{options.port}"):
            if time.perf_counter() - begun > SECONDS:
                raise SystemExit("the service was never ready")
            time.sleep(0.02)
        return time.perf_counter() - begun, processor_seconds(engine)
    finally:
        subprocess.run([*engine, "rm", "--force", NAME], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Print each start."""
    parser = argparse.ArgumentParser()
    parser.add_argument("image")
    parser.add_argument("data")
    parser.add_argument("--engine", default="docker", help="the engine, with options of its own")
    parser.add_argument("--option", action="append", default=[])
    parser.add_argument("--port", type=int, default=8790)
    parser.add_argument("--starts", type=int, default=5)
    options = parser.parse_args()
    for _ in range(options.starts):
        seconds, cpu = start_once(options.engine.split(), options)
        print(f"ready after {seconds:5.2f} s, {cpu:5.2f} s of processor time")


if __name__ == "__main__":
    main()
