"""Takes over a new data version while the service runs: opened beside, then swapped."""

from collections.abc import Callable
from pathlib import Path

from rossmann.data.make_dataset import DatasetInfo, current_dataset
from rossmann.data.panel.panel import Panel, open_panel
from rossmann.errors import DataNotFoundError, RossmannError
from rossmann.logging_config import get_logger
from rossmann.models.inference.forecaster import Forecaster
from rossmann.serving.runtime.version_manager import VersionManager
from rossmann.settings import Settings


class DataReloader:
    """Looks for a data version that is ready, and moves all versions of the model over to it.

    ``make``: loads a version over a panel. ``warm``: answers once; raises what refuses the panel.
    """

    def __init__(
        self,
        settings: Settings,
        versions: VersionManager,
        panel: "Panel",
        make: Callable[[Path, "Panel"], Forecaster],
        warm: Callable[[Forecaster, "Panel"], None],
    ) -> None:
        self._settings = settings
        self._versions = versions
        self._now = panel.info
        self._make = make
        self._warm = warm
        self._refused = ""
        self._logger = get_logger("data")

    def reload_if_changed(self) -> None:
        """Take over the data version of the tables in use, once its arrays are built.

        Only one of the same chain: a model of the demo chain must not come to answer about the
        real one because its tables were put there.
        """
        panel = self._ready()
        if panel is None:
            return
        try:
            self._versions.replace_panel(
                lambda folder: self._make(folder, panel), lambda old: self._moved(old, panel)
            )
        except RossmannError as error:
            self._refused = panel.info.version
            self._logger.warning("data refused", version=self._refused, reason=str(error))
            return
        self._now = panel.info
        last_day = panel.info.last_day.isoformat()
        self._logger.info("data in service", version=panel.info.version, last_day=last_day)

    def _ready(self) -> Panel | None:
        try:
            info: DatasetInfo = current_dataset(self._settings)
            if info.version in {self._now.version, self._refused}:
                return None
            return open_panel(info) if info.dataset == self._now.dataset else None
        except DataNotFoundError:
            # Tables that changed but are not prepared yet: what was made before goes on.
            return None

    def _moved(self, old: Forecaster, panel: "Panel") -> Forecaster:
        new = old.with_panel(panel)
        self._warm(new, panel)
        return new
