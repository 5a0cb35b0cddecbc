"""Settings of where things are: folders, addresses, databases."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings

from rossmann.errors import SettingsError

Port = Annotated[int, Field(ge=1, le=65535)]


def project_root() -> Path:
    """The checkout that this package runs from, or the working directory when it is installed."""
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def params_file() -> Path:
    """The parameters file in use: ``ROSSMANN_PARAMS``, the checkout's, or the one installed."""
    named = os.environ.get("ROSSMANN_PARAMS")
    if named:
        if not Path(named).is_file():
            raise SettingsError(f"ROSSMANN_PARAMS names {named}, which is not a file")
        return Path(named)
    checkout = project_root() / "config" / "params.yaml"
    return checkout if checkout.is_file() else Path(__file__).parent / "params.yaml"


class Places(BaseSettings):
    """Folders, ports and addresses of the services."""

    data_dir: Path = Path("data")
    """Holds ``raw/`` (the real tables), and all that the product makes: see the properties."""
    api_keys_file: Path | None = None
    """More of them, one a line, read again when it changes; else ``keys.txt`` in the data folder.

    Without a key in either, and without a provider of tokens, the service is open to all.
    """
    mlflow_tracking_uri: str = ""
    """Empty: the server on ``host`` and ``mlflow_port``."""
    api_url: str = ""
    """Where the dashboard finds the API; empty: ``host`` and ``api_port``."""
    host: str = "127.0.0.1"
    api_port: Port = 8000
    mlflow_port: Port = 5000
    dashboard_port: Port = 8501
    database_url: str = ""
    """Where answered rows are kept: ``sqlite:///`` or ``postgresql://``; empty: in ``data_dir``."""

    @field_validator("data_dir", "api_keys_file")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        if value is None or value.is_absolute():
            return value
        return (project_root() / value).resolve()

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str) -> str:
        # The message does not repeat the value: there may be a password in it.
        if value and not value.startswith(("sqlite:///", "postgres://", "postgresql")):
            raise ValueError("must begin with sqlite:/// or postgresql://")
        return value

    @model_validator(mode="after")
    def _ports_differ(self) -> "Places":
        ports = (self.api_port, self.mlflow_port, self.dashboard_port)
        if len(set(ports)) != len(ports):
            raise ValueError(f"api_port, mlflow_port and dashboard_port must differ, got {ports}")
        return self

    @property
    def raw_dir(self) -> Path:
        """Where the real tables lie."""
        return self.data_dir / "raw"

    @property
    def demo_raw_dir(self) -> Path:
        """Where the demo chain's tables are written."""
        return self.data_dir / "demo" / "raw"

    @property
    def ingested_dir(self) -> Path:
        """Days that were ingested over the raw tables, a folder for each chain."""
        return self.data_dir / "ingested"

    @property
    def processed_dir(self) -> Path:
        """Clean tables and as-of arrays, a folder for each data version."""
        return self.data_dir / "processed"

    @property
    def mlflow_dir(self) -> Path:
        """The embedded registry's database and artifacts."""
        return self.data_dir / "mlflow"

    @property
    def model_cache_dir(self) -> Path:
        """Local copies of registered versions."""
        return self.data_dir / "models"

    @property
    def logs_dir(self) -> Path:
        """Logs of the services that the launcher starts."""
        return self.data_dir / "logs"

    @property
    def keys_file(self) -> Path:
        """Digests of API keys; it need not be there."""
        return self.api_keys_file or self.data_dir / "keys.txt"

    @property
    def run_dir(self) -> Path:
        """What the launcher remembers of the services that it started."""
        return self.data_dir / "run"

    @property
    def log_dir(self) -> Path:
        """The prediction log: its database, unless another is named, and its spool."""
        return self.data_dir / "prediction_log"

    @property
    def log_spool_dir(self) -> Path:
        """Answered rows on their way to the database; must be on a disk of this machine."""
        return self.log_dir / "spool"

    @property
    def log_url(self) -> str:
        """The prediction log's database."""
        return self.database_url or f"sqlite:///{self.log_dir / 'log.db'}"

    @property
    def tracking_uri(self) -> str:
        """The MLflow server's address."""
        return self.mlflow_tracking_uri or f"http://{self.host}:{self.mlflow_port}"

    @property
    def service_url(self) -> str:
        """The prediction service's address."""
        return (self.api_url or f"http://{self.host}:{self.api_port}").rstrip("/")

    @property
    def dashboard_url(self) -> str:
        """The dashboard's address."""
        return f"http://{self.host}:{self.dashboard_port}"
