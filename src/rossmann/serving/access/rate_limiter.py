"""Where calls are counted: on this machine, or in Redis for several machines.

While Redis is away each machine counts by itself: limits get wider, but nobody is kept waiting,
and nobody is let in without any.
"""

import time
from typing import TYPE_CHECKING, Final, Literal

from rossmann.errors import SettingsError
from rossmann.logging_config import get_logger
from rossmann.serving.access.rate_limits import RateLimit, WindowUsage, parse_rate_limits
from rossmann.serving.access.shared_rate_counter import RedisRateCounter, SharedRateCounter
from rossmann.settings import Settings

if TYPE_CHECKING:
    pass


RateUnit = Literal["calls", "rows"]

_SCHEMES: Final = ("redis://", "rediss://", "unix://")


_PAUSE: Final = 5.0
"""Seconds for which it is not asked again after it did not answer."""


def limits_from_settings(settings: Settings, what: RateUnit) -> tuple[RateLimit, ...]:
    """The limits that hold; raises ``SettingsError`` for limits or an address that cannot be."""
    url = settings.rate_limit_store
    if url and not url.startswith(_SCHEMES):
        raise SettingsError(f"ROSSMANN_RATE_LIMIT_STORE must begin with {', '.join(_SCHEMES)}")
    if what == "rows":
        return parse_rate_limits(settings.rate_limit_rows, "ROSSMANN_RATE_LIMIT_ROWS")
    return parse_rate_limits(settings.rate_limit)


class RateLimiter:
    """The one counter of calls, or of rows; ``on`` is false where nothing is limited."""

    def __init__(self, settings: Settings, what: RateUnit) -> None:
        """Raises ``SettingsError`` for limits or an address that cannot be."""
        limits, url = limits_from_settings(settings, what), settings.rate_limit_store
        self.what = what
        self.on = bool(limits)
        self._ask_again = 0.0
        # One worker shares with nobody, and needs no lock.
        many = self.on and settings.workers > 1
        path = settings.run_dir / f"rates-{what}-{settings.api_port}.bin" if many else None
        self._here = SharedRateCounter(limits, path) if self.on else None
        self._there = RedisRateCounter(url, limits, what) if self.on and url else None

    async def hit(self, who: str, cost: int = 1, force: bool = False) -> tuple[bool, WindowUsage]:
        """As ``RateFile.take``, for all who share the count."""
        assert self._here is not None, "nothing is limited"
        if self._there is not None and time.monotonic() >= self._ask_again:
            try:
                return await self._there.take(who, cost, force)
            except self._there.errors as error:
                self._ask_again = time.monotonic() + _PAUSE
                # Not its text: it may hold the address with its password.
                get_logger("security").warning(
                    "Redis does not count calls: this machine does", reason=type(error).__name__
                )
        return self._here.hit(who, cost, force)

    async def close(self) -> None:
        """Let go of the file and of Redis."""
        if self._here is not None:
            self._here.close()
        if self._there is not None:
            await self._there.close()
