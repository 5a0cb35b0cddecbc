"""The parts of an experiment together, as the settings ask for them."""

from dataclasses import dataclass

from rossmann.serving.experiment import Experiment
from rossmann.serving.journal import Journal
from rossmann.serving.metrics import Metrics
from rossmann.serving.shadow import Shadow
from rossmann.serving.versions import Versions
from rossmann.settings import Settings


@dataclass(frozen=True, slots=True)
class Trial:
    """An experiment that runs; ``shadow`` where the challenger works behind the answers."""

    experiment: Experiment
    shadow: Shadow | None

    def start(self) -> None:
        """Begin to work."""
        if self.shadow is not None:
            self.shadow.start()

    def close(self) -> None:
        """End, after some seconds at most."""
        if self.shadow is not None:
            self.shadow.close()


def open_trial(
    settings: Settings, versions: Versions, journal: Journal, metrics: Metrics
) -> Trial | None:
    """The experiment that the settings ask for, its challenger looked for with every poll."""
    if settings.experiment == "off":
        return None
    experiment = Experiment(settings, versions)
    versions.after_each_poll(experiment.look)
    shadows = experiment.mode == "shadow"
    return Trial(experiment, Shadow(experiment, journal, metrics) if shadows else None)
