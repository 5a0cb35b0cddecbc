"""Access control of every endpoint that is not public: authentication, permission, rate limits.

A key comes as ``X-API-Key`` or as a bearer token; a bearer token may also be one of the OpenID
provider in the settings. Without keys and provider the service is open to all.

Then calls are checked that a browser may send for a page of another site. A key is protection
enough: a page cannot send its header to another site without a preflight, which is refused. Without
keys, a page that a user of this machine visits could call the service by a form, by ``fetch`` with
a body of plain text, or by DNS rebinding: its own name, resolved to this machine.
"""

import ipaddress
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from starlette.requests import Request
from starlette.types import Scope

from rossmann.addresses import host_name, is_loopback, plain_address
from rossmann.errors import (
    AuthenticationError,
    CrossSiteError,
    HostNotAllowedError,
    PermissionDeniedError,
    ServiceError,
)
from rossmann.serving.access.api_keys import ApiKeyStore, Permission, key_digest
from rossmann.serving.access.rate_limiter import RateLimiter, RowLimiter, limits_from_settings
from rossmann.serving.access.rate_limits import WindowUsage
from rossmann.serving.observability.access_log import REQUEST_RECORD_KEY, request_record
from rossmann.serving.request_parsing.body import JSON_TYPE_KEY
from rossmann.settings import Settings

if TYPE_CHECKING:
    from rossmann.serving.access.oidc_tokens import TokenVerifier

RATE_STATE_KEY: Final = "rate"
"""Key of the caller's ``WindowUsage`` in a request's state."""
_ROWS_CALLER_KEY: Final = "counted"
_RESERVED_KEY: Final = "reserved"
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OTHER_SITES: Final = frozenset({b"cross-site", b"same-site"})
"""``Sec-Fetch-Site`` of other sites and of other ports or subdomains of this one."""
_MAX_CACHED_HOSTS: Final = 64
_UNPRINTABLE: Final = re.compile(r"[^\x21-\x7e]")


class Principal(NamedTuple):
    """A caller: ``name`` for records (never a secret), ``id`` for counting, and permission."""

    name: str
    id: str
    permission: Permission


class _AccessHeaders(NamedTuple):
    """Headers of a request that decide about access; empty where one is missing."""

    key: str = ""
    bearer: str = ""


