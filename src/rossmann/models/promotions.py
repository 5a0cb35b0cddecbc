"""What a promotion writes down, and which version a rollback goes to: plain values, no server."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

Action = Literal["promote", "rollback"]
_REMEMBERED = 100
"""How many rollbacks in a row stay possible."""


@dataclass(frozen=True, slots=True)
class Promotion:
    """One move of Production, stored on the version that it brings in *before* the move.

    So one step, the alias, decides whether it happened, and a kill at any point leaves the
    registry whole. ``below``: the versions that served before, the latest first; a rollback goes
    to its head and leaves the rest below.
    """

    id: str
    action: Action
    version: int
    left: int | None
    at: str
    who: str
    why: str
    below: tuple[int, ...]

    def text(self) -> str:
        """As JSON, for a tag."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str | None) -> "Promotion | None":
        """From a tag; None where there is none, or somebody wrote something else there."""
        try:
            fields = json.loads(text or "")
            return cls(**{**fields, "below": tuple(int(v) for v in fields["below"])})
        except (ValueError, TypeError, KeyError):
            return None


def _begin(
    action: Action, version: int, left: int | None, who: str, why: str, below: Iterable[int]
) -> Promotion:
    now = datetime.now(UTC)
    kept = tuple(below)[:_REMEMBERED]
    # Part of a tag's name, which may hold no "+"; sorts by time.
    name = f"{now:%Y%m%dT%H%M%S.%f}Z.{version}"
    return Promotion(name, action, version, left, now.isoformat(), who, why, kept)


def promotion(
    version: int, left: int | None, before: Promotion | None, who: str, why: str
) -> Promotion:
    """``version`` replaces ``left`` (None: nothing served), which had come in by ``before``."""
    below = () if left is None else (left, *(before.below if before else ()))
    return _begin("promote", version, left, who, why, below)


def rollback(
    left: int, before: Promotion | None, there: Mapping[int, object], who: str, why: str
) -> Promotion | None:
    """Back to the version that served before ``left``; None where there is none to go to.

    Versions that were deleted since (not in ``there``) are passed over.
    """
    below = [v for v in (before.below if before else ()) if v in there]
    while below and below[0] == left:  # what lay between is gone
        below.pop(0)
    if not below:
        return None
    return _begin("rollback", below[0], left, who, why, below[1:])
