"""Messages for settings that cannot be used: the variable, its value, the rule, and the cause."""

import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

_SECRET: Final = re.compile(r"API_KEYS?$|_UR[IL]$|_STORE$")
"""Variables whose value may hold a key or a password."""
_KUBERNETES_PORT: Final = re.compile(r"(tcp|udp|sctp)://\S+:[0-9]+")
_SHOWN: Final = 60


def settings_error_message(error: ValidationError) -> str:
    """All faults in one line."""
    return "settings are not usable: " + "; ".join(_fault(dict(one)) for one in error.errors())


def _fault(fault: Mapping[str, Any]) -> str:
    variable = f"ROSSMANN_{'_'.join(map(str, fault['loc'])).upper() or '*'}"
    text = f"{variable}: {fault['msg'].removeprefix('Value error, ')}"
    value = fault.get("input")
    if not isinstance(value, str | int | float) or _SECRET.search(variable):
        return text
    shown = repr(value)
    text += f" (got {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '...'})"
    if isinstance(value, str) and _KUBERNETES_PORT.fullmatch(value):
        service = variable.removesuffix("_PORT").lower().replace("_", "-")
        text += (
            f". Kubernetes sets {variable} for a service named {service}: give the service another"
            f" name, put enableServiceLinks: false into the pod's specification, or set {variable}"
            " to the port's number in the container"
        )
    return text
