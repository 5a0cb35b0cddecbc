"""Settings of who may call, from where, and how often."""

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode


class Access(BaseSettings):
    """Keys, tokens, limits of callers, and the sites and proxies that are believed."""

    api_keys: str = ""
    """SHA-256 of keys, as ``right:hex:name`` with commas between; see ``rossmann keys``."""
    api_key: str = ""
    """The key that this program's own client (the dashboard) sends; a secret."""
    oidc_issuer: str = ""
    """Provider of tokens (OpenID Connect), as its discovery document spells it; empty: none."""
    oidc_audience: str = ""
    """For whom a token must be made."""
    oidc_rights_claim: str = "scope"
    """Where a token says ``predict`` or ``operate``; dots lead into objects."""
    stores_for_anyone: bool = True
    """Whether ``GET /stores...``, which shows sales, needs no key."""
    rate_limit: str = ""
    """Calls of one key, or of one address without a key, such as ``20/second, 600/minute``."""
    rate_limit_rows: str = ""
    """The same for rows that are forecast: when they are used up, the next call waits."""
    rate_limit_store: str = ""
    """Redis by URL, where several machines share the count; empty: workers of this one do."""
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Sites whose pages may call, as ``https://host`` with commas between; empty: none."""
    trusted_proxies: str = ""
    """Addresses of the proxies whose ``X-Forwarded-For`` is believed, with commas between."""
    tls_in_front: bool = False
    """A proxy in front speaks TLS: browsers are told to use nothing else."""

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(filter(None, re.split(r"[\s,]+", value))) if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s*@]+", origin):
                raise ValueError(f"{origin[:60]} must be such as https://host or https://host:8443")
        return value

    @model_validator(mode="after")
    def _provider_fits(self) -> "Access":
        if not self.oidc_issuer:
            return self
        address = urlsplit(self.oidc_issuer)
        here = address.hostname in {"localhost", "127.0.0.1", "::1"}
        if address.scheme != "https" and not (address.scheme == "http" and here):
            raise ValueError("oidc_issuer must be https, or http on this machine")
        if "@" in address.netloc:
            raise ValueError("oidc_issuer must hold no user and no password")
        if not self.oidc_audience:
            raise ValueError("oidc_audience must name this service, as tokens made for it do")
        return self
