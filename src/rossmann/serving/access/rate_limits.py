"""Rate limits: parsing of the setting, and the sliding-window count with its response headers.

The window slides: the count of the window before is weighted by the share of it that still lies
within the last period, as if its calls had come evenly. A caller cannot get twice the limit
around the end of a window, and costs two numbers instead of one for each call.
"""

import math
import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from rossmann.errors import RateLimitError, SettingsError

_PERIODS: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_LIMIT: Final = re.compile(r"(\d{1,9})\s*(?:/|per)\s*(second|minute|hour|day)s?\Z")
_MAX_LIMITS: Final = 4


@dataclass(frozen=True, slots=True)
class RateLimit:
    """``count`` calls in any ``period`` (seconds)."""

    count: int
    period: int

    def __str__(self) -> str:
        names = {seconds: name for name, seconds in _PERIODS.items()}
        return f"{self.count}/{names[self.period]}"


def parse_rate_limits(text: str, setting: str = "ROSSMANN_RATE_LIMIT") -> tuple[RateLimit, ...]:
    """From such as ``20/second, 600/minute``; empty or ``none`` is no limit.

    Raises ``SettingsError``.
    """
    limits: list[RateLimit] = []
    if text.strip().lower() == "none":
        return ()
    for part in filter(None, map(str.strip, text.lower().split(","))):
        match = _LIMIT.match(part)
        if match is None or int(match[1]) == 0:
            raise SettingsError(f"{setting}: {part[:40]!r} must be such as 20/second or 600/minute")
        limits.append(RateLimit(int(match[1]), _PERIODS[match[2]]))
    if len(limits) > _MAX_LIMITS:
        raise SettingsError(f"{setting}: at most {_MAX_LIMITS} limits")
    return tuple(limits)


class WindowUsage(NamedTuple):
    """Usage of one limit by one caller.

    ``elapsed``: share of the current window that is over; ``previous`` and ``current``: calls (or
    rows) that were counted in the window before and in this one.
    """

    limit: RateLimit
    elapsed: float
    previous: int
    current: int

    @property
    def used(self) -> float:
        """Calls in the last period."""
        return self.previous * (1 - self.elapsed) + self.current

    @property
    def allowed(self) -> bool:
        """Whether one more call is within the limit."""
        return self.used + 1 <= self.limit.count

    @property
    def remaining(self) -> int:
        """Calls that are within the limit now."""
        return max(0, math.floor(self.limit.count - self.used))

    @property
    def retry_after(self) -> float:
        """Seconds until one call is allowed, if none is counted until then."""
        if self.allowed:
            return 0.0
        room = self.limit.count - 1
        if self.current <= room:  # the window before slides out far enough within this one
            share = 1 - (room - self.current) / self.previous
            return (share - self.elapsed) * self.limit.period
        return (1 - self.elapsed + 1 - room / self.current) * self.limit.period

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Response headers: the limit, the calls that remain, the seconds to the window's end."""
        reset = math.ceil((1 - self.elapsed) * self.limit.period)
        return [
            (b"ratelimit-limit", b"%d" % self.limit.count),
            (b"ratelimit-remaining", b"%d" % self.remaining),
            (b"ratelimit-reset", b"%d" % reset),
        ]

    def to_error(self, unit: str) -> RateLimitError:
        """The error for a refused call; ``unit`` is what is counted, in the plural."""
        seconds = max(1, math.ceil(self.retry_after))
        msg = f"over the rate of {self.limit} ({unit}): try again in {seconds} s"
        return RateLimitError(msg, seconds)
