"""Rate limiter: counts calls or rows on this machine, or in Redis for several machines.

While Redis is unreachable each machine counts by itself: the limits are wider then, but no call
waits, and none goes unlimited.

The workers of a machine share a memory-mapped file. It needs no server and no start-up order: the
first worker creates it. Its times are of the monotonic clock, so a change of the system time has no
effect. The Redis half is our own script because the ``limits`` package neither hits several limits
in one atomic call nor counts a cost above the limit, as the rows of one large file need.
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
from typing import TYPE_CHECKING, Final, Literal

from rossmann.errors import SettingsError
from rossmann.installation import install_command
from rossmann.logging_config import get_logger
from rossmann.serving.access.rate_limits import RateLimit, WindowUsage, parse_rate_limits
from rossmann.settings import Settings

if TYPE_CHECKING:
    from redis.asyncio import Redis

RateUnit = Literal["calls", "rows"]

_SCHEMES: Final = ("redis://", "rediss://", "unix://")
_REDIS_COOLDOWN: Final = 5.0
"""Seconds without a call to Redis after it failed."""
_SLOT: Final = struct.Struct("<16sqII")
"""Digest of caller and limit, number of the window, counts of the window before and of this one."""
_WAYS: Final = 8
"""Slots in which a caller may be stored: the file is a set-associative cache."""
_SETS: Final = 4096
_SET_BYTES: Final = _SLOT.size * _WAYS
_FILE_BYTES: Final = _SET_BYTES * _SETS
_MAX_CACHED_CALLERS: Final = 10_000
_MAX_COUNT: Final = 2**32 - 1
_LOCK_ATTEMPTS: Final = 200
_PARTS: Final = 1_000
"""Parts of a limit in which rows are counted."""


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


class RowLimiter:
    """Limits the forecast rows of each caller; ``enabled`` is false where no limit is set.

    The rows are counted in parts: a call counts a thousandth of the limit more than its own rows,
    and the rows of the caller's next calls are taken from that in this process. So a call costs a
    microsecond. Each worker may count a thousandth too much, or count it in a period before.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises ``SettingsError`` for invalid limits or an invalid address."""
        self._counter = RateLimiter(settings, "rows")
        self.enabled = self._counter.enabled
        limits = limits_from_settings(settings, "rows")
        self._part = min((limit.count for limit in limits), default=0) // _PARTS
        self._counted: dict[str, int] = {}

    async def check(self, caller: str) -> WindowUsage | None:
        """The caller's usage where no row is left; None where one is."""
        if self._counted.get(caller):
            return None
        allowed, usage = await self._counter.hit(caller, 0)
        return None if allowed else usage

    async def reserve(self, caller: str, rows: int) -> WindowUsage | None:
        """Count the rows of a call where one is left, whatever their number; else the usage.

        A file may hold more than an hour's rows.
        """
        left = self._counted.get(caller, 0)
        if rows <= left:
            self._counted[caller] = left - rows
            return None
        if left:  # beyond the limit no further part may be counted
            self._counted[caller] = 0
            await self._counter.hit(caller, rows - left, force=True)
            return None
        allowed, usage = await self._counter.hit(caller, rows + self._part)
        if not allowed:
            return usage
        if self._part and usage.remaining:
            if len(self._counted) >= _MAX_CACHED_CALLERS:
                self._counted.clear()
            self._counted[caller] = self._part
        elif self._part:
            await self.adjust(caller, -self._part)
        return None

    async def adjust(self, caller: str, rows: int) -> None:
        """Count further rows of a call, or with a negative number fewer."""
        await self._counter.hit(caller, rows, force=True)

    async def close(self) -> None:
        """Close connections and files."""
        await self._counter.close()


