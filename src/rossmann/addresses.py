"""Addresses of servers and of SQLite files: how URLs are built, and which proxy leads there.

``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` (or in small letters, which go
first) mean what they mean to ``requests``, which MLflow's client uses. httpx alone reads them
differently: a variable that it cannot parse ends every client, also of addresses that need none.
Addresses of this machine are reached without a proxy.
"""

import os
import re
import socket
import ssl
from collections.abc import Iterable, Sequence
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

from pydantic import AfterValidator

from rossmann.errors import SettingsError

if TYPE_CHECKING:
    import httpx

AUTHORITY_VARIABLES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""Trusted certificate authorities, as OpenSSL and httpx name them."""


def _parse_host(value: str) -> str:
    host = value.strip()
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        ip_address(host)
    except ValueError as error:
        if not re.fullmatch(r"\w[\w.-]*", host):
            raise ValueError(
                "must be an address or a name of this machine, such as 127.0.0.1, without http://"
                " and without a port"
            ) from error
    if "%" in host:
        raise ValueError("addresses of one network interface only (with %) are not supported")
    return host


Host = Annotated[str, AfterValidator(_parse_host)]
"""Where a server listens: an address, IPv6 without brackets, or a name."""


def _parse_base_path(value: str) -> str:
    path = f"/{value.strip('/')}" if value.strip("/") else ""
    # Only characters that need no escape in a URL or in nginx's configuration; no "." or "..".
    if not re.fullmatch(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*", path) or len(path) > 200:
        raise ValueError("must be such as /forecasts, of English letters, digits and . _ ~ -")
    return path


BasePath = Annotated[str, AfterValidator(_parse_base_path)]
"""Path below which a proxy offers a server, such as ``/forecasts``; empty: the root."""


def _parse_http_url(value: str) -> str:
    # The message does not repeat the value: there may be a password in it.
    if value and not re.match(r"https?://[^/]", value):
        raise ValueError("must be an address such as http://127.0.0.1:8000")
    return value


HttpUrl = Annotated[str, AfterValidator(_parse_http_url)]
"""Address of a server, or empty."""


def _parse_store_urls(value: str) -> str:
    for store in store_urls(value):
        if not re.fullmatch(r"(file:///|[a-z][a-z0-9+.-]*://)[^/@?#%]+(/[^/?#%]+)*/?", store):
            raise ValueError(
                f"{store[:60]!r} must be such as s3://bucket/folder, with commas between several"
            )
    return value


StoreUrls = Annotated[str, AfterValidator(_parse_store_urls)]
"""Stores that files of versions may come from besides MLflow's server: URLs such as
``s3://bucket/folder``, with commas between, or empty."""


def store_urls(value: str) -> tuple[str, ...]:
    """The single URLs of ``StoreUrls``."""
    return tuple(filter(None, re.split(r"[\s,]+", value)))


def url_host(host: str) -> str:
    """``host`` in a URL for clients of a server that listens there: a wildcard is no address."""
    plain = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{plain}]" if ":" in plain else plain


def host_and_port(host: str, port: int) -> str:
    """Both in one text, as in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


_HOST_HEADER: Final = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:/?#@\[\],]+)(:[0-9]{1,5})?")


def host_name(header: str) -> str | None:
    """The name or address in a ``Host`` header, in small letters; None where it holds neither.

    Addresses are in their usual form: an IPv4 address that is mapped into IPv6 is one of IPv4.
    """
    match = _HOST_HEADER.fullmatch(header.strip().lower())
    if match is None:
        return None
    name = match[1].strip("[]").rstrip(".")
    try:
        return plain_address(name)
    except ValueError:
        return None if match[1].startswith("[") else name


def _parse_host_names(value: tuple[str, ...]) -> tuple[str, ...]:
    names = [host_name(name) for name in value]
    for name, shown in zip(names, value, strict=True):
        if name is None or "*" in name or name != shown.lower().strip("[]").rstrip("."):
            raise ValueError(f"{shown[:60]} must be a name or address such as forecasts.example")
    return tuple(filter(None, names))


HostNames = Annotated[tuple[str, ...], AfterValidator(_parse_host_names)]
"""Names or addresses that servers are called by, without ports."""


def plain_address(text: str) -> str:
    """An address in its usual form, IPv4 where it is mapped into IPv6; raises ``ValueError``."""
    address = ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def is_loopback(host: str) -> bool:
    """Whether ``host`` is reachable from this machine only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def reachable_hosts(host: str, urls: Iterable[str], names: Iterable[str]) -> frozenset[str]:
    """By what a server that listens on ``host`` can be called, in small letters.

    The loopback, ``host`` itself (for a wildcard, every address of this machine now), the hosts
    of ``urls``, and ``names``.
    """
    found = {"localhost", "127.0.0.1", "::1", host.lower(), *names}
    if host in {"0.0.0.0", "::"}:
        import psutil

        networks = psutil.net_if_addrs().values()
        found.update(
            item.address.partition("%")[0]
            for items in networks
            for item in items
            if item.family in {socket.AF_INET, socket.AF_INET6}
        )
    found.update(filter(None, map(_url_name, urls)))
    # Addresses as they are written, and in their usual form.
    return frozenset({*found, *filter(None, map(host_name, found))})


def _url_name(url: str) -> str | None:
    try:
        return host_name(urlsplit(url).netloc.rpartition("@")[2])
    except ValueError:
        return None


