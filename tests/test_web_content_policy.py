"""Content security policies: inline scripts of a page, and no others."""

import base64
import hashlib

from hypothesis import given
from hypothesis import strategies as st

from rossmann.web import OWN_FILES_ONLY, content_policy

scripts = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="<>"), max_size=30), max_size=3
)


def directives(policy: str) -> dict[str, str]:
    return dict(part.split(" ", 1) for part in policy.split("; "))


@given(scripts)
def test_each_inline_script_is_allowed_by_its_digest(texts: list[str]) -> None:
    page = "".join(f"<p>a</p><script>{text}</script>" for text in texts).encode()
    allowed = directives(content_policy(page))["script-src"].split()
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
    assert allowed == ["'self'", *(f"'sha256-{digest}'" for digest in digests)]


def test_changes_replace_directives_and_the_rest_stays() -> None:
    found = directives(content_policy(b"", {"img-src": "'self'", "font-src": "'self'"}))
    assert found == OWN_FILES_ONLY | {"img-src": "'self'", "font-src": "'self'"}
