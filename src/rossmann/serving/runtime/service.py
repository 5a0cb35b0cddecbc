"""The one place that chooses the service's real parts: panel, registry, versions."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rossmann.errors import CorruptModelError, RossmannError
from rossmann.models.gate.gate import validate
from rossmann.models.inference.forecaster import Forecaster, ForecastRequest
from rossmann.models.registry.registry import Registry
from rossmann.schema import Dataset
from rossmann.serving.runtime.cpu_affinity import run_unpinned
from rossmann.serving.runtime.registry_snapshot import (
    STARTUP_TIMEOUT,
    ModelRegistry,
    has_cached_production,
)
from rossmann.serving.runtime.version_manager import VersionManager
from rossmann.serving.schemas.models import DataInfo
from rossmann.settings import Settings

if TYPE_CHECKING:
    from rossmann.data.panel.panel import Panel
    from rossmann.serving.runtime.data_reload import DataReloader


LoadForecaster = Callable[[Path, "Panel"], Forecaster]
_LABELS: Final[dict[str, str]] = {
    Dataset.REAL: "the real Rossmann tables",
    Dataset.DEMO: "demo data (a synthetic chain)",
}


@dataclass(frozen=True, slots=True)
class Service:
    """What answers: the versions over a panel, and the registry that they come from.

    ``gate`` raises ``GateFailed`` for a version that may not become Production, and gives the
    version that it was compared with. ``refresh`` takes over a new data version, if there is one.
    """

    initial_panel: "Panel"
    versions: VersionManager
    registry: ModelRegistry
    run_gate: Callable[[int], int | None]
    reload_data: Callable[[], None] = lambda: None

    @property
    def panel(self) -> "Panel":
        """The panel that Production answers from, so that both change in the same moment."""
        now = self.versions.production
        return self.initial_panel if now is None else now.forecaster.panel

    @property
    def degraded_reason(self) -> str:
        """What is amiss, empty when nothing is."""
        return "; ".join(filter(None, (self.versions.reason, self._other_data())))

    def _other_data(self) -> str:
        now = self.versions.production
        if now is None:
            return ""
        learned = model_data(now.forecaster.ensemble.card)
        here = panel_data(self.panel)
        if learned.dataset == here.dataset:
            return ""
        return f"the model learned from {learned.label}, but the history here is {here.label}"


def build_service(settings: Settings) -> Service:
    """Load the version in service; raises ``NoModel`` where none can be had.

    The registry is asked first, and what takes seconds to import comes after: a service that may
    not start says so at once.
    """
    registry = open_registry(settings)
    panel = cache(lambda: _open_panel(settings))
    load = run_unpinned(partial(_load, settings))
    versions = VersionManager(
        registry, settings.model_cache_dir, lambda folder: load(folder, panel())
    )
    with startup_timeout(registry, settings):
        versions.start()
    watch = _watch(settings, versions, panel(), load)
    return Service(
        panel(),
        versions,
        registry,
        run_unpinned(lambda version: _judge(registry, version, settings)),
        watch.reload_if_changed,
    )


def _judge(registry: Registry, version: int, settings: Settings) -> int | None:
    """The version that the gate compared it with; raises ``GateFailed`` where it says no."""
    verdict = validate(registry, version, settings)
    verdict.raise_if_failed()
    return verdict.compared_to


def open_registry(settings: Settings) -> Registry:
    """The registry that the settings name."""
    return Registry(settings.tracking_uri)


def startup_timeout(registry: Registry, settings: Settings) -> AbstractContextManager[None]:
    """Around a start: a registry that hangs keeps nobody waiting who has a copy."""
    return (
        registry.with_timeout(STARTUP_TIMEOUT)
        if has_cached_production(settings.model_cache_dir)
        else nullcontext()
    )


def _open_panel(settings: Settings) -> "Panel":
    from rossmann.data.make_dataset import current_dataset
    from rossmann.data.panel.panel import open_panel

    return open_panel(current_dataset(settings))


def _watch(
    settings: Settings, versions: VersionManager, panel: "Panel", load: LoadForecaster
) -> "DataReloader":
    from rossmann.serving.runtime.data_reload import DataReloader

    return DataReloader(settings, versions, panel, load, warm_up)


def _load(settings: Settings, folder: Path, panel: "Panel") -> Forecaster:
    from rossmann.models.ensemble.ensemble import Ensemble

    ensemble = Ensemble.load(folder)
    forecaster = Forecaster(panel, ensemble, settings.thread_count, settings.history_days)
    warm_up(forecaster, panel)
    return forecaster


def warm_up(forecaster: Forecaster, panel: "Panel") -> None:
    """Forecast once, so that no request pays for first calls; raises ``CorruptModelError``."""
    days = np.arange(panel.last_day + 1, panel.last_day + 9, dtype=np.int32)
    rows = panel.store_schedule(int(panel.store_numbers[0]), days)
    levels = supported_levels(forecaster.ensemble.card)
    request = ForecastRequest(rows, levels=levels[:1])
    try:
        for part in (request, request.take(slice(0, 1))):
            forecaster.forecast(part)
        # Compiles the kernel of attributions, which takes seconds.
        panel.offset_components(rows, panel.last_day)
    except RossmannError as error:
        raise CorruptModelError(f"the version does not answer a usual request: {error}") from error


def supported_levels(card: dict[str, Any]) -> tuple[float, ...]:
    """The interval levels that a version was calibrated for."""
    return tuple(float(level) for level in card["intervals"]["levels"])


def panel_data(panel: "Panel") -> DataInfo:
    """What the panel was made from, in words too."""
    info = panel.info
    return DataInfo(
        dataset=str(info.dataset),
        version=info.version,
        label=data_label(str(info.dataset)),
        rows=info.rows,
        stores=info.stores,
        first_day=info.first_day,
        last_day=info.last_day,
        schedule_end=info.schedule_end,
    )


def model_data(card: dict[str, Any]) -> DataInfo:
    """What the model learned from, by its card."""
    told = card.get("data", {})
    dataset = str(told.get("dataset", "unknown"))
    known = {name: told[name] for name in DataInfo.model_fields if name in told}
    return DataInfo(
        **{"version": "unknown", **known, "dataset": dataset, "label": data_label(dataset)}
    )


def data_label(dataset: str) -> str:
    """A dataset's name in words."""
    return _LABELS.get(dataset, dataset)
