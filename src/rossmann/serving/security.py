"""Who may call what: keys are kept as digests, and carry one of two roles."""

import hashlib
from enum import IntEnum
from typing import Final

from starlette.datastructures import Headers

from rossmann.errors import NoKey, NoRight, SettingsError

_DIGEST: Final = 64
"""Hex digits of a SHA-256."""


class Role(IntEnum):
    """What a key allows; each role may do all that the one before may."""

    VIEWER = 1
    OPERATOR = 2


class Keys:
    """The keys that are known, by digest; without any, the service is open to all."""

    def __init__(self, roles: dict[str, Role]) -> None:
        self._roles = roles

    @classmethod
    def parse(cls, text: str) -> "Keys":
        """From ``role:sha256hex`` with commas between; raises ``SettingsError`` on all else."""
        roles: dict[str, Role] = {}
        for number, part in enumerate(filter(None, map(str.strip, text.split(","))), 1):
            name, _, digest = part.partition(":")
            role = {"viewer": Role.VIEWER, "operator": Role.OPERATOR}.get(name.strip())
            digest = digest.strip().lower()
            if role is None or len(digest) != _DIGEST or not set(digest) <= set("0123456789abcdef"):
                # Not the value itself: somebody may have put a key there.
                raise SettingsError(
                    f"ROSSMANN_API_KEYS: entry {number} must be viewer:<sha256> or "
                    "operator:<sha256>, with the digest as 64 hex digits"
                )
            roles[digest] = role
        return cls(roles)

    @property
    def open(self) -> bool:
        """Whether no key is set."""
        return not self._roles

    def check(self, headers: Headers, needed: Role) -> str:
        """Who calls, in a word for the records; raises ``NoKey`` or ``NoRight``."""
        if needed > Role.VIEWER:
            _refuse_other_sites(headers)
        if self.open:
            return "anyone"
        key = _given(headers)
        if not key:
            raise NoKey("a key is needed: send it as X-API-Key or as Authorization: Bearer")
        # A look-up by digest tells nothing about a key by the time that it takes.
        digest = hashlib.sha256(key.encode("latin-1")).hexdigest()
        role = self._roles.get(digest)
        if role is None:
            raise NoKey("this key is not known")
        if role < needed:
            raise NoRight(f"this needs an {needed.name.lower()}'s key")
        return f"{role.name.lower()} {digest[:8]}"


def _given(headers: Headers) -> str:
    key = headers.get("x-api-key", "")
    if key:
        return key
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _refuse_other_sites(headers: Headers) -> None:
    """A page of another site, open in an operator's browser, must not order anything here."""
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != headers.get("host", ""):
        raise NoRight("orders from pages of another site are refused")
