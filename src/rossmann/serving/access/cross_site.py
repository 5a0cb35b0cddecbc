"""Checks of calls that a browser may send for a page of another site, to a service without keys.

A key is protection enough: a page cannot send its header to another site without a preflight,
which is refused. Without keys, a page that a user of this machine visits could call the service by
a form, by ``fetch`` with a body of plain text, or by DNS rebinding: its own name, resolved to this
machine.
"""

import re
from typing import Final

from starlette.types import Scope

from rossmann.addresses import host_name, is_loopback
from rossmann.errors import CrossSiteError, HostNotAllowedError, PermissionDeniedError
from rossmann.serving.request_parsing.body import JSON_TYPE_KEY
from rossmann.settings import Settings

_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OTHER_SITES: Final = frozenset({b"cross-site", b"same-site"})
"""``Sec-Fetch-Site`` of other sites and of other ports or subdomains of this one."""
_MAX_CACHED_HOSTS: Final = 64
_UNPRINTABLE: Final = re.compile(r"[^\x21-\x7e]")


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
