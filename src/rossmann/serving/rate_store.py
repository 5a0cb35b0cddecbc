"""Where calls are counted: on this machine, or in Redis for several machines.

While Redis is away each machine counts by itself: limits get wider, but nobody is kept waiting,
and nobody is let in without any.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

from rossmann.errors import SettingsError
from rossmann.logs import get_logger
from rossmann.serving.rate_file import RateFile
from rossmann.serving.rates import Limit, Standing, parse_limits
from rossmann.settings import Settings

if TYPE_CHECKING:
    from redis.asyncio import Redis

What = Literal["calls", "rows"]

_SCHEMES: Final = ("redis://", "rediss://", "unix://")
_PATIENCE: Final = 0.25
"""Seconds that Redis may take."""
_PAUSE: Final = 5.0
"""Seconds for which it is not asked again after it did not answer."""
_CONNECTIONS: Final = 16
_SCRIPT: Final = """
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local cost, force = tonumber(ARGV[1]), tonumber(ARGV[2])
local found, allowed = {}, true
for i, key in ipairs(KEYS) do
  local count, period = tonumber(ARGV[2 * i + 1]), tonumber(ARGV[2 * i + 2])
  local window = math.floor(now / period)
  local passed = now / period - window
  local kept = redis.call('HMGET', key, 'window', 'before', 'now')
  local last, before, used = tonumber(kept[1]), tonumber(kept[2]) or 0, tonumber(kept[3]) or 0
  if last ~= window then
    before = (last == window - 1) and used or 0
    used = 0
  end
  if before * (1 - passed) + used + 1 > count then allowed = false end
  found[i] = {window, tostring(passed), before, used, period}
end
local told = {allowed and 1 or 0}
for i, key in ipairs(KEYS) do
  local f = found[i]
  if cost > 0 and (allowed or force == 1) then
    redis.call('HSET', key, 'window', f[1], 'before', f[3], 'now', f[4] + cost)
    redis.call('EXPIRE', key, 2 * f[5])
  end
  told[i + 1] = {f[2], f[3], f[4]}
end
return told
"""


def limits_of(settings: Settings, what: What) -> tuple[Limit, ...]:
    """The limits that hold; raises ``SettingsError`` for limits or an address that cannot be."""
    url = settings.rate_limit_store
    if url and not url.startswith(_SCHEMES):
        raise SettingsError(f"ROSSMANN_RATE_LIMIT_STORE must begin with {', '.join(_SCHEMES)}")
    if what == "rows":
        return parse_limits(settings.rate_limit_rows, "ROSSMANN_RATE_LIMIT_ROWS")
    return parse_limits(settings.rate_limit)


class RedisCounter:
    """Counts calls in one Redis; raises what its client raises."""

    def __init__(self, url: str, limits: Sequence[Limit], what: str) -> None:
        self._what = what
        self._limits = tuple(limits)
        self._redis, self.errors = _connect(url)
        self._script = self._redis.register_script(_SCRIPT)
        self._numbers = [n for limit in limits for n in (limit.count, limit.period)]

    async def take(self, who: str, cost: int, force: bool) -> tuple[bool, Standing]:
        """As ``RateFile.take``."""
        keys = [f"rossmann:{self._what}:{{{who}}}:{limit}" for limit in self._limits]
        allowed, *rows = await self._script(keys=keys, args=[cost, int(force), *self._numbers])
        counted = cost if allowed or force else 0
        found = [
            Standing(limit, float(passed), int(before), int(now) + counted)
            for limit, (passed, before, now) in zip(self._limits, rows, strict=True)
        ]
        if allowed or force:
            return True, min(found, key=lambda standing: standing.left)
        return False, max(found, key=lambda standing: standing.wait)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


class Limiter:
    """The one counter of calls, or of rows; ``on`` is false where nothing is limited."""

    def __init__(self, settings: Settings, what: What) -> None:
        """Raises ``SettingsError`` for limits or an address that cannot be."""
        limits, url = limits_of(settings, what), settings.rate_limit_store
        self.what = what
        self.on = bool(limits)
        self._ask_again = 0.0
        # One worker shares with nobody, and needs no lock.
        many = self.on and settings.workers > 1
        path = settings.run_dir / f"rates-{what}-{settings.api_port}.bin" if many else None
        self._here = RateFile(limits, path) if self.on else None
        self._there = RedisCounter(url, limits, what) if self.on and url else None

    async def take(self, who: str, cost: int = 1, force: bool = False) -> tuple[bool, Standing]:
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
        return self._here.take(who, cost, force)

    async def close(self) -> None:
        """Let go of the file and of Redis."""
        if self._here is not None:
            self._here.close()
        if self._there is not None:
            await self._there.close()


def _connect(url: str) -> tuple["Redis", tuple[type[Exception], ...]]:
    """The client, which connects at the first call, and what it raises while Redis is away."""
    try:
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import RedisError
    except ImportError as error:
        raise SettingsError(
            "ROSSMANN_RATE_LIMIT_STORE needs the redis package: pip install 'rossmann[redis]'"
        ) from error
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=_CONNECTIONS,
        timeout=_PATIENCE,
        socket_timeout=_PATIENCE,
        socket_connect_timeout=_PATIENCE,
        retry=Retry(NoBackoff(), 0),
    )
    return Redis.from_pool(pool), (RedisError, OSError, TimeoutError)
