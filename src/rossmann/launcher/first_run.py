"""What a first launch makes: tables, as-of arrays, and a model that is in Production.

Runs as a process of its own beside the services' start: it imports much, needs memory that the
system gets back, and can be ended at any moment.
"""

import time

from rossmann.data.make_dataset import make_dataset
from rossmann.data.tables.raw_tables import find_raw_tables
from rossmann.errors import DataNotFoundError, GateRejectedError, ServiceError, VersionNotFoundError
from rossmann.launcher.console import LaunchConsole
from rossmann.models.registry.model_version import ModelVersion
from rossmann.models.registry.registry import Registry
from rossmann.schema import MODEL_NAME, Dataset, Stage
from rossmann.settings import Settings

_PATIENCE_SECONDS = 180.0
_REASON = "first version of a fresh installation"


def prepare(settings: Settings, screen: LaunchConsole) -> None:
    """Make what is missing, in order; what is there already is used.

    Raises ``DataError`` for tables that cannot be used, ``ServiceError`` when MLflow does not
    come up, and ``GateFailed`` with the table when the model is not good enough to serve.
    """
    dataset = select_dataset(settings)
    if dataset is Dataset.REAL:
        screen.print(f"Data: the real tables in {settings.raw_dir}")
    else:
        why = "asked for" if settings.demo else f"no real tables in {settings.raw_dir}"
        screen.print(f"Data: the demo chain, which is synthetic ({why})")
    write_missing_demo(settings, dataset, screen)
    with screen.step("tables checked and cleaned"):
        info = make_dataset(settings, screen.detail)
    with screen.step("as-of arrays"):
        from rossmann.data.panel.panel import build_panel

        build_panel(info, settings.thread_count, screen.detail)
    registry = Registry(settings.tracking_uri)
    _wait_for(registry)
    serving = find_production(registry, info.dataset)
    if serving:
        screen.print(f"Model: version {serving.version} is in Production, made from {info.dataset}")
    else:
        _first_model(settings, registry, screen)


def select_dataset(settings: Settings) -> Dataset:
    """The real chain where its tables lie, else the demo chain.

    Raises ``MissingData`` where only one of the real tables is there.
    """
    try:
        return find_raw_tables(settings).dataset
    except DataNotFoundError:
        real = () if settings.demo else settings.raw_dir.glob("*.csv*")
        if any(path.name.startswith(("train.csv", "store.csv")) for path in real):
            raise
        return Dataset.DEMO


def write_missing_demo(settings: Settings, dataset: Dataset, screen: LaunchConsole) -> None:
    """Write the demo chain's tables if they are needed and not there."""
    if dataset is not Dataset.DEMO or (settings.demo_raw_dir / "train.csv").is_file():
        return
    from rossmann.data.demo.write_tables import write_demo

    with screen.step("demo tables written"):
        write_demo(settings.demo_raw_dir, settings.seed)


def find_production(registry: Registry, dataset: Dataset) -> ModelVersion | None:
    """The Production version if it was made from that chain."""
    try:
        version = registry.find(Stage.PRODUCTION)
    except VersionNotFoundError:
        return None
    return version if version.tags.get("data.dataset") == dataset else None


def _wait_for(registry: Registry) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return registry.ping()
        except ServiceError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.3)


def _first_model(settings: Settings, registry: Registry, screen: LaunchConsole) -> None:
    from rossmann.models.gate.gate import validate
    from rossmann.models.publishing.register import register
    from rossmann.models.training.train import train

    screen.print(f"Model: there is none in Production for this data; {MODEL_NAME} is trained now")
    with screen.step("trained (profile quick)"):
        trained = train(settings, "quick", screen.detail)
    with screen.step("registered with its lineage"):
        version = register(trained, settings)
    with screen.step(f"version {version.version} through the gate"):
        verdict = validate(registry, version.version, settings)
        for line in verdict.table().splitlines():
            screen.detail(line)
    if not verdict.passed:
        raise GateRejectedError(f"version {version.version} is not good enough:\n{verdict.table()}")
    with screen.step(f"version {version.version} promoted to Production"):
        registry.promote(version.version, _REASON, "launcher", expected=verdict.compared_with)
