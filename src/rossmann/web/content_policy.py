"""Content security policies of pages with inline scripts, which they allow by digest."""

import base64
import hashlib
import re
from typing import Final

_SCRIPT: Final = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
OWN_FILES_ONLY: Final = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self' 'unsafe-inline'",  # style sheets that scripts make in the page
    "img-src": "'self' data:",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
"""Directives of a page that loads from its own address only, and that no other page shows."""


def content_policy(page: bytes, changes: dict[str, str] | None = None) -> str:
    """The policy of an HTML page: ``OWN_FILES_ONLY`` with ``changes``, and its inline scripts."""
    directives = OWN_FILES_ONLY | (changes or {})
    digests = [
        f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"
        for script in _SCRIPT.findall(page)
    ]
    directives["script-src"] = " ".join((directives["script-src"], *digests))
    return "; ".join(f"{name} {value}" for name, value in directives.items())
