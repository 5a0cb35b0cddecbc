"""Command line and environment that start the dashboard's Streamlit server."""

import os
import sys
from pathlib import Path

from rossmann.settings import Settings


def server_command(settings: Settings) -> list[str]:
    """The command that serves the dashboard on ``host`` and ``dashboard_port``.

    It does not authenticate its users, so it opens sessions under known names only. Theme and
    telemetry are set in ``.streamlit/config.toml``.
    """
    script = Path(__file__).with_name("web_app.py")
    return [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        str(script),
        f"--server.address={settings.host}",
        f"--server.port={settings.dashboard_port}",
        f"--server.baseUrlPath={settings.dashboard_base_path}",
        *(f"--server.allowedHosts={name}" for name in sorted(settings.known_hosts)),
        "--server.headless=true",
        # Variables and files of another Streamlit app's owner would make these differ.
        "--server.sslCertFile=",
        "--server.sslKeyFile=",
        "--global.developmentMode=false",
        "--browser.gatherUsageStats=false",
    ]


def server_environment(settings: Settings) -> dict[str, str]:
    """The environment of that command: this process's, and the URL of the prediction service."""
    # Streamlit's uvicorn reads a number of workers that is meant for other servers.
    return {**os.environ, "ROSSMANN_API_URL": settings.service_url, "WEB_CONCURRENCY": "1"}


def health_url(settings: Settings) -> str:
    """URL that answers 200 once the dashboard is ready."""
    return f"{settings.dashboard_url}/_stcore/health"
