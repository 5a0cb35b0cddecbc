"""Which stores an experiment gives to its challenger: the same in every process and release."""

import hashlib
from typing import Final

import numpy as np
import numpy.typing as npt

_STEPS: Final = 2**53
"""As many as a float tells apart."""


def place_of(salt: str, store: int) -> float:
    """Where a store falls from 0 to below 1, evenly, by nothing but ``salt`` and its number."""
    digest = hashlib.sha256(f"{salt}\n{store}".encode()).digest()
    return (int.from_bytes(digest[:7], "big") >> 3) / _STEPS


class Dealer:
    """Deals a share of the stores; a larger share keeps those of a smaller one."""

    def __init__(self, salt: str, share: float) -> None:
        self._salt = salt
        self._share = share
        self._known: dict[int, bool] = {}

    def deals(self, stores: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        """Whether each of ``stores`` (n,), which exist, is the challenger's."""
        numbers, back = np.unique(stores, return_inverse=True)
        flags = np.array([self._one(number) for number in numbers.tolist()], np.bool_)
        return np.asarray(flags[back], np.bool_)

    def _one(self, store: int) -> bool:
        found = self._known.get(store)
        if found is None:
            found = self._known[store] = place_of(self._salt, store) < self._share
        return found
