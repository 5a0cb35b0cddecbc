"""Promotions and rollbacks: the record of one, and the lock that lets one process at a time do it.

MLflow has no compare-and-swap: the last writer of an alias wins. But it refuses to create a
registered model whose name is taken, in one transaction of its database. So a promotion begins with
creating a model that is named after the state it starts from; a second one fails to create it.
The winner then checks that the state still holds, moves the alias and deletes that model.

A lock whose owner died must not block for ever. On the owner's machine its process is known to have
ended; elsewhere the lock expires after ``LEASE_SECONDS``. Then the next lock has the next number,
which again only one process can create. An owner that was held up for half a lease gives up before
it moves the alias.
"""

import json
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from rossmann.errors import PromotionConflictError, RossmannError, ServiceError
from rossmann.filesystem.process_identity import ProcessIdentity
from rossmann.models.registry.mlflow_rest import Json, MlflowRest

Action = Literal["promote", "rollback"]
LEASE_SECONDS: Final = 120.0
_LOCK_INFIX: Final = ".claim."
_OWNER_TAG: Final = "owner"
_PAGE_SIZE: Final = 1000
_MAX_ROLLBACKS: Final = 100
"""How many rollbacks in a row stay possible."""
_STORED_KEYS: Final = {"replaced": "left", "previous_versions": "below"}
"""Keys in the stored JSON that differ from their field's name."""


@dataclass(frozen=True, slots=True)
class Promotion:
    """One change of Production, stored on the version that it brings in *before* the change.

    So the alias alone decides whether it happened, and a kill at any point leaves the registry
    consistent. ``previous_versions``: the versions that served before, the latest first; a rollback
    goes to the first and keeps the rest.
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
        fields = asdict(self).items()
        return json.dumps({_STORED_KEYS.get(name, name): value for name, value in fields})

    @classmethod
    def from_json(cls, text: str | None) -> "Promotion | None":
        """From a tag; None where there is none, or where its text is something else."""
        try:
            stored = json.loads(text or "")
            versions = tuple(int(version) for version in stored["below"])
            names = {key: name for name, key in _STORED_KEYS.items()}
            fields = {names.get(key, key): value for key, value in stored.items()}
            return cls(**{**fields, "previous_versions": versions})
        except (ValueError, TypeError, KeyError):
            return None


def new_promotion(
    version: int, replaced: int | None, previous: Promotion | None, who: str, why: str
) -> Promotion:
    """``version`` replaces ``replaced`` (None: nothing served), which ``previous`` brought in."""
    earlier = previous.previous_versions if previous else ()
    versions = () if replaced is None else (replaced, *earlier)
    return _promotion("promote", version, replaced, who, why, versions)


def new_rollback(
    replaced: int, previous: Promotion | None, existing: Collection[int], who: str, why: str
) -> Promotion | None:
    """Back to the version that served before ``replaced``; None where there is none.

    Versions that were deleted since (not in ``existing``) are skipped.
    """
    versions = [v for v in (previous.previous_versions if previous else ()) if v in existing]
    while versions and versions[0] == replaced:  # the versions between were deleted
        versions.pop(0)
    if not versions:
        return None
    return _promotion("rollback", versions[0], replaced, who, why, versions[1:])


def _promotion(
    action: Action, version: int, replaced: int | None, who: str, why: str, versions: Iterable[int]
) -> Promotion:
    now = datetime.now(UTC)
    # Part of a tag's name, which may hold no "+"; sorts by time.
    number = f"{now:%Y%m%dT%H%M%S.%f}Z.{version}"
    previous = tuple(versions)[:_MAX_ROLLBACKS]
    return Promotion(number, action, version, replaced, now.isoformat(), who, why, previous)


class Lease:
    """The limited time of an acquired lock; checked before each step that must not be late."""

    def __init__(self) -> None:
        self._acquired = time.monotonic()

    def raise_if_stale(self) -> None:
        """Raise ``PromotionConflictError`` once so old that another may soon take over the lock."""
        if time.monotonic() - self._acquired > LEASE_SECONDS / 2:
            raise PromotionConflictError(
                "the move was held up for so long that another may begin; try again"
            )


class PromotionLock:
    """Excludes concurrent changes of one model's Production alias, between machines too."""

    def __init__(self, rest: MlflowRest, name: str) -> None:
        self._rest = rest
        self._prefix = f"{name}{_LOCK_INFIX}"
        self._owner = ProcessIdentity.current()

    @contextmanager
    def acquire(self, state: str) -> Iterator[Lease]:
        """Hold the lock of the change that starts from ``state`` while the block runs.

        Raises ``PromotionConflictError`` where another process makes that change.
        """
        number = 1
        while not self._create(self._name(state, number)):
            self._raise_unless_expired(self._name(state, number))
            number += 1
        lease = Lease()
        self._delete_orphans(state)
        try:
            yield lease
        except RossmannError:
            with suppress(ServiceError):  # unreachable: the lock expires
                self._release(state, number)
            raise
        self._release(state, number)

    def _release(self, state: str, last_number: int) -> None:
        for number in range(last_number, 0, -1):
            self._delete(self._name(state, number))

    def _name(self, state: str, number: int) -> str:
        return f"{self._prefix}{state}.{number}"

    def _create(self, name: str) -> bool:
        tags = [{"key": _OWNER_TAG, "value": self._owner.to_json()}]
        description = "Somebody moves Production now; removed when that is done."
        fields = {"name": name, "tags": tags, "description": description}
        return self._rest.create("registered-models/create", **fields)

    def _raise_unless_expired(self, name: str) -> None:
        response = self._rest.call("GET", "registered-models/get", name=name)
        if response is None:
            raise PromotionConflictError(
                "Production was moved just now by somebody else; look before you retry"
            )
        model = response.get("registered_model", {})
        owner = _owner_of(model)
        if owner is not None and (owner.nonce == self._owner.nonce or owner.has_exited()):
            return
        age = time.time() - int(model.get("creation_timestamp", 0)) / 1000
        if age < LEASE_SECONDS:
            raise PromotionConflictError(
                f"{owner or 'somebody'} moves Production at this moment; look before you retry"
            )

    def _delete_orphans(self, state: str) -> None:
        """Delete the locks of earlier states that ended processes left."""
        quoted = self._prefix.replace("'", "\\'")
        fields = {"filter": f"name LIKE '{quoted}%'", "max_results": _PAGE_SIZE}
        response = self._rest.call("GET", "registered-models/search", **fields) or {}
        for model in response.get("registered_models", []):
            if not str(model["name"]).startswith(f"{self._prefix}{state}."):
                self._delete(str(model["name"]))

    def _delete(self, name: str) -> None:
        self._rest.call("DELETE", "registered-models/delete", name=name)


def _owner_of(model: Json) -> ProcessIdentity | None:
    for tag in model.get("tags", []):
        if tag.get("key") == _OWNER_TAG:
            return ProcessIdentity.from_json(str(tag.get("value", "")))
    return None
