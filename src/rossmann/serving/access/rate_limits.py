"""How often a caller may call: the words of the setting, and the sum that all counters do.

A window slides: of the calls in the window before, as many still count as lie within the last
period if they came evenly. So nobody gets twice the limit where one window ends and the next
begins, and a caller costs two numbers, not one for each call.
"""

import math
import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from rossmann.errors import RateLimitError, SettingsError

_PERIODS: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_LIMIT: Final = re.compile(r"(\d{1,9})\s*(?:/|per)\s*(second|minute|hour|day)s?\Z")
_MOST: Final = 4


@dataclass(frozen=True, slots=True)
class RateLimit:
    """``count`` calls in any ``period`` (seconds)."""

    count: int
    period: int

    def __str__(self) -> str:
        words = {seconds: word for word, seconds in _PERIODS.items()}
        return f"{self.count}/{words[self.period]}"


def parse_rate_limits(text: str, setting: str = "ROSSMANN_RATE_LIMIT") -> tuple[RateLimit, ...]:
    """From such as ``20/second, 600/minute``; empty is no limit. Raises ``SettingsError``."""
    found = []
    for part in filter(None, map(str.strip, text.lower().split(","))):
        match = _LIMIT.match(part)
        if match is None or int(match[1]) == 0:
            raise SettingsError(f"{setting}: {part[:40]!r} must be such as 20/second or 600/minute")
        found.append(RateLimit(int(match[1]), _PERIODS[match[2]]))
    if len(found) > _MOST:
        raise SettingsError(f"{setting}: at most {_MOST} limits")
    return tuple(found)


class WindowUsage(NamedTuple):
    """Where a caller stands with one limit.

    ``passed``: the share of the window that is over; ``before`` and ``now``: calls (or rows) that
    were let in in the window before and in this one.
    """

    limit: RateLimit
    passed: float
    before: int
    now: int

    @property
    def used(self) -> float:
        """Calls in the last period."""
        return self.before * (1 - self.passed) + self.now

    @property
    def allowed(self) -> bool:
        """Whether one more call may come in."""
        return self.used + 1 <= self.limit.count

    @property
    def remaining(self) -> int:
        """Calls that may still come in at once."""
        return max(0, math.floor(self.limit.count - self.used))

    @property
    def retry_after(self) -> float:
        """Seconds until one call may come in, if none does meanwhile."""
        if self.allowed:
            return 0.0
        room = self.limit.count - 1
        if self.now <= room:  # enough of the window before slides out within this one
            share = 1 - (room - self.now) / self.before
            return (share - self.passed) * self.limit.period
        return (1 - self.passed + 1 - room / self.now) * self.limit.period

    def headers(self) -> list[tuple[bytes, bytes]]:
        """For the answer: how many calls there are, how many are left, when the window ends."""
        ends = math.ceil((1 - self.passed) * self.limit.period)
        return [
            (b"ratelimit-limit", b"%d" % self.limit.count),
            (b"ratelimit-remaining", b"%d" % self.remaining),
            (b"ratelimit-reset", b"%d" % ends),
        ]

    def to_error(self, what: str) -> RateLimitError:
        """What the caller is told; ``what`` is counted, in the plural."""
        seconds = max(1, math.ceil(self.retry_after))
        msg = f"over the rate of {self.limit} ({what}): try again in {seconds} s"
        return RateLimitError(msg, seconds)