def is_this_machine(host: str) -> bool:
    """Whether ``host`` is a name or an address of this machine; no name is looked up."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified or _is_bindable(name)


def _is_bindable(address: str) -> bool:
    """Only the address of an own network interface can be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def sqlite_url(path: Path, driver: str = "sqlite") -> str:
    """SQLAlchemy's URL of a SQLite file; characters such as ``?`` and ``%`` are escaped."""
    from sqlalchemy import URL

    return URL.create(driver, database=str(path)).render_as_string(hide_password=False)


def redact_password(url: str) -> str:
    """A URL that may be shown."""
    url = re.sub(r"(?i)(password=)[^&]*", r"\1***", url)
    head, at, tail = url.rpartition("@")
    scheme, colon, _ = head.partition("://")
    return f"{scheme}{colon}***@{tail}" if at else url


def with_driver(url: str) -> str:
    """A PostgreSQL URL with the driver that is installed, where it names none."""
    return re.sub(r"^postgres(ql)?://", "postgresql+psycopg2://", url)


def with_password(url: str, password: str) -> str:
    """A database's URL with ``password``, unless it holds one or none is given.

    Raises ``SettingsError`` where ``url`` is none; the message does not repeat it.
    """
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    if not password:
        return url
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise SettingsError(
            "a database's address must be such as postgresql://user@host/name"
        ) from error
    if parsed.password or "password" in parsed.query:
        return url
    if parsed.username:
        parsed = parsed.set(password=password)
    else:  # SQLAlchemy writes no password without a user
        parsed = parsed.update_query_dict({"password": password})
    return parsed.render_as_string(hide_password=False)


def without_credentials(url: str) -> str:
    """A URL without the user and the password in it."""
    return redact_password(url).replace("***@", "")


_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^\s;,'\")]+", re.IGNORECASE)


def without_addresses(text: str) -> str:
    """A message for callers of the service, who need not know the addresses of other servers."""
    return _URL.sub("its address", text)


def find_proxy(url: "httpx.URL") -> "httpx.Proxy | None":
    """The proxy for requests to ``url``, None where they go directly.

    Raises ``SettingsError`` naming the variable where its value cannot be used.
    """
    import httpx

    proxies = getproxies_environment()
    scheme = next((name for name in (url.scheme, "all") if proxies.get(name)), None)
    if scheme is None or is_this_machine(url.host) or _is_exempt(url, proxies.get("no", "")):
        return None
    value = proxies[scheme]
    try:
        proxy = httpx.Proxy(value if "://" in value else f"http://{value}")
    except (ValueError, httpx.InvalidURL) as error:
        raise _proxy_error(scheme, value, url) from error
    if proxy.url.scheme not in {"http", "https"} or not proxy.url.host:
        raise _proxy_error(scheme, value, url)
    return proxy


def _is_exempt(url: "httpx.URL", no_proxy: str) -> bool:
    """Whether ``NO_PROXY`` holds the host, a domain above it, or a network around its address."""
    names = (url.host, f"{url.host}:{url.port}")
    for entry in no_proxy.lower().split(","):
        suffix = entry.strip().lstrip(".")
        if suffix and any(f".{name}".endswith(f".{suffix}") for name in names):
            return True
        if suffix == "*" or ("/" in suffix and _contains(suffix, url.host)):
            return True
    return False


def _contains(network: str, address: str) -> bool:
    try:
        return ip_address(address) in ip_network(network, strict=False)
    except ValueError:
        return False


def _proxy_error(scheme: str, value: str, url: "httpx.URL") -> SettingsError:
    names = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY")
    variable = next((name for name in names if os.environ.get(name)), names[1])
    return SettingsError(
        f"{variable}={redact_password(value)} cannot be used for {url.scheme}://{url.host}: a proxy"
        " must be such as http://proxy:3128 (SOCKS is not supported); correct the variable, unset"
        f" it, or add {url.host} to NO_PROXY"
    )


def exempt_from_proxies(*hosts: str) -> None:
    """Add hosts to ``NO_PROXY`` in this process's environment, for libraries that read it."""
    listed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    text = ",".join(filter(None, (listed, *hosts)))
    os.environ.update({"NO_PROXY": text, "no_proxy": text})


def open_transport(
    url: "str | httpx.URL", verify: ssl.SSLContext | bool | None = None
) -> "httpx.HTTPTransport":
    """The transport of an ``httpx.Client`` of ``url``, which must not follow redirects.

    ``verify``: how servers' certificates are checked; None: by ``tls_context``. Raises
    ``SettingsError`` for an environment variable that cannot be used.
    """
    import httpx

    url = httpx.URL(url)
    if verify is None:
        verify = tls_context() if url.scheme == "https" else False  # no variable counts for http
    return httpx.HTTPTransport(verify=verify, proxy=find_proxy(url))


def tls_context(variables: Sequence[str] = AUTHORITY_VARIABLES) -> ssl.SSLContext:
    """TLS that checks certificates by the file or folder that the first set variable names.

    Where none is set, by the authorities that httpx brings. Raises ``SettingsError`` for a file
    that cannot be used.
    """
    import httpx

    variable = next((name for name in variables if os.environ.get(name)), None)
    if variable is None:
        return httpx.create_ssl_context(trust_env=False)
    path = os.environ[variable]
    folder = Path(path).is_dir()
    try:
        return ssl.create_default_context(
            cafile=None if folder else path, capath=path if folder else None
        )
    except OSError as error:
        raise certificate_error(variable, path, error) from error


def certificate_error(variable: str, path: str, error: OSError) -> SettingsError:
    """The error for a variable whose file of certificates or keys cannot be used."""
    if isinstance(error, ssl.SSLError):
        reason = "is not in PEM format, or lacks the private key"
    else:
        reason = f"cannot be read: {error.strerror}"
    return SettingsError(f"{variable} names {path}, which {reason}")
