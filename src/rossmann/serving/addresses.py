"""What stands in the address of a call: whole numbers, and the names of its options."""

import re
from typing import Final

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError
from starlette.requests import Request

from rossmann.errors import Fault, RequestError

_WHOLE: Final = re.compile(r"-?[0-9]+")


def _digits(given: object) -> object:
    """Python itself would take 1_0 for ten, and a blank before it, or .0 after it, for nothing."""
    if isinstance(given, str) and not _WHOLE.fullmatch(given):
        raise PydanticCustomError("int_parsing", "must be a whole number, in digits")
    return given


DIGITS: Final = BeforeValidator(_digits)
"""Whole numbers as JSON writes them. Put it into an ``Annotated`` type of a path or a query."""


async def only_its_options(request: Request) -> None:
    """A dependency: raises ``RequestError`` for options in the query that the call does not have.

    An option that is spelled wrong would else be left out, and the usual answer be taken for the
    one that was asked for.
    """
    there = [field.alias for field in request.scope["route"].dependant.query_params]
    choice = f"there are: {', '.join(there)}" if there else "there are none"
    faults = [
        Fault(("query", name[:80]), f"{name[:80]} is not an option; {choice}", "extra_forbidden")
        for name in request.query_params
        if name not in there
    ]
    if faults:
        raise RequestError(faults)
