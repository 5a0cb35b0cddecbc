"""Chains of few stores; the registry's servers: MLflow on SQLite and, where it is, PostgreSQL."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from rossmann.data.demo import write_demo
from rossmann.data.make_dataset import make_dataset
from rossmann.data.panel import build_panel
from rossmann.models.train import Trained, train
from rossmann.settings import Settings, load_settings


@pytest.fixture(scope="session")
def postgres_server(
    database: str,
    running_mlflow: Callable[[Path, dict[str, str]], AbstractContextManager[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """Tracking URI of a real MLflow server on PostgreSQL."""
    folder = tmp_path_factory.mktemp("mlflow-postgres")
    with running_mlflow(folder, {"_MLFLOW_SERVER_FILE_STORE": database}) as uri:
        yield uri


@pytest.fixture(scope="session", params=["mlflow_server", "postgres_server"], ids=["sqlite", "pg"])
def each_server(request: pytest.FixtureRequest) -> str:
    """Tracking URI of each server in turn; a module takes it as its ``mlflow_server``."""
    return str(request.getfixturevalue(request.param))


@pytest.fixture(scope="session", params=[5, 1])
def few(
    request: pytest.FixtureRequest,
    chain_settings: Settings,
    tmp_path_factory: pytest.TempPathFactory,
) -> Settings:
    """A chain of a few stores, made ready. Read only."""
    settings = load_settings(
        data_dir=tmp_path_factory.mktemp("few"),
        threads=1,
        profiles={n: p.model_dump() for n, p in chain_settings.profiles.items()},
    )
    write_demo(settings.demo_raw_dir, seed=3, stores=request.param, days=620)
    build_panel(make_dataset(settings), threads=1)
    return settings


@pytest.fixture(scope="session")
def few_trained(few: Settings) -> Trained:
    """A version of the chain of a few stores."""
    return train(few, "quick")
