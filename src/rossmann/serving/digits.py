"""Whole numbers in addresses: digits alone, as JSON writes them."""

import re
from typing import Final

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

_WHOLE: Final = re.compile(r"-?[0-9]+")


def _digits(given: object) -> object:
    """Python itself would take 1_0 for ten, and a blank before it, or .0 after it, for nothing."""
    if isinstance(given, str) and not _WHOLE.fullmatch(given):
        raise PydanticCustomError("int_parsing", "must be a whole number, in digits")
    return given


DIGITS: Final = BeforeValidator(_digits)
"""Put it into an ``Annotated`` type of a path or a query."""
