"""The Production version's own backtest forecasts of past days: what it forecast unseen.

They are stored with the version in the registry. The thread that polls the registry loads them,
so that no request waits for it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from rossmann.errors import ModelError, ServiceError
from rossmann.logging_config import get_logger
from rossmann.models.gate.backtest_predictions import BacktestPredictions, NewestForecasts
from rossmann.models.inference.row_warnings import NO_TRAINING
from rossmann.serving.runtime.registry_view import LoadedVersion, VersionKey
from rossmann.serving.runtime.version_manager import VersionManager

_RETRY_SECONDS: Final = 60.0
"""Seconds until the registry is asked again after it failed to answer."""


@dataclass(frozen=True, slots=True)
class VersionBacktest:
    """A version's number and its backtest forecasts."""

    version: int
    forecasts: NewestForecasts


class BacktestForecasts:
    """Holds the backtest of the Production version; ``load`` reads that of a version.

    ``load`` may raise ``ModelError`` where there is none that can be used, ``ServiceError`` where
    the registry does not answer, and ``OSError``.
    """

    def __init__(
        self, versions: VersionManager, load: Callable[[LoadedVersion], BacktestPredictions]
    ) -> None:
        self._versions = versions
        self._load = load
        self._loaded: tuple[VersionKey, VersionBacktest | None] | None = None
        self._retry_at = 0.0
        self._logger = get_logger("backtest")

    def current(self) -> VersionBacktest | None:
        """The backtest of the version that answers as Production, if it is loaded; never blocks."""
        production, loaded = self._versions.production, self._loaded
        if production is None or loaded is None or loaded[0] != production.key:
            return None
        return loaded[1]

    def refresh(self) -> None:
        """Load the backtest of a new Production version; for one thread."""
        production = self._versions.production
        if production is None or (self._loaded is not None and self._loaded[0] == production.key):
            return
        if self._versions.registry_unreachable or time.monotonic() < self._retry_at:
            return
        try:
            backtest = self._read(production)
        except ModelError as error:
            self._logger.info(
                "no backtest forecasts", version=production.version, reason=str(error)
            )
            backtest = None
        except (ServiceError, OSError) as error:
            self._logger.info(
                "no backtest forecasts", version=production.version, reason=str(error)
            )
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            return
        self._loaded = production.key, backtest

    def _read(self, version: LoadedVersion) -> VersionBacktest | None:
        if version.forecaster.training_span == NO_TRAINING:
            return None  # its backtest is of another chain
        return VersionBacktest(version.version, NewestForecasts(self._load(version)))