class SharedRateCounter:
    """Counts calls in a shared file; with ``path`` None in the memory of this process."""

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
        self._slots: dict[str, list[tuple[bytes, int]]] = {}

    def hit(self, caller: str, cost: int = 1, force: bool = False) -> tuple[bool, WindowUsage]:
        """Count ``cost`` where every limit allows one more call, or in any case with ``force``.

        A negative ``cost`` gives back what was counted.
        Gives whether it was counted, and the usage of the tightest limit.
        """
        now = self._clock()
        slots = self._slots.get(caller) or self._locate(caller)
        self._lock()
        try:
            entries = [
                self._find(key, start, limit, now)
                for limit, (key, start) in zip(self._limits, slots, strict=True)
            ]
            exceeded = [usage for _, usage in entries if not usage.allowed]
            if exceeded and not force:
                return False, max(exceeded, key=lambda usage: usage.retry_after)
            for (offset, usage), (key, _) in zip(entries, slots, strict=True):
                window = int(now // usage.limit.period)
                count = min(max(usage.current + cost, 0), _MAX_COUNT)
                _SLOT.pack_into(self._map, offset, key, window, usage.previous, count)
        finally:
            self._unlock()
        counted = [usage._replace(current=max(usage.current + cost, 0)) for _, usage in entries]
        return True, min(counted, key=lambda usage: usage.remaining)

    def close(self) -> None:
        """Close the file; it stays for the other workers."""
        self._map.close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _locate(self, caller: str) -> list[tuple[bytes, int]]:
        """For each limit, the caller's key in the file and the offset of its set of slots."""
        if len(self._slots) >= _MAX_CACHED_CALLERS:
            self._slots.clear()
        slots = []
        for limit in self._limits:
            key = hashlib.blake2b(f"{limit} {caller}".encode(), digest_size=16).digest()
            slots.append((key, int.from_bytes(key[:4], "little") % _SETS * _SET_BYTES))
        self._slots[caller] = slots
        return slots

    def _find(
        self, key: bytes, start: int, limit: RateLimit, now: float
    ) -> tuple[int, WindowUsage]:
        """Offset of the caller's slot, or of the one to overwrite, and the caller's usage."""
        window, elapsed = divmod(now / limit.period, 1)
        oldest, free = math.inf, start
        for offset in range(start, start + _SET_BYTES, _SLOT.size):
            stored, stored_window, previous, count = _SLOT.unpack_from(self._map, offset)
            if stored == key:
                if stored_window == window:
                    return offset, WindowUsage(limit, elapsed, previous, count)
                # A window of the future was written before the machine was restarted.
                previous = count if stored_window == window - 1 else 0
                return offset, WindowUsage(limit, elapsed, previous, 0)
            # Windows have different lengths, so the start times are compared.
            started = stored_window * limit.period if count else -1
            if started < oldest:
                oldest, free = started, offset
        return free, WindowUsage(limit, elapsed, 0, 0)

    def _open(self, path: Path | None) -> mmap.mmap:
        if path is None:
            return mmap.mmap(-1, _FILE_BYTES)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            # Allocated now: a write to a mapped file on a full disk would end the process.
            os.posix_fallocate(self._file, 0, _FILE_BYTES)
            return mmap.mmap(self._file, _FILE_BYTES)
        except OSError as error:
            get_logger("security").warning(
                "each worker counts calls alone", path=str(path), reason=error.strerror
            )
            self._file = -1
            return mmap.mmap(-1, _FILE_BYTES)

    def _lock(self) -> None:
        """Wait for other workers, but not for a stopped one: a small miscount is acceptable."""
        if self._file < 0:
            return
        for _ in range(_LOCK_ATTEMPTS):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.sched_yield()
            else:
                return

    def _unlock(self) -> None:
        if self._file >= 0:
            fcntl.flock(self._file, fcntl.LOCK_UN)


_REDIS_TIMEOUT: Final = 0.25
"""Seconds for a step of a call to Redis."""
_MAX_CONNECTIONS: Final = 16
_SCRIPT: Final = """
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local cost, force = tonumber(ARGV[1]), tonumber(ARGV[2])
local usages, allowed = {}, true
for i, key in ipairs(KEYS) do
  local count, period = tonumber(ARGV[2 * i + 1]), tonumber(ARGV[2 * i + 2])
  local window = math.floor(now / period)
  local elapsed = now / period - window
  local stored = redis.call('HMGET', key, 'window', 'before', 'now')
  local last = tonumber(stored[1])
  local previous, current = tonumber(stored[2]) or 0, tonumber(stored[3]) or 0
  if last ~= window then
    previous = (last == window - 1) and current or 0
    current = 0
  end
  if previous * (1 - elapsed) + current + 1 > count then allowed = false end
  usages[i] = {window, tostring(elapsed), previous, current, period}
end
local reply = {allowed and 1 or 0}
for i, key in ipairs(KEYS) do
  local u = usages[i]
  if cost ~= 0 and (allowed or force == 1) then
    redis.call('HSET', key, 'window', u[1], 'before', u[3], 'now', math.max(u[4] + cost, 0))
    redis.call('EXPIRE', key, 2 * u[5])
  end
  reply[i + 1] = {u[2], u[3], u[4]}
end
return reply
"""
"""``SharedRateCounter.hit`` in Lua; the fields of the hash are shared with running services."""


class RedisRateCounter:
    """Counts calls in Redis; raises one of ``errors`` while it is unreachable."""

    def __init__(self, url: str, limits: Sequence[RateLimit], unit: str) -> None:
        self._unit = unit
        self._limits = tuple(limits)
        self._redis, self.errors = _connect(url)
        self._script = self._redis.register_script(_SCRIPT)
        self._limit_args = [n for limit in limits for n in (limit.count, limit.period)]

    async def hit(self, caller: str, cost: int, force: bool) -> tuple[bool, WindowUsage]:
        """As ``SharedRateCounter.hit``."""
        keys = [f"rossmann:{self._unit}:{{{caller}}}:{limit}" for limit in self._limits]
        allowed, *rows = await self._script(keys=keys, args=[cost, int(force), *self._limit_args])
        counted = cost if allowed or force else 0
        usages = [
            WindowUsage(limit, float(elapsed), int(previous), max(int(current) + counted, 0))
            for limit, (elapsed, previous, current) in zip(self._limits, rows, strict=True)
        ]
        if allowed or force:
            return True, min(usages, key=lambda usage: usage.remaining)
        return False, max(usages, key=lambda usage: usage.retry_after)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


def _connect(url: str) -> tuple["Redis", tuple[type[Exception], ...]]:
    """A client that connects at its first call, and the errors of an unreachable Redis."""
    try:
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import RedisError
    except ImportError as error:
        raise SettingsError(
            f"ROSSMANN_RATE_LIMIT_STORE needs the redis package: {install_command('redis')}"
        ) from error
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=_MAX_CONNECTIONS,
        timeout=_REDIS_TIMEOUT,
        socket_timeout=_REDIS_TIMEOUT,
        socket_connect_timeout=_REDIS_TIMEOUT,
        retry=Retry(NoBackoff(), 0),
    )
    return Redis.from_pool(pool), (RedisError, OSError, TimeoutError)
