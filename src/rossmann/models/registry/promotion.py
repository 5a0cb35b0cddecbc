"""What a promotion writes down, and which version a rollback goes to: plain values, no server.

MERGED: Who may move Production next: a claim that only one of several can win.

MLflow has no compare-and-swap: an alias is moved by whoever writes last. But it refuses to create a
registered model whose name is taken, in one transaction of its database. So a move begins with
creating a model that is named after the state it starts from; who fails to create it was second.
The winner then looks whether that state still holds, moves the alias, and deletes the claim.

A claim whose owner died must not block for ever. On the owner's machine its process is seen to be
gone; elsewhere a claim lapses after ``LEASE_SECONDS``. Then the next claim has the next number,
again won by one alone. An owner that was held up for half a lease gives up before it moves.
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from rossmann.errors import PromotionConflictError, RossmannError, ServiceError
from rossmann.filesystem.process_identity import ProcessIdentity
from rossmann.models.registry.mlflow_rest import Json, MlflowRest

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
    replaced: int | None
    at: str
    who: str
    why: str
    previous_versions: tuple[int, ...]

    def to_json(self) -> str:
        """As JSON, for a tag."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | None) -> "Promotion | None":
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


def new_promotion(
    version: int, left: int | None, before: Promotion | None, who: str, why: str
) -> Promotion:
    """``version`` replaces ``left`` (None: nothing served), which had come in by ``before``."""
    below = () if left is None else (left, *(before.previous_versions if before else ()))
    return _begin("promote", version, left, who, why, below)


def new_rollback(
    left: int, before: Promotion | None, there: Mapping[int, object], who: str, why: str
) -> Promotion | None:
    """Back to the version that served before ``left``; None where there is none to go to.

    Versions that were deleted since (not in ``there``) are passed over.
    """
    below = [v for v in (before.previous_versions if before else ()) if v in there]
    while below and below[0] == left:  # what lay between is gone
        below.pop(0)
    if not below:
        return None
    return _begin("rollback", below[0], left, who, why, below[1:])


LEASE_SECONDS: Final = 120.0
_MARK: Final = ".claim."
_OWNER_TAG: Final = "owner"
_PAGE: Final = 1000


class Lease:
    """A claim that was won; ask it right before each step that may not come late."""

    def __init__(self) -> None:
        self._won = time.monotonic()

    def raise_if_stale(self) -> None:
        """Raise ``LostRace`` where the claim is so old that another may soon take it over."""
        if time.monotonic() - self._won > LEASE_SECONDS / 2:
            raise PromotionConflictError(
                "the move was held up for so long that another may begin; try again"
            )


class PromotionLock:
    """The claims on one model's Production alias."""

    def __init__(self, rest: MlflowRest, name: str) -> None:
        self._rest = rest
        self._prefix = f"{name}{_MARK}"
        self._owner = ProcessIdentity.current()

    @contextmanager
    def acquire(self, state: str) -> Iterator[Lease]:
        """Claim the move that starts from ``state``; given back when the block ends.

        Raises ``LostRace`` where somebody else makes that move.
        """
        number = 1
        while not self._create(self._name(state, number)):
            self._refuse_unless_lapsed(self._name(state, number))
            number += 1
        claim = Lease()
        self._sweep(state)
        try:
            yield claim
        except RossmannError:
            with suppress(ServiceError):  # away: the claim lapses
                self._give_back(state, number)
            raise
        self._give_back(state, number)

    def _give_back(self, state: str, number: int) -> None:
        for past in range(number, 0, -1):
            self._delete(self._name(state, past))

    def _name(self, state: str, number: int) -> str:
        return f"{self._prefix}{state}.{number}"

    def _create(self, name: str) -> bool:
        tags = [{"key": _OWNER_TAG, "value": self._owner.to_json()}]
        what = "Somebody moves Production now; removed when that is done."
        fields = {"name": name, "tags": tags, "description": what}
        return self._rest.create("registered-models/create", **fields)

    def _refuse_unless_lapsed(self, name: str) -> None:
        answer = self._rest.call("GET", "registered-models/get", name=name)
        if answer is None:
            raise PromotionConflictError(
                "Production was moved just now by somebody else; look before you retry"
            )
        model = answer.get("registered_model", {})
        owner = _owner_of(model)
        if owner is not None and (owner.nonce == self._owner.nonce or owner.has_exited()):
            return
        age = time.time() - int(model.get("creation_timestamp", 0)) / 1000
        if age < LEASE_SECONDS:
            who = str(owner) if owner else "somebody"
            raise PromotionConflictError(
                f"{who} moves Production at this moment; look before you retry"
            )

    def _sweep(self, state: str) -> None:
        """Delete what dead owners left of earlier states: nobody can win anything with it."""
        quoted = self._prefix.replace("'", "\\'")
        fields = {"filter": f"name LIKE '{quoted}%'", "max_results": _PAGE}
        answer = self._rest.call("GET", "registered-models/search", **fields) or {}
        for model in answer.get("registered_models", []):
            if not str(model["name"]).startswith(f"{self._prefix}{state}."):
                self._delete(str(model["name"]))

    def _delete(self, name: str) -> None:
        self._rest.call("DELETE", "registered-models/delete", name=name)


def _owner_of(model: Json) -> ProcessIdentity | None:
    for tag in model.get("tags", []):
        if tag.get("key") == _OWNER_TAG:
            return ProcessIdentity.from_json(str(tag.get("value", "")))
    return None
