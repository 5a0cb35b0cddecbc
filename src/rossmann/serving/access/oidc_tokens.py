"""OpenID Connect tokens: verification of signature, issuer, audience and expiry, and the JWKS.

The provider's keys are fetched in another thread and cached. While it is unreachable, cached keys
stay valid for a day at most; a token with another key is answered 503 then, not 401, as it may be
valid. ``jwt.PyJWKClient`` is not used: it blocks the event loop, and keeps no expired keys for
an outage.
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

from rossmann.addresses import open_transport
from rossmann.errors import AuthenticationError, ServiceError, SettingsError
from rossmann.logging_config import get_logger
from rossmann.serving.access.api_keys import Permission
from rossmann.settings import Settings

_ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
"""Asymmetric ones only: the key that verifies a token cannot sign one."""
_LEEWAY: Final = 30
"""Seconds by which the two clocks may differ."""
_REFRESH_AFTER: Final = 300.0
"""Seconds after which keys are fetched again, so that a key that was withdrawn goes."""
_MAX_STALENESS: Final = 86_400.0
"""Seconds for which keys are valid while the provider is unreachable."""
_COOLDOWN: Final = 20.0
"""Seconds between two fetches, however many tokens name unknown keys."""
_STEP_TIMEOUT: Final = 3.0
"""Seconds for each network operation of a fetch."""
_FETCH_TIMEOUT: Final = 10.0
"""Seconds for a whole fetch, as requests wait for it."""
_MAX_BODY_BYTES: Final = 262_144
_MAX_TOKEN_CHARS: Final = 8_192
_MAX_CACHED_TOKENS: Final = 4_096
_FETCH_ERRORS: Final = (
    *(httpx.HTTPError, httpx.InvalidURL, jwt.PyJWTError),
    *(ValueError, TimeoutError, SettingsError),
)
_PERMISSIONS: Final = {
    f"{prefix}{permission.label}": permission
    for prefix in ("", "rossmann:")
    for permission in (Permission.PREDICT, Permission.OPERATE)
}


@dataclass(frozen=True, slots=True)
class TokenIdentity:
    """Identity of a token: ``name`` for records, ``id`` for counting, permission and expiry."""

    name: str
    id: str
    permission: Permission
    expires_at: float


class TokenVerifier:
    """Verifies tokens; one for each process, used on its event loop."""

    def __init__(self, settings: Settings) -> None:
        self._issuer = settings.oidc_issuer
        self._audience = settings.oidc_audience
        self._claim = settings.oidc_rights_claim
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = -_MAX_STALENESS
        self._attempted_at = -_COOLDOWN
        self._last_fetch_failed = False
        self._fetch_lock = asyncio.Lock()
        self._refresh: asyncio.Task[None] | None = None
        self._verified: dict[bytes, TokenIdentity] = {}

    async def verify(self, token: str) -> TokenIdentity:
        """The token's identity.

        Raises ``AuthenticationError`` for an invalid token, ``ServiceError`` where it cannot be
        verified now.
        """
        if len(token) > _MAX_TOKEN_CHARS:
            raise AuthenticationError("this token is too long")
        age = time.monotonic() - self._fetched_at
        if age > _REFRESH_AFTER and self._keys:
            self._start_refresh()
        # Verifying a signature takes a hundred times as long as a digest.
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        cached = self._verified.get(digest)
        if cached is not None and time.time() <= cached.expires_at and age <= _MAX_STALENESS:
            return cached
        identity = self._decode(token, await self._signing_key(token))
        if len(self._verified) >= _MAX_CACHED_TOKENS:
            self._verified.clear()
        self._verified[digest] = identity
        return identity

    async def _signing_key(self, token: str) -> jwt.PyJWK:
        try:
            kid = jwt.get_unverified_header(token).get("kid", "")
        except (jwt.PyJWTError, RecursionError) as error:
            raise AuthenticationError("this is no token") from error
        key = self._cached_key(kid)
        if key is None:
            await self._fetch()
            key = self._cached_key(kid)
        if key is not None:
            return key
        if self._last_fetch_failed:
            raise ServiceError(
                "the provider of tokens does not answer, so this one cannot be judged now"
            )
        raise AuthenticationError("this token is signed with a key that its provider does not have")

    def _cached_key(self, kid: str) -> jwt.PyJWK | None:
        if time.monotonic() - self._fetched_at > _MAX_STALENESS:
            return None
        return self._keys.get(kid)

    def _decode(self, token: str, key: jwt.PyJWK) -> TokenIdentity:
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
            # Not in the way of ``jwt``: a number of 400 digits is a valid time for it.
            expires_at = float(claims["exp"]) + _LEEWAY
        except jwt.PyJWTError as error:
            # The library's message names the invalid claim, never its value.
            raise AuthenticationError(f"this token is not good: {error}") from error
        except (OverflowError, RecursionError) as error:
            raise AuthenticationError("this token is not good: its claims are no times") from error
        permission = max(
            (_PERMISSIONS.get(name, Permission.ANYONE) for name in _values(claims, self._claim)),
            default=Permission.ANYONE,
        )
        subject = "".join(c if c.isprintable() else "?" for c in claims["sub"])[:64]
        digest = hashlib.sha256(claims["sub"].encode("utf-8", "replace")).hexdigest()[:32]
        return TokenIdentity(f"token {subject}", f"t:{digest}", permission, expires_at)

    def _start_refresh(self) -> None:
        """Fetch in a task while the cached keys stay in use."""
        if self._refresh is None or self._refresh.done():
            self._refresh = asyncio.get_running_loop().create_task(self._fetch())

    async def _fetch(self) -> None:
        """Fetch the keys, unless that was attempted a moment ago; never raises."""
        async with self._fetch_lock:
            if time.monotonic() - self._attempted_at < _COOLDOWN:
                return
            try:
                fetch = asyncio.to_thread(fetch_jwks, self._issuer)
                keys = await asyncio.wait_for(fetch, _FETCH_TIMEOUT)
            except _FETCH_ERRORS as error:
                self._last_fetch_failed = True
                get_logger("security").warning(
                    "keys of tokens not fetched",
                    issuer=self._issuer,
                    reason=str(error) or "too slow",
                )
            else:
                self._last_fetch_failed = False
                self._verified.clear()
                self._keys, self._fetched_at = keys, time.monotonic()
            self._attempted_at = time.monotonic()

    async def close(self) -> None:
        """Cancel a running refresh."""
        if self._refresh is not None:
            self._refresh.cancel()


def fetch_jwks(issuer: str) -> dict[str, jwt.PyJWK]:
    """The provider's signing keys by their ids, from the JWKS of its discovery document.

    Raises ``httpx.HTTPError``, ``ValueError`` for an invalid document, or ``SettingsError`` for an
    invalid proxy variable.
    """
    transport = open_transport(issuer)
    with httpx.Client(timeout=_STEP_TIMEOUT, follow_redirects=False, transport=transport) as client:
        discovery = _get_json(client, f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if discovery.get("issuer") != issuer:
            raise ValueError("the discovery document is another issuer's")
        jwks_uri = str(discovery.get("jwks_uri", ""))
        if issuer.startswith("https://") and not jwks_uri.startswith("https://"):
            raise ValueError("the keys' address is not https")
        jwks = _get_json(client, jwks_uri).get("keys")
    keys = {
        key.key_id or "": key
        for key in jwt.PyJWKSet(jwks if isinstance(jwks, list) else []).keys
        if key.key_type in {"RSA", "EC", "OKP"} and key.public_key_use in {None, "sig"}
    }
    if not keys:
        raise ValueError("there is no key for signatures")
    return keys


def _get_json(client: httpx.Client, url: str) -> dict[str, Any]:
    with client.stream("GET", url) as response:
        if response.status_code != 200:
            raise ValueError(f"{url} answered {response.status_code}")
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > _MAX_BODY_BYTES:
                raise ValueError(f"{url} answered more than {_MAX_BODY_BYTES} bytes")
    document = json.loads(body)
    if not isinstance(document, dict):
        raise ValueError(f"{url} answered no object")
    return document


def _values(claims: Mapping[str, Any], path: str) -> list[str]:
    """Values of a claim: a list, or text with spaces; dots in ``path`` lead into objects."""
    value: Any = claims.get(path)
    if value is None:
        value = claims
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, str):
        return value.split()
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