class AccessControl:
    """Authorizes requests and counts them against the rate limits."""

    def __init__(self, settings: Settings) -> None:
        """Raises ``SettingsError`` for invalid keys, limits or addresses."""
        self._keys = _load_keys(settings)
        self._calls = RateLimiter(settings, "calls")
        self._rows = RowLimiter(settings)
        self._tokens = _token_verifier(settings)
        self._guard = CrossSiteGuard(settings)
        self.stores_permission = (
            Permission.ANYONE if settings.stores_for_anyone else Permission.PREDICT
        )

    @property
    def is_open(self) -> bool:
        """Whether no key is needed."""
        return self._tokens is None and not self._keys.requires_key

    @property
    def counts_rows(self) -> bool:
        """Whether rows are limited, so that ``count_rows`` is needed."""
        return self._rows.enabled

    def check_browser(self, scope: Scope) -> None:
        """Check any call for what a browser may send for another site, where no key is needed.

        Raises ``HostNotAllowedError``, ``CrossSiteError``.
        """
        self._keys.reload_if_due()
        if self.is_open:
            self._guard.check_call(scope)

    async def authorize(self, request: Request, needed: Permission) -> Principal:
        """The caller, who has the ``needed`` permission.

        Raises ``AuthenticationError``, ``PermissionDeniedError``, ``RateLimitError``;
        ``ServiceError`` for a token that cannot be verified while its provider is unreachable.
        """
        scope = request.scope
        self._keys.reload_if_due()
        try:
            caller = await self._identify(scope, needed)
        except (AuthenticationError, ServiceError):
            # Attempts with unknown keys count too, also while nobody can judge them.
            await self._count_call(scope, _address_id(scope))
            raise
        await self._count_call(scope, caller.id)
        request_record(request).caller = caller.name
        if caller.permission < needed:
            raise PermissionDeniedError(
                f"this needs the right to {needed.label}; the {caller.name} has not got it"
            )
        if needed is Permission.OPERATE:
            self._guard.check_operation(scope)
        return caller

    async def _identify(self, scope: Scope, needed: Permission) -> Principal:
        if self.is_open:
            return Principal("anyone", _address_id(scope), Permission.OPERATE)
        headers = _read_headers(scope)
        key = headers.key or headers.bearer
        if not key:
            if needed is Permission.ANYONE:
                return Principal("anyone", _address_id(scope), Permission.ANYONE)
            raise AuthenticationError(
                "a key is needed: send it as X-API-Key or as Authorization: Bearer"
            )
        digest = key_digest(key)
        record = self._keys.find(digest)
        if record is not None:
            return Principal(record.display_name, f"k:{digest[:32]}", record.permission)
        if self._tokens is not None and headers.bearer.count(".") == 2 and not headers.key:
            token = await self._tokens.verify(headers.bearer)
            return Principal(token.name, token.id, token.permission)
        raise AuthenticationError("this key is not known")

    async def _count_call(self, scope: Scope, caller_id: str) -> None:
        if self._calls.enabled:
            allowed, usage = await self._calls.hit(caller_id)
            scope["state"][RATE_STATE_KEY] = usage
            if not allowed:
                raise usage.to_error("calls")
        if self._rows.enabled:
            # How many rows it has is known once it is parsed; where none is left, it need not be.
            scope["state"][_ROWS_CALLER_KEY] = caller_id
            _raise_refused(scope["state"], await self._rows.check(caller_id))

    async def reserve_rows(self, request: Request, rows: int) -> None:
        """Count the rows of an authorized call before the work; raises ``RateLimitError``."""
        state = request.scope["state"]
        if self._rows.enabled and rows:
            _raise_refused(state, await self._rows.reserve(state[_ROWS_CALLER_KEY], rows))
            state[_RESERVED_KEY] = rows

    async def count_rows(self, scope: Scope) -> None:
        """Count the rows of a request after its response; give back those that it had reserved.

        A request that was refused has forecast none.
        """
        state = scope.get("state", {})
        caller_id = state.get(_ROWS_CALLER_KEY)
        if caller_id is None:
            return
        more = state[REQUEST_RECORD_KEY].rows - state.get(_RESERVED_KEY, 0)
        if more:
            await self._rows.adjust(caller_id, more)

    async def close(self) -> None:
        """Close connections and files."""
        await self._calls.close()
        await self._rows.close()
        if self._tokens is not None:
            await self._tokens.close()


def _raise_refused(state: dict[str, Any], usage: WindowUsage | None) -> None:
    if usage is not None:
        state[RATE_STATE_KEY] = usage
        raise usage.to_error("rows")


def _load_keys(settings: Settings) -> ApiKeyStore:
    return ApiKeyStore.load(
        settings.api_keys, settings.keys_file, required=settings.api_keys_file is not None
    )


def _token_verifier(settings: Settings) -> "TokenVerifier | None":
    if not settings.oidc_issuer:
        return None
    from rossmann.serving.access.oidc_tokens import TokenVerifier

    return TokenVerifier(settings)


def access_summary(settings: Settings) -> tuple[bool, dict[str, Any]]:
    """Whether the service is open to all, and the access settings in force, for the log.

    Raises ``SettingsError`` for invalid keys, limits or addresses.
    """
    keys = _load_keys(settings)
    calls, rows = limits_from_settings(settings, "calls"), limits_from_settings(settings, "rows")
    summary = {
        **{f"{p.label}_keys": keys.count(p) for p in (Permission.PREDICT, Permission.OPERATE)},
        "tokens_of": settings.oidc_issuer or "nobody",
        "rate_limit": ", ".join(map(str, calls)) or "none",
        "rate_limit_rows": ", ".join(map(str, rows)) or "none",
    }
    return not keys.requires_key and not settings.oidc_issuer, summary


