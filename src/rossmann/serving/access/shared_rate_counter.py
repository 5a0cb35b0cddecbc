"""Counters of calls that all workers of a machine share: a small file in memory, and a lock.

No service, no start-up order: whoever comes first makes the file. Times are of the clock that
nobody can set (it counts from the machine's start), so a clock that is moved changes nothing.
"""

import fcntl
import hashlib
import math
import mmap
import os
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rossmann.errors import SettingsError
from rossmann.logging_config import get_logger
from rossmann.serving.access.rate_limits import RateLimit, WindowUsage

if TYPE_CHECKING:
    from redis.asyncio import Redis

_SLOT: Final = struct.Struct("<16sqII")
"""Who and which limit (a digest), the window's number, calls in the one before and in this one."""
_WAYS: Final = 8
"""Slots in which a caller may be found."""
_SETS: Final = 4096
_SET_BYTES: Final = _SLOT.size * _WAYS
_BYTES: Final = _SET_BYTES * _SETS
_REMEMBERED: Final = 10_000
_MOST: Final = 2**32 - 1
_TRIES: Final = 200


class SharedRateCounter:
    """Counts calls; ``path`` None counts for this process alone."""

    def __init__(
        self,
        limits: Sequence[RateLimit],
        path: Path | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = tuple(limits)
        self._clock = clock
        self._file = -1
        self._map = self._open(path)
        self._homes: dict[str, list[tuple[bytes, int]]] = {}

    def hit(self, who: str, cost: int = 1, force: bool = False) -> tuple[bool, WindowUsage]:
        """Count ``cost`` where every limit allows one more, or by ``force`` in any case.

        Whether they allow it, and the standing with the tightest.
        """
        now = self._clock()
        homes = self._homes.get(who) or self._settle(who)
        self._lock()
        try:
            found = [
                self._find(own, first, limit, now)
                for limit, (own, first) in zip(self._limits, homes, strict=True)
            ]
            refused = [standing for _, standing in found if not standing.allowed]
            if refused and not force:
                return False, max(refused, key=lambda standing: standing.retry_after)
            for (place, standing), (own, _) in zip(found, homes, strict=True):
                window = int(now // standing.limit.period)
                count = min(standing.now + cost, _MOST)
                _SLOT.pack_into(self._map, place, own, window, standing.before, count)
        finally:
            self._unlock()
        counted = [standing._replace(now=standing.now + cost) for _, standing in found]
        return True, min(counted, key=lambda standing: standing.remaining)

    def close(self) -> None:
        """Let go of the file; it stays for the other workers."""
        self._map.close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _settle(self, who: str) -> list[tuple[bytes, int]]:
        """For each limit, the caller's name in the file and the first place to look for it."""
        if len(self._homes) >= _REMEMBERED:
            self._homes.clear()
        homes = []
        for limit in self._limits:
            own = hashlib.blake2b(f"{limit} {who}".encode(), digest_size=16).digest()
            homes.append((own, int.from_bytes(own[:4], "little") % _SETS * _SET_BYTES))
        self._homes[who] = homes
        return homes

    def _find(
        self, own: bytes, first: int, limit: RateLimit, now: float
    ) -> tuple[int, WindowUsage]:
        """The caller's slot, or the one to take, and where the caller stands."""
        window, passed = divmod(now / limit.period, 1)
        oldest, taken = math.inf, first
        for place in range(first, first + _SET_BYTES, _SLOT.size):
            key, then, before, count = _SLOT.unpack_from(self._map, place)
            if key == own:
                if then == window:
                    return place, WindowUsage(limit, passed, before, count)
                # A window that is to come was written before the machine was started anew.
                before = count if then == window - 1 else 0
                return place, WindowUsage(limit, passed, before, 0)
            # Windows are of different lengths: what counts is when they began.
            age = then * limit.period if count else -1
            if age < oldest:
                oldest, taken = age, place
        return taken, WindowUsage(limit, passed, 0, 0)

    def _open(self, path: Path | None) -> mmap.mmap:
        if path is None:
            return mmap.mmap(-1, _BYTES)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            # Room is taken now: to write where a full disk has none would end the process.
            os.posix_fallocate(self._file, 0, _BYTES)
            return mmap.mmap(self._file, _BYTES)
        except OSError as error:
            get_logger("security").warning(
                "each worker counts calls alone", path=str(path), reason=error.strerror
            )
            self._file = -1
            return mmap.mmap(-1, _BYTES)

    def _lock(self) -> None:
        """Wait for the others, but never for one that was stopped: a miscount harms nobody."""
        if self._file < 0:
            return
        for _ in range(_TRIES):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.sched_yield()
            else:
                return

    def _unlock(self) -> None:
        if self._file >= 0:
            fcntl.flock(self._file, fcntl.LOCK_UN)


_PATIENCE: Final = 0.25
"""Seconds that Redis may take."""


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


class RedisRateCounter:
    """Counts calls in one Redis; raises what its client raises."""

    def __init__(self, url: str, limits: Sequence[RateLimit], what: str) -> None:
        self._what = what
        self._limits = tuple(limits)
        self._redis, self.errors = _connect(url)
        self._script = self._redis.register_script(_SCRIPT)
        self._numbers = [n for limit in limits for n in (limit.count, limit.period)]

    async def take(self, who: str, cost: int, force: bool) -> tuple[bool, WindowUsage]:
        """As ``RateFile.take``."""
        keys = [f"rossmann:{self._what}:{{{who}}}:{limit}" for limit in self._limits]
        allowed, *rows = await self._script(keys=keys, args=[cost, int(force), *self._numbers])
        counted = cost if allowed or force else 0
        found = [
            WindowUsage(limit, float(passed), int(before), int(now) + counted)
            for limit, (passed, before, now) in zip(self._limits, rows, strict=True)
        ]
        if allowed or force:
            return True, min(found, key=lambda standing: standing.remaining)
        return False, max(found, key=lambda standing: standing.retry_after)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


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
