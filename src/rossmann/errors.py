"""Exceptions for users: each message says what is wrong, where, and what to do about it.

Entry points turn them into one line on stderr, an HTTP response or a box on a page. The table
from error to HTTP status is in ``serving.schemas.errors``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

if TYPE_CHECKING:
    from pydantic import ValidationError

_SECRET: Final = re.compile(r"API_KEYS?$|_UR[IL]$|_STORE$|_PASSWORD$")
"""Variables whose value may hold a key or a password."""
_KUBERNETES_PORT: Final = re.compile(r"(tcp|udp|sctp)://\S+:[0-9]+")
_SHOWN: Final = 60


class RossmannError(Exception):
    """Base of all errors that carry a message for users.

    ``exit_code``: what a command that it ends answers with.
    """

    exit_code: ClassVar[int] = 1


class SettingsError(RossmannError):
    """A setting has a value that cannot work."""


class DataError(RossmannError):
    """The tables cannot be used."""


class DataNotFoundError(DataError):
    """A table or a prepared file is not there."""


class DataValidationError(DataError):
    """A table breaks a declared rule; the message holds the rule, the count and the first rows."""


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    """One error of a request: its location, its text, and its type (a stable word)."""

    loc: tuple[str | int, ...]
    msg: str
    type: str

    def as_dict(self) -> dict[str, Any]:
        """The fields of an error in HTTP responses."""
        return {"loc": list(self.loc), "msg": self.msg, "type": self.type}


MAX_REPORTED_ERRORS: Final = 1_000
"""Errors that one response lists: a body of some megabytes can have a million."""


def cut_errors(errors: list[ErrorDetail], count: int | None = None) -> list[ErrorDetail]:
    """The first ``MAX_REPORTED_ERRORS``, and one that says how many more there are.

    ``count``: of all errors, where these are not all.
    """
    more = max(len(errors), count or 0) - MAX_REPORTED_ERRORS
    if more <= 0:
        return errors
    number = "" if count is None else f"{more:,} "
    msg = f"{number}more faults are not listed"
    return [*errors[:MAX_REPORTED_ERRORS], ErrorDetail(("rows",), msg, "more_faults")]


class RequestError(RossmannError):
    """Invalid rows or options; ``errors`` lists every error."""

    def __init__(self, errors: list[ErrorDetail]) -> None:
        self.errors = errors
        super().__init__("; ".join(f"{'.'.join(map(str, e.loc))}: {e.msg}" for e in errors[:5]))


class PayloadTooLargeError(RequestError):
    """A request with more rows or bytes than are taken at once."""


class BodyEncodingError(RequestError):
    """A request whose body is not text in UTF-8."""


class MediaTypeError(RequestError):
    """A body whose Content-Type is not the one that is read."""


class AuthError(RossmannError):
    """A caller who may not do this."""


class AuthenticationError(AuthError):
    """A call without a key, or with one that is not known."""


class PermissionDeniedError(AuthError):
    """A call whose key is known but does not carry the right."""


class HostNotAllowedError(PermissionDeniedError):
    """A call of an open service under a name that is not known to be its own."""


class CrossSiteError(PermissionDeniedError):
    """A call of an open service that a browser sent for a page of another site."""


class ModelError(RossmannError):
    """A model cannot be used."""


class VersionNotFoundError(ModelError):
    """A stage or version that the registry does not have."""


class ModelUnavailableError(ModelError):
    """No model can be had: none was promoted, or neither registry nor local copy answers."""


class CorruptModelError(ModelError):
    """A damaged artifact, or one that was made for other features than the code's."""


class GateRejectedError(ModelError):
    """A candidate that does not pass the gate; the message holds the table."""


class PromotionConflictError(ModelError):
    """Somebody else moved Production meanwhile; nothing was changed."""


class ServiceError(RossmannError):
    """A service is away or answers with an error."""


class RetryLaterError(ServiceError):
    """A call that may succeed after ``seconds``."""

    def __init__(self, message: str, seconds: int) -> None:
        self.seconds = seconds
        super().__init__(message)


class RateLimitError(RetryLaterError):
    """A caller who calls too often."""


class ServiceBusyError(RetryLaterError):
    """More work of a kind than is taken at once."""


class PortInUseError(ServiceError):
    """A port is held by another process."""


class NotInstalledError(RossmannError):
    """A package is needed that is not installed."""


class DocumentationError(RossmannError):
    """The documentation site cannot be built."""


class BackupError(RossmannError):
    """A backup cannot be made, or cannot be restored; nothing was kept of the attempt."""


class AlreadyRunningError(RossmannError):
    """Another process does this work now; nothing was changed."""

    exit_code = 12


EXIT_CODES: Final[dict[str, str]] = {
    "0": "Success; for `retrain`: a new version is in Staging, or with `--promote` in Production",
    "1": "An error, which the last line on stderr explains",
    "2": "The command line makes no sense: an unknown verb or option, or a bad value",
    "10": "`retrain`: nothing is new, so nothing was trained",
    "11": "`retrain`: the new version did not pass the gate and stays without a stage",
    "12": "Another process does this work now; nothing was changed",
    "128 + N": "Signal N ended the command: 130 after Ctrl-C, 143 after SIGTERM",
}
"""Exit codes of the command line."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text; the name of its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def missing_package_message(error: ModuleNotFoundError) -> str:
    """What to do about a package that this installation was made without."""
    return (
        f"{error.name} is not installed here. An installation for the prediction service alone has"
        " no packages for training, the registry and the dashboard: install rossmann[all], with"
        " requirements.lock, or use the image `all`"
    )


def settings_error_message(error: "ValidationError") -> str:
    """All faults of settings in one line: the variable, its value, the rule, and the cause."""
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
