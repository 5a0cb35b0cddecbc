"""HTTP transports by the environment's proxy variables; none for addresses of this machine.

``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` (or in small letters, which go
first) mean what they mean to ``requests``, which MLflow's client uses. httpx alone reads them
differently: a variable that it cannot parse ends every client, also of addresses that need none.
"""

import os
import ssl
from ipaddress import ip_address, ip_network
from urllib.request import getproxies_environment

import httpx

from rossmann.addresses import is_this_machine, redact_password
from rossmann.errors import SettingsError


def find_proxy(url: httpx.URL) -> httpx.Proxy | None:
    """The proxy for requests to ``url``, None where they go directly.

    Raises ``SettingsError`` naming the variable where its value cannot be used.
    """
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


def _is_exempt(url: httpx.URL, no_proxy: str) -> bool:
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


def _proxy_error(scheme: str, value: str, url: httpx.URL) -> SettingsError:
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
    url: str | httpx.URL, verify: ssl.SSLContext | bool = True
) -> httpx.HTTPTransport:
    """The transport of an ``httpx.Client`` of ``url``; raises ``SettingsError`` as ``find_proxy``.

    ``verify``: how servers' certificates are checked; True: ``SSL_CERT_FILE``, ``SSL_CERT_DIR``, or
    the authorities that httpx brings.
    """
    return httpx.HTTPTransport(verify=verify, proxy=find_proxy(httpx.URL(url)))
