"""First run: makes the tables, the as-of arrays and a Production model where they are missing.

Runs as a process of its own while the services start: it imports much, needs memory that the
system gets back, and can be ended at any moment.
"""

import time

from rossmann.data.make_dataset import make_dataset
from rossmann.data.tables.raw_tables import IncompleteTablesError, find_raw_tables
from rossmann.errors import DataNotFoundError, GateRejectedError, ServiceError, VersionNotFoundError
from rossmann.launcher.console import LaunchConsole
from rossmann.models.registry.mlflow_rest import RegistryAccessError
from rossmann.models.registry.model_version import ModelVersion
from rossmann.models.registry.registry import Registry
from rossmann.schema import MODEL_NAME, Dataset, Stage
from rossmann.settings import Settings

_REGISTRY_TIMEOUT = 180.0
_REASON = "first version of a fresh installation"


def prepare(settings: Settings, console: LaunchConsole) -> None:
    """Make what is missing, in order; what is there already is used.

    Raises ``DataError`` for tables that cannot be used, ``ServiceError`` when MLflow does not
    come up, and ``GateRejectedError`` with the table when the model is not good enough to serve.
    """
    dataset = select_dataset(settings)
    if dataset is Dataset.REAL:
        console.print(f"Data: the real tables in {settings.raw_dir}")
    else:
        reason = "requested" if settings.demo else f"no real tables in {settings.raw_dir}"
        console.print(f"Data: the demo chain, which is synthetic ({reason})")
    write_missing_demo(settings, dataset, console)
    with console.step("tables checked and cleaned"):
        info = make_dataset(settings, console.detail)
    with console.step("as-of arrays"):
        from rossmann.data.panel.panel import build_panel

        build_panel(info, settings.thread_count, console.detail)
    registry = Registry.from_settings(settings)
    _wait_for_registry(registry)
    production = find_production(registry, info.dataset)
    if production:
        console.print(
            f"Model: version {production.version} is in Production, made from {info.dataset}"
        )
    else:
        _make_first_model(settings, registry, console)


def select_dataset(settings: Settings) -> Dataset:
    """The real chain where its tables lie, else the demo chain.

    Raises ``IncompleteTablesError`` where only some of the real tables are there.
    """
    try:
        return find_raw_tables(settings).dataset
    except IncompleteTablesError:
        raise
    except DataNotFoundError:
        return Dataset.DEMO


def write_missing_demo(settings: Settings, dataset: Dataset, console: LaunchConsole) -> None:
    """Write the demo chain's tables if they are needed and not there."""
    if dataset is not Dataset.DEMO or (settings.demo_raw_dir / "train.csv").is_file():
        return
    from rossmann.data.demo.write_tables import write_demo

    with console.step("demo tables written"):
        write_demo(settings.demo_raw_dir, settings.seed)


def find_production(registry: Registry, dataset: Dataset) -> ModelVersion | None:
    """The Production version if it was made from that chain."""
    try:
        version = registry.find(Stage.PRODUCTION)
    except VersionNotFoundError:
        return None
    return version if version.tags.get("data.dataset") == dataset else None


def _wait_for_registry(registry: Registry) -> None:
    deadline = time.monotonic() + _REGISTRY_TIMEOUT
    while True:
        try:
            return registry.ping()
        except RegistryAccessError:
            raise
        except ServiceError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.3)


def _make_first_model(settings: Settings, registry: Registry, console: LaunchConsole) -> None:
    from rossmann.models.gate.gate import validate
    from rossmann.models.publishing.register import register
    from rossmann.models.training.train import train

    console.print(f"Model: there is none in Production for this data; {MODEL_NAME} is trained now")
    with console.step("trained (profile quick)"):
        trained = train(settings, "quick", console.detail)
    with console.step("registered with its lineage"):
        version = register(trained, settings)
    with console.step(f"version {version.version} through the gate"):
        verdict = validate(registry, version.version, settings)
        for line in verdict.table().splitlines():
            console.detail(line)
    if not verdict.passed:
        raise GateRejectedError(f"version {version.version} is not good enough:\n{verdict.table()}")
    with console.step(f"version {version.version} promoted to Production"):
        registry.promote(version.version, _REASON, "launcher", expected=verdict.compared_to)
