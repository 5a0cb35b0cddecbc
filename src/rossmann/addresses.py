"""Addresses of this machine's servers and database files, built by the rules of URLs."""

import re
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field


def _normalize_base_path(value: object) -> object:
    if not isinstance(value, str):
        return value
    return f"/{value.strip('/')}" if value.strip("/") else ""


BasePath = Annotated[
    str,
    BeforeValidator(_normalize_base_path),
    # Only characters that need no escape in a URL or in nginx's configuration; no "." or "..".
    Field(pattern=r"^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*$", max_length=200),
]
"""Path below which a proxy offers a server, such as ``/forecasts``; empty: the root."""


def url_host(host: str) -> str:
    """``host`` in a URL for clients of a server that listens there: a wildcard is no address."""
    plain = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{plain}]" if ":" in plain else plain


def host_and_port(host: str, port: int) -> str:
    """Both in one text, as in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


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