def _read_headers(scope: Scope) -> _AccessHeaders:
    key = bearer = ""
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            key = value.decode("latin-1").strip()
        elif name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            bearer = token.strip() if scheme.lower() == "bearer" else ""
    return _AccessHeaders(key, bearer)


def _address_id(scope: Scope) -> str:
    """Client address for counting; an IPv6 /64 network counts as one, as one customer has it.

    IPv4 addresses that are mapped into IPv6 would else be one network.
    """
    client = scope.get("client")
    host = client[0] if client else "local"
    if ":" in host:
        try:
            host = plain_address(host)
        except ValueError:
            return f"a:{host}"
    if ":" in host:
        return f"a:{ipaddress.IPv6Network((host, 64), strict=False).network_address}"
    return f"a:{host}"


class CrossSiteGuard:
    """Refuses calls for pages of other sites; names and origins in the settings are allowed."""

    def __init__(self, settings: Settings) -> None:
        self._hosts = settings.known_hosts
        self._origins = frozenset(origin.encode() for origin in settings.cors_origins)
        self._known_headers: set[bytes] = set()

    def check_call(self, scope: Scope) -> None:
        """Check any call of a service that is open to all.

        Raises ``HostNotAllowedError``, and ``CrossSiteError`` for calls that do more than read.
        """
        hosts, origins, site = _browser_headers(scope)
        for host in hosts:
            if host not in self._known_headers:
                self._check_host(host)
        if scope["method"] in _READS:
            return
        scope.setdefault("state", {})[JSON_TYPE_KEY] = True
        if not origins and site not in _OTHER_SITES:
            return  # a program's
        if b"*" in self._origins or (origins and self._origins.issuperset(origins)):
            return
        if site in _OTHER_SITES or any(_authority(origin) not in hosts for origin in origins):
            raise CrossSiteError(
                "calls for a page of another site are refused, as this service needs no key: add"
                " the page's origin to ROSSMANN_CORS_ORIGINS, or make keys"
            )

    def check_operation(self, scope: Scope) -> None:
        """Check a call that changes versions; raises ``PermissionDeniedError``.

        Also where keys are needed; ``*`` in the allowed origins is not enough.
        """
        hosts, origins, _ = _browser_headers(scope)
        if any(o not in self._origins and _authority(o) not in hosts for o in origins):
            raise PermissionDeniedError("orders from pages of another site are refused")

    def _check_host(self, header: bytes) -> None:
        text = header.decode("latin-1")
        name = host_name(text)
        if name is None or not (name in self._hosts or is_loopback(name)):
            shown = _UNPRINTABLE.sub("?", text[:80])
            raise HostNotAllowedError(
                f"this service is open to all, so it answers under known names only, and {shown!r}"
                " is none of them: add the name to ROSSMANN_ALLOWED_HOSTS, or make keys"
            )
        if len(self._known_headers) < _MAX_CACHED_HOSTS:
            self._known_headers.add(header)


def _authority(origin: bytes) -> bytes:
    return origin.partition(b"://")[2]


def _browser_headers(scope: Scope) -> tuple[list[bytes], list[bytes], bytes]:
    """Values of ``Host``, of ``Origin``, and ``Sec-Fetch-Site``."""
    hosts: list[bytes] = []
    origins: list[bytes] = []
    site = b""
    for name, value in scope["headers"]:
        if name == b"host":
            # No browser leaves it out or empty.
            if value:
                hosts.append(value)
        elif name == b"origin":
            origins.append(value)
        elif name == b"sec-fetch-site":
            site = value.lower()
    return hosts, origins, site
