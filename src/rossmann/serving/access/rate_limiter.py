"""Rate limiter: counts calls or rows on this machine, or in Redis for several machines.

While Redis is unreachable each machine counts by itself: the limits are wider then, but no call
waits, and none goes unlimited.
"""

import time
from typing import Final, Literal

from rossmann.errors import SettingsError
from rossmann.logging_config import get_logger
from rossmann.serving.access.rate_limits import RateLimit, WindowUsage, parse_rate_limits
from rossmann.serving.access.shared_rate_counter import RedisRateCounter, SharedRateCounter
from rossmann.settings import Settings

RateUnit = Literal["calls", "rows"]

_SCHEMES: Final = ("redis://", "rediss://", "unix://")
_REDIS_COOLDOWN: Final = 5.0
"""Seconds without a call to Redis after it failed."""


def limits_from_settings(settings: Settings, unit: RateUnit) -> tuple[RateLimit, ...]:
    """The limits in force; raises ``SettingsError`` for invalid limits or an invalid address."""
    url = settings.rate_limit_store
    if url and not url.startswith(_SCHEMES):
        raise SettingsError(f"ROSSMANN_RATE_LIMIT_STORE must begin with {', '.join(_SCHEMES)}")
    if unit == "rows":
        return parse_rate_limits(settings.rate_limit_rows, "ROSSMANN_RATE_LIMIT_ROWS")
    return parse_rate_limits(settings.rate_limit)


class RateLimiter:
    """Limits calls or rows of each caller; ``enabled`` is false where no limit is set."""

    def __init__(self, settings: Settings, unit: RateUnit) -> None:
        """Raises ``SettingsError`` for invalid limits or an invalid address."""
        limits, url = limits_from_settings(settings, unit), settings.rate_limit_store
        self.enabled = bool(limits)
        self._redis_retry_at = 0.0
        # A single worker shares with no other process, and needs no lock.
        is_shared = self.enabled and settings.workers > 1
        path = settings.run_dir / f"rates-{unit}-{settings.api_port}.bin" if is_shared else None
        self._local = SharedRateCounter(limits, path) if self.enabled else None
        self._redis = RedisRateCounter(url, limits, unit) if self.enabled and url else None

    async def hit(
        self, caller: str, cost: int = 1, force: bool = False
    ) -> tuple[bool, WindowUsage]:
        """As ``SharedRateCounter.hit``, in Redis where it answers."""
        assert self._local is not None, "nothing is limited"
        if self._redis is not None and time.monotonic() >= self._redis_retry_at:
            try:
                return await self._redis.hit(caller, cost, force)
            except self._redis.errors as error:
                self._redis_retry_at = time.monotonic() + _REDIS_COOLDOWN
                # Not the error's text: it may hold the address with its password.
                get_logger("security").warning(
                    "Redis does not count calls: this machine does", reason=type(error).__name__
                )
        return self._local.hit(caller, cost, force)

    async def close(self) -> None:
        """Close the shared file and the connections to Redis."""
        if self._local is not None:
            self._local.close()
        if self._redis is not None:
            await self._redis.close()
