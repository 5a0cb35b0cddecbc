"""A service's state: registry, panel and versions, their assembly, and hot reload of new data."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rossmann.errors import CorruptModelError, DataNotFoundError, RossmannError
from rossmann.logging_config import get_logger
from rossmann.models.gate.backtest_predictions import BacktestPredictions
from rossmann.models.gate.gate import load_predictions, validate
from rossmann.models.inference.forecaster import Forecaster, ForecastRequest
from rossmann.models.registry.registry import Registry
from rossmann.schema import Dataset
from rossmann.serving.runtime.cpu_affinity import run_unpinned
from rossmann.serving.runtime.registry_view import (
    STARTUP_TIMEOUT,
    LoadedVersion,
    ModelRegistry,
    has_cached_production,
)
from rossmann.serving.runtime.store_catalog import BacktestForecasts, VersionBacktest
from rossmann.serving.runtime.version_manager import VersionManager
from rossmann.serving.schemas.models import DataInfo
from rossmann.settings import Settings

if TYPE_CHECKING:
    from rossmann.data.panel.panel import Panel


_LABELS: Final[dict[str, str]] = {
    Dataset.REAL: "the real Rossmann tables",
    Dataset.DEMO: "demo data (a synthetic chain)",
}


@dataclass(frozen=True, slots=True)
class Service:
    """The versions over a panel, and the registry that they come from.

    ``run_gate`` raises ``GateRejectedError`` for a version that may not become Production, and
    returns the version that it was compared with. ``reload_data`` takes over a new data version,
    and the backtest of a new Production version, which ``backtest`` returns.
    """

    initial_panel: "Panel"
    versions: VersionManager
    registry: ModelRegistry
    run_gate: Callable[[int], int | None]
    reload_data: Callable[[], None] = lambda: None
    backtest: Callable[[], VersionBacktest | None] = lambda: None

    @property
    def panel(self) -> "Panel":
        """The panel of the Production version: both change together."""
        production = self.versions.production
        return self.initial_panel if production is None else production.forecaster.panel

    @property
    def degraded_reason(self) -> str:
        """Why the service is degraded; empty where it is not."""
        return "; ".join(filter(None, (self.versions.reason, self._data_mismatch())))

    def _data_mismatch(self) -> str:
        production = self.versions.production
        if production is None:
            return ""
        trained_on = model_data(production.forecaster.ensemble.card)
        current = panel_data(self.panel)
        if trained_on.dataset == current.dataset:
            return ""
        return f"the model learned from {trained_on.label}, but the history here is {current.label}"


class DataReloader:
    """Moves all loaded versions to a new data version.

    ``load``: loads a version over a panel. ``warm_up``: forecasts once; an error refuses the panel.
    """

    def __init__(
        self,
        settings: Settings,
        versions: VersionManager,
        panel: "Panel",
        load: Callable[[Path, "Panel"], Forecaster],
        warm_up: Callable[[Forecaster, "Panel"], None],
    ) -> None:
        self._settings = settings
        self._versions = versions
        self._current = panel.info
        self._load = load
        self._warm_up = warm_up
        self._refused = ""
        self._logger = get_logger("data")

    def reload_if_changed(self) -> None:
        """Take over the data version of the tables in use, once its arrays are built.

        Only one of the same chain: a model of the demo chain must not answer for the real one.
        """
        panel = self._open_new()
        if panel is None:
            return
        try:
            self._versions.replace_panel(
                lambda folder: self._load(folder, panel), lambda old: self._move(old, panel)
            )
        except RossmannError as error:
            self._refused = panel.info.version
            self._logger.warning("data refused", version=self._refused, reason=str(error))
            return
        self._current = panel.info
        last_day = panel.info.last_day.isoformat()
        self._logger.info("data in service", version=panel.info.version, last_day=last_day)

    def _open_new(self) -> "Panel | None":
        from rossmann.data.make_dataset import current_dataset
        from rossmann.data.panel.panel import open_panel

        try:
            info = current_dataset(self._settings)
            if info.version in {self._current.version, self._refused}:
                return None
            return open_panel(info) if info.dataset == self._current.dataset else None
        except DataNotFoundError:
            # The tables changed and are not prepared yet: the current panel stays.
            return None

    def _move(self, old: Forecaster, panel: "Panel") -> Forecaster:
        new = old.with_panel(panel)
        self._warm_up(new, panel)
        return new


def build_service(settings: Settings) -> Service:
    """Load the Production version; raises ``ModelUnavailableError`` without one.

    The registry is read first, and slow imports come after: a service that may not start fails
    at once.
    """
    registry = open_registry(settings)
    panel = cache(lambda: open_current_panel(settings))
    load = run_unpinned(partial(load_forecaster, settings))
    versions = VersionManager(
        registry, settings.model_cache_dir, lambda folder: load(folder, panel())
    )
    with startup_timeout(registry, settings):
        versions.start()
    reloader = DataReloader(settings, versions, panel(), load, warm_up)
    backtests = BacktestForecasts(versions, partial(_load_backtest, registry))

    def reload_data() -> None:
        reloader.reload_if_changed()
        backtests.refresh()

    return Service(
        panel(),
        versions,
        registry,
        run_unpinned(lambda version: _run_gate(registry, version, settings)),
        reload_data,
        backtests.current,
    )


def _run_gate(registry: Registry, version: int, settings: Settings) -> int | None:
    """The version that the gate compared it with; raises ``GateRejectedError``."""
    verdict = validate(registry, version, settings)
    verdict.raise_if_failed()
    return verdict.compared_to


def _load_backtest(registry: Registry, served: LoadedVersion) -> BacktestPredictions:
    version = registry.find(served.version)
    if version.run_id != served.run_id:
        raise CorruptModelError(f"version {served.version} in the registry is another one now")
    return load_predictions(registry, version)


def open_registry(settings: Settings) -> Registry:
    """The registry that the settings name."""
    return Registry.from_settings(settings)


def startup_timeout(registry: Registry, settings: Settings) -> AbstractContextManager[None]:
    """Context of a start: with a local copy, the registry must answer within seconds."""
    return (
        registry.with_timeout(STARTUP_TIMEOUT)
        if has_cached_production(settings.model_cache_dir)
        else nullcontext()
    )


def open_current_panel(settings: Settings) -> "Panel":
    """The panel of the current tables; raises ``DataNotFoundError`` before they are prepared."""
    from rossmann.data.make_dataset import current_dataset
    from rossmann.data.panel.panel import open_panel

    return open_panel(current_dataset(settings))


def load_forecaster(settings: Settings, folder: Path, panel: "Panel") -> Forecaster:
    """The version in ``folder`` over ``panel``, warmed up; raises ``CorruptModelError``."""
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
    """The panel's data version as the response model."""
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
    """The data version that a model was trained on, by its card."""
    data = card.get("data", {})
    dataset = str(data.get("dataset", "unknown"))
    known = {name: data[name] for name in DataInfo.model_fields if name in data}
    return DataInfo(
        **{"version": "unknown", **known, "dataset": dataset, "label": data_label(dataset)}
    )


def data_label(dataset: str) -> str:
    """A dataset's name for people."""
    return _LABELS.get(dataset, dataset)
