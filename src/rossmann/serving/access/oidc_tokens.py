"""Tokens of an OpenID Connect provider: signed by one of its keys, for us, still good.

The provider's keys are fetched off the event loop and kept. While it is away, tokens signed with
keys that are known go on working, for a day at most; a token with another key cannot be judged
then, and is answered 503, not 401: it may be good.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx
import jwt

from rossmann.errors import AuthenticationError, ServiceError
from rossmann.logging_config import get_logger
from rossmann.serving.access.api_keys import Permission
from rossmann.settings import Settings

_ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
"""With a pair of keys only: whoever can check one of these can not make one."""
_LEEWAY: Final = 30
"""Seconds by which our clock and the provider's may differ."""
_FRESH: Final = 300.0
"""Seconds after which keys are fetched anew, so that one that the provider drops is dropped."""
_STALE: Final = 86_400.0
"""Seconds for which keys are believed while the provider is away."""
_COOL: Final = 20.0
"""Seconds between two fetches, however many unknown keys are named."""
_PATIENCE: Final = 3.0
"""Seconds that each step of a fetch may take."""
_ENOUGH: Final = 10.0
"""Seconds that a fetch may take in all, for those who wait for it."""
_MOST_BYTES: Final = 262_144
_LONGEST: Final = 8_192
_REMEMBERED: Final = 4_096
_FETCH_ERRORS: Final = (
    *(httpx.HTTPError, httpx.InvalidURL, jwt.PyJWTError),
    *(ValueError, TimeoutError),
)
_NAMES: Final = {
    **{right.word: right for right in (Permission.PREDICT, Permission.OPERATE)},
    **{f"rossmann:{right.word}": right for right in (Permission.PREDICT, Permission.OPERATE)},
}


@dataclass(frozen=True, slots=True)
class TokenIdentity:
    """Who a token says that its bearer is, for records and for counting, and what it allows."""

    who: str
    id: str
    right: Permission
    until: float


class TokenVerifier:
    """Judges tokens; one for each process, used on its event loop."""

    def __init__(self, settings: Settings) -> None:
        self._issuer = settings.oidc_issuer
        self._audience = settings.oidc_audience
        self._claim = settings.oidc_rights_claim
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched = -_STALE
        self._tried = -_COOL
        self._failed = False
        self._fetching = asyncio.Lock()
        self._refresh: asyncio.Task[None] | None = None
        self._judged: dict[bytes, TokenIdentity] = {}

    async def verify(self, token: str) -> TokenIdentity:
        """The bearer; raises ``NoKey`` for a token that is not good, ``ServiceError``."""
        if len(token) > _LONGEST:
            raise AuthenticationError("this token is too long")
        age = time.monotonic() - self._fetched
        if age > _FRESH and self._keys:
            self._fetch_behind()
        # A signature takes a hundred times as long to check as a digest.
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        known = self._judged.get(digest)
        if known is not None and time.time() <= known.until and age <= _STALE:
            return known
        found = self._read(token, await self._key_of(token))
        if len(self._judged) >= _REMEMBERED:
            self._judged.clear()
        self._judged[digest] = found
        return found

    async def _key_of(self, token: str) -> jwt.PyJWK:
        try:
            kid = jwt.get_unverified_header(token).get("kid", "")
        except jwt.PyJWTError as error:
            raise AuthenticationError("this is no token") from error
        key = self._known(kid)
        if key is None:
            await self._fetch()
            key = self._known(kid)
        if key is not None:
            return key
        if self._failed:
            raise ServiceError(
                "the provider of tokens does not answer, so this one cannot be judged now"
            )
        raise AuthenticationError("this token is signed with a key that its provider does not have")

    def _known(self, kid: str) -> jwt.PyJWK | None:
        if time.monotonic() - self._fetched > _STALE:
            return None
        return self._keys.get(kid)

    def _read(self, token: str, key: jwt.PyJWK) -> TokenIdentity:
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=_ALGORITHMS,
                audience=self._audience,
                issuer=self._issuer,
                leeway=_LEEWAY,
                options={"require": ["exp", "sub", "iss", "aud"]},
            )
        except jwt.PyJWTError as error:
            # The library's words name the claim that is wrong, never its value.
            raise AuthenticationError(f"this token is not good: {error}") from error
        right = max(
            (_NAMES.get(name, Permission.ANYONE) for name in _words(claims, self._claim)),
            default=Permission.ANYONE,
        )
        subject = "".join(c if c.isprintable() else "?" for c in claims["sub"])[:64]
        count_as = hashlib.sha256(claims["sub"].encode("utf-8", "replace")).hexdigest()[:32]
        return TokenIdentity(
            f"token {subject}", f"t:{count_as}", right, float(claims["exp"]) + _LEEWAY
        )

    def _fetch_behind(self) -> None:
        """Fetch while known keys go on answering."""
        if self._refresh is None or self._refresh.done():
            self._refresh = asyncio.get_running_loop().create_task(self._fetch())

    async def _fetch(self) -> None:
        """Fetch the keys, unless that was tried a moment ago; never raises."""
        async with self._fetching:
            if time.monotonic() - self._tried < _COOL:
                return
            try:
                fetching = asyncio.to_thread(fetch_jwks, self._issuer)
                keys = await asyncio.wait_for(fetching, _ENOUGH)
            except _FETCH_ERRORS as error:
                self._failed = True
                get_logger("security").warning(
                    "keys of tokens not fetched",
                    issuer=self._issuer,
                    reason=str(error) or "too slow",
                )
            else:
                self._failed = False
                self._judged.clear()
                self._keys, self._fetched = keys, time.monotonic()
            self._tried = time.monotonic()

    async def close(self) -> None:
        """End a fetch that goes on."""
        if self._refresh is not None:
            self._refresh.cancel()


def fetch_jwks(issuer: str) -> dict[str, jwt.PyJWK]:
    """The provider's keys for signatures, by their ids, as its discovery document names them.

    Raises ``httpx.HTTPError``, or ``ValueError`` for documents that cannot be.
    """
    with httpx.Client(timeout=_PATIENCE, follow_redirects=False) as client:
        told = _json(client, f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if told.get("issuer") != issuer:
            raise ValueError("the discovery document is another issuer's")
        address = str(told.get("jwks_uri", ""))
        if issuer.startswith("https://") and not address.startswith("https://"):
            raise ValueError("the keys' address is not https")
        listed = _json(client, address).get("keys")
    found = {}
    for key in jwt.PyJWKSet(listed if isinstance(listed, list) else []).keys:
        if key.key_type in {"RSA", "EC", "OKP"} and key.public_key_use in {None, "sig"}:
            found[key.key_id or ""] = key
    if not found:
        raise ValueError("there is no key for signatures")
    return found


def _json(client: httpx.Client, url: str) -> dict[str, Any]:
    with client.stream("GET", url) as answer:
        if answer.status_code != 200:
            raise ValueError(f"{url} answered {answer.status_code}")
        body = bytearray()
        for part in answer.iter_bytes():
            body += part
            if len(body) > _MOST_BYTES:
                raise ValueError(f"{url} answered more than {_MOST_BYTES} bytes")
    told = json.loads(body)
    if not isinstance(told, dict):
        raise ValueError(f"{url} answered no object")
    return told


def _words(claims: Mapping[str, Any], path: str) -> list[str]:
    """What a claim holds: text with spaces or a list; dots in ``path`` lead into objects."""
    value: Any = claims.get(path)
    if value is None:
        value = claims
        for step in path.split("."):
            value = value.get(step) if isinstance(value, dict) else None
    if isinstance(value, str):
        return value.split()
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []
