"""The door: who calls, what they may, how often. Every call that is not for anyone passes it.

A key comes as ``X-API-Key`` or as a bearer; a bearer may also be a token of the provider that the
settings name. Without keys and provider the service is open to all.
"""

import ipaddress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from starlette.requests import Request
from starlette.types import Scope

from rossmann.errors import AuthenticationError, PermissionDeniedError
from rossmann.serving.access.api_keys import ApiKeyStore, Permission, key_digest
from rossmann.serving.access.rate_limiter import RateLimiter, limits_from_settings
from rossmann.serving.observability.access_log import request_record
from rossmann.settings import Settings

if TYPE_CHECKING:
    from rossmann.serving.access.oidc_tokens import TokenVerifier


RATE_STATE_KEY: Final = "rate"
"""Under which a request's state holds where its caller stands."""
_COUNTED: Final = "counted"
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class Principal(NamedTuple):
    """Who calls: ``who`` for records (never a secret), ``id`` for counting, and the right."""

    who: str
    id: str
    right: Permission


class _Sent(NamedTuple):
    """What the headers of a request say; empty where one is missing."""

    key: str = ""
    bearer: str = ""
    origin: str = ""
    host: str = ""


class AccessControl:
    """Lets callers in, or raises ``NoKey``, ``NoRight``, ``OverRate``, ``ServiceError``."""

    def __init__(
        self,
        keys: ApiKeyStore,
        calls: RateLimiter,
        rows: RateLimiter,
        tokens: "TokenVerifier | None" = None,
        origins: tuple[str, ...] = (),
        stores_for_anyone: bool = True,
    ) -> None:
        self._keys = keys
        self._calls = calls
        self._rows = rows
        self._tokens = tokens
        self._origins = frozenset(origins)
        self.stores_right = Permission.ANYONE if stores_for_anyone else Permission.PREDICT

    @classmethod
    def from_settings(cls, settings: Settings) -> "AccessControl":
        """Raises ``SettingsError`` for keys, limits or addresses that cannot be."""
        return cls(
            open_keys(settings),
            RateLimiter(settings, "calls"),
            RateLimiter(settings, "rows"),
            _tokens(settings),
            settings.cors_origins,
            settings.stores_for_anyone,
        )

    @property
    def is_open(self) -> bool:
        """Whether nobody needs a key."""
        return self._tokens is None and not self._keys.requires_key

    @property
    def counts_rows(self) -> bool:
        """Whether ``settle`` has anything to do."""
        return self._rows.on

    async def authorize(self, request: Request, needed: Permission) -> Principal:
        """Who calls, if they may.

        Raises ``NoKey``, ``NoRight``, ``OverRate``; ``ServiceError`` for a token that cannot be
        judged while its provider is away.
        """
        scope = request.scope
        self._keys.reload_if_due()
        sent = _sent(scope)
        try:
            caller = await self._known(scope, sent, needed)
        except AuthenticationError:
            # Whoever tries keys is counted too.
            await self._count(scope, _address(scope))
            raise
        await self._count(scope, caller.id)
        request_record(request).caller = caller.who
        if caller.right < needed:
            raise PermissionDeniedError(
                f"this needs the right to {needed.word}; the {caller.who} has not got it"
            )
        if needed is Permission.OPERATE:
            self._refuse_other_sites(sent)
        return caller

    async def _known(self, scope: Scope, sent: _Sent, needed: Permission) -> Principal:
        if self.is_open:
            return Principal("anyone", _address(scope), Permission.OPERATE)
        key = sent.key or sent.bearer
        if not key:
            if needed is Permission.ANYONE:
                return Principal("anyone", _address(scope), Permission.ANYONE)
            raise AuthenticationError(
                "a key is needed: send it as X-API-Key or as Authorization: Bearer"
            )
        digest = key_digest(key)
        entry = self._keys.find(digest)
        if entry is not None:
            return Principal(entry.who, f"k:{digest[:32]}", entry.right)
        if self._tokens is not None and sent.bearer.count(".") == 2 and not sent.key:
            bearer = await self._tokens.verify(sent.bearer)
            return Principal(bearer.who, bearer.id, bearer.right)
        raise AuthenticationError("this key is not known")

    async def _count(self, scope: Scope, who: str) -> None:
        if self._calls.on:
            allowed, standing = await self._calls.hit(who)
            scope["state"][RATE_STATE_KEY] = standing
            if not allowed:
                raise standing.to_error("calls")
        if self._rows.on:
            # How many rows a call has is known when it is read: they count against the next one.
            scope["state"][_COUNTED] = who
            allowed, standing = await self._rows.hit(who, cost=0)
            if not allowed:
                scope["state"][RATE_STATE_KEY] = standing
                raise standing.to_error("rows")

    async def count_rows(self, scope: Scope) -> None:
        """After an answer: count the rows that it had."""
        state = scope.get("state", {})
        who = state.get(_COUNTED)
        if who is not None and (rows := request_record(Request(scope)).rows):
            await self._rows.hit(who, rows, force=True)

    def _refuse_other_sites(self, sent: _Sent) -> None:
        """A page of another site, open in an operator's browser, must not order anything here."""
        if not sent.origin or sent.origin in self._origins:
            return
        if sent.origin.partition("://")[2] != sent.host:
            raise PermissionDeniedError("orders from pages of another site are refused")
        if self.is_open and not _is_address(sent.host):
            # A site can make its own name point to this machine, and its pages our own.
            raise PermissionDeniedError(
                "orders from a page need a key, or its origin in ROSSMANN_CORS_ORIGINS, where the "
                "service is not called by its address"
            )

    async def close(self) -> None:
        """Let go of connections and files."""
        await self._calls.close()
        await self._rows.close()
        if self._tokens is not None:
            await self._tokens.close()


