"""Who may move Production next: a claim that only one of several can win.

MLflow has no compare-and-swap: an alias is moved by whoever writes last. But it refuses to create a
registered model whose name is taken, in one transaction of its database. So a move begins with
creating a model that is named after the state it starts from; who fails to create it was second.
The winner then looks whether that state still holds, moves the alias, and deletes the claim.

A claim whose owner died must not block for ever. On the owner's machine its process is seen to be
gone; elsewhere a claim lapses after ``LEASE_SECONDS``. Then the next claim has the next number,
again won by one alone. An owner that was held up for half a lease gives up before it moves.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from rossmann.errors import LostRace, RossmannError, ServiceError
from rossmann.models.mlflow_rest import Json, MlflowRest
from rossmann.models.owner import Owner

LEASE_SECONDS: Final = 120.0
_MARK: Final = ".claim."
_OWNER_TAG: Final = "owner"
_PAGE: Final = 1000


class Claim:
    """A claim that was won; ask it right before each step that may not come late."""

    def __init__(self) -> None:
        self._won = time.monotonic()

    def check(self) -> None:
        """Raise ``LostRace`` where the claim is so old that another may soon take it over."""
        if time.monotonic() - self._won > LEASE_SECONDS / 2:
            raise LostRace("the move was held up for so long that another may begin; try again")


class Claims:
    """The claims on one model's Production alias."""

    def __init__(self, rest: MlflowRest, name: str) -> None:
        self._rest = rest
        self._prefix = f"{name}{_MARK}"
        self._owner = Owner.here()

    @contextmanager
    def hold(self, state: str) -> Iterator[Claim]:
        """Claim the move that starts from ``state``; given back when the block ends.

        Raises ``LostRace`` where somebody else makes that move.
        """
        number = 1
        while not self._create(self._name(state, number)):
            self._refuse_unless_lapsed(self._name(state, number))
            number += 1
        claim = Claim()
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
        tags = [{"key": _OWNER_TAG, "value": self._owner.text()}]
        what = "Somebody moves Production now; removed when that is done."
        fields = {"name": name, "tags": tags, "description": what}
        return self._rest.create("registered-models/create", **fields)

    def _refuse_unless_lapsed(self, name: str) -> None:
        answer = self._rest.call("GET", "registered-models/get", name=name)
        if answer is None:
            raise LostRace("Production was moved just now by somebody else; look before you retry")
        model = answer.get("registered_model", {})
        owner = _owner_of(model)
        if owner is not None and (owner.nonce == self._owner.nonce or owner.is_gone()):
            return
        age = time.time() - int(model.get("creation_timestamp", 0)) / 1000
        if age < LEASE_SECONDS:
            who = str(owner) if owner else "somebody"
            raise LostRace(f"{who} moves Production at this moment; look before you retry")

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


def _owner_of(model: Json) -> Owner | None:
    for tag in model.get("tags", []):
        if tag.get("key") == _OWNER_TAG:
            return Owner.read(str(tag.get("value", "")))
    return None
