"""Every error that the product raises on purpose, as one tree.

``RossmannError``
    ``SettingsError``      a setting is nonsense
    ``DataError``          tables that are missing or break a rule
        ``MissingData``    nothing to work on
        ``BrokenRule``     a file that breaks a declared rule
    ``RequestError``       rows that cannot be answered, with every fault and its place
        ``TooLarge``       more rows or bytes than one request may hold
        ``NotUtf8``        a body that is no text
    ``AccessError``        a caller who may not
        ``NoKey``          no key, or one that is not known
        ``NoRight``        a known key without the right
    ``ModelError``
        ``UnknownVersion`` a stage or a version that there is not
        ``NoModel``        no model can be had
        ``DamagedModel``   an artifact that cannot be trusted
        ``GateFailed``     a candidate that may not be promoted
        ``LostRace``       somebody else moved Production at the same time
    ``ServiceError``       a service that is away, or answers with an error
        ``OverRate``       a caller who calls too often
        ``Busy``           more work of a kind than is taken at once
    ``PortInUseError``     a port that something else holds
    ``AnotherRuns``        work that only one process may do, and another one does

A message says what is wrong, where, and what to do about it. Doors turn it into one line on
stderr, an HTTP answer or a box on a page; nobody shows a stack trace.
"""

from dataclasses import dataclass
from typing import Any, ClassVar


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
    """One fault of a request: where it is, what it is, and its kind (a stable word)."""

    loc: tuple[str | int, ...]
    msg: str
    type: str

    def as_dict(self) -> dict[str, Any]:
        """The shape that HTTP answers use."""
        return {"loc": list(self.loc), "msg": self.msg, "type": self.type}


class RequestError(RossmannError):
    """Rows that cannot be answered; ``faults`` lists every one of them."""

    def __init__(self, faults: list[ErrorDetail]) -> None:
        self.errors = faults
        super().__init__("; ".join(f"{'.'.join(map(str, f.loc))}: {f.msg}" for f in faults[:5]))


class PayloadTooLargeError(RequestError):
    """A request with more rows or bytes than are taken at once."""


class BodyEncodingError(RequestError):
    """A request whose body is not text in UTF-8."""


class AuthError(RossmannError):
    """A caller who may not do this."""


class AuthenticationError(AuthError):
    """A call without a key, or with one that is not known."""


class PermissionDeniedError(AuthError):
    """A call whose key is known but does not carry the right."""


class ModelError(RossmannError):
    """A model cannot be used."""


class VersionNotFoundError(ModelError):
    """A stage or version that the registry does not have."""


class ModelUnavailableError(ModelError):
    """No model can be had: none was promoted, or neither registry nor local copy answers."""


class CorruptModelError(ModelError):
    """An artifact is damaged, or was made for other features than the code's."""


class GateRejectedError(ModelError):
    """A candidate that does not pass the gate; the message holds the table."""


class PromotionConflictError(ModelError):
    """Somebody else moved Production meanwhile; nothing was changed."""


class ServiceError(RossmannError):
    """A service is away or answers with an error."""


class RateLimitError(ServiceError):
    """A caller who calls too often; ``seconds``: how long to wait before the next call."""

    def __init__(self, message: str, seconds: int) -> None:
        self.seconds = seconds
        super().__init__(message)


class ServiceBusyError(ServiceError):
    """More work of a kind than is taken at once; ``seconds``: when to come again."""

    def __init__(self, message: str, seconds: int) -> None:
        self.seconds = seconds
        super().__init__(message)


class PortInUseError(ServiceError):
    """A port is held by something that is not ours."""


class AlreadyRunningError(RossmannError):
    """Another process does this work now; nothing was changed."""

    exit_code = 12


def first_line(error: BaseException) -> str:
    """The first line of an error's text; the name of its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
