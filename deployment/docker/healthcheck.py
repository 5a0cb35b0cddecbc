"""Health check of a container: exit code 0 if its service answers on its own port.

Usage: ``python healthcheck.py api|mlflow|dashboard``. Standard library only, so that a check every
ten seconds costs 50 ms of processor time. Reads the ports and base paths from the environment.
"""

import os
import sys
import urllib.error
import urllib.request

# Port, variable of the base path, and path that is answered with 200 by a service that works.
SERVICES = {
    "api": ("8000", "ROSSMANN_API_BASE_PATH", "/health/ready"),
    "mlflow": ("5000", "", "/health"),
    "dashboard": ("8501", "ROSSMANN_DASHBOARD_BASE_PATH", "/_stcore/health"),
}


def main(arguments: list[str]) -> int:
    """Ask the service once; says on stderr why it is not healthy."""
    if len(arguments) != 1 or arguments[0] not in SERVICES:
        sys.stderr.write(f"usage: healthcheck.py {'|'.join(SERVICES)}\n")
        return 2
    name = arguments[0]
    port, path_variable, path = SERVICES[name]
    port = os.environ.get(f"ROSSMANN_{name.upper()}_PORT") or port
    base = os.environ.get(path_variable, "").strip("/")
    url = f"http://127.0.0.1:{port}{'/' + base if base else ''}{path}"
    # An address of this container is not reached through a proxy.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=4) as response:
            return 0 if response.status == 200 else 1
    except (urllib.error.URLError, OSError) as error:
        sys.stderr.write(f"{url}: {error}\n")
        return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