def open_keys(settings: Settings) -> ApiKeyStore:
    """The keys that the settings name; raises ``SettingsError``."""
    return ApiKeyStore.open_book(
        settings.api_keys, settings.keys_file, required=settings.api_keys_file is not None
    )


def _tokens(settings: Settings) -> "TokenVerifier | None":
    if not settings.oidc_issuer:
        return None
    from rossmann.serving.access.oidc_tokens import TokenVerifier

    return TokenVerifier(settings)


def access_summary(settings: Settings) -> tuple[bool, dict[str, Any]]:
    """Whether the service is open to all, and who is let in, for the log.

    Raises ``SettingsError`` for keys, limits or addresses that cannot be.
    """
    keys = open_keys(settings)
    calls, rows = limits_from_settings(settings, "calls"), limits_from_settings(settings, "rows")
    told = {
        **{f"{r.word}_keys": keys.count(r) for r in (Permission.PREDICT, Permission.OPERATE)},
        "tokens_of": settings.oidc_issuer or "nobody",
        "rate_limit": ", ".join(map(str, calls)) or "none",
        "rate_limit_rows": ", ".join(map(str, rows)) or "none",
    }
    return not keys.requires_key and not settings.oidc_issuer, told


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    return host in _LOOPBACK or host.startswith("127.")


def _sent(scope: Scope) -> _Sent:
    key = bearer = origin = host = ""
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            key = value.decode("latin-1").strip()
        elif name == b"authorization":
            scheme, _, rest = value.decode("latin-1").partition(" ")
            bearer = rest.strip() if scheme.lower() == "bearer" else ""
        elif name == b"origin":
            origin = value.decode("latin-1")
        elif name == b"host":
            host = value.decode("latin-1")
    return _Sent(key, bearer, origin, host)


def _address(scope: Scope) -> str:
    """Where a call comes from; an IPv6 network counts as one, it belongs to one customer."""
    client = scope.get("client")
    host = client[0] if client else "local"
    if ":" in host:
        try:
            network = ipaddress.IPv6Network((host.partition("%")[0], 64), strict=False)
        except ValueError:
            return f"a:{host}"
        return f"a:{network.network_address}"
    return f"a:{host}"


def _is_address(host: str) -> bool:
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return name == "localhost"
    return True
