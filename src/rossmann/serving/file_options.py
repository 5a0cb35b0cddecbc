"""What a file is asked to be forecast with: the query of ``POST /predict/file``."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from rossmann.data.upload_dates import DATE_FORMATS
from rossmann.data.upload_parts import Kind
from rossmann.errors import Fault, RequestError
from rossmann.schema import Objective
from rossmann.serving.columns import read_day
from rossmann.serving.messages import PredictOptions
from rossmann.serving.reading import faults_of, shown

KINDS: Final[tuple[Kind, ...]] = ("csv", "parquet", "xlsx")
OPTIONS: Final = ("model_stage", "as_of", "intervals", "objective", "date_format", "format")


@dataclass(frozen=True, slots=True)
class Asked:
    """The options; ``as_of`` in days since 1970-01-01, ``form`` None for the file's own."""

    model_stage: str | int
    as_of: int | None
    levels: tuple[float, ...]
    objective: Objective | None
    date_format: str | None
    form: Kind | None


def read_options(query: Iterable[tuple[str, str]]) -> Asked:
    """Read the query's pairs; raises ``RequestError`` with every fault."""
    given: dict[str, Any] = {}
    faults: list[Fault] = []
    for name, text in query:
        if name not in OPTIONS:
            msg = f"{name[:80]} is not an option; there are: {', '.join(OPTIONS)}"
            faults.append(Fault((name[:80],), msg, "extra_forbidden"))
        elif name == "intervals":
            parts = [part.strip() for part in text.split(",")]
            given.setdefault(name, []).extend(_number(part) for part in parts if part)
        elif text:
            given[name] = text
    date_format, form = given.pop("date_format", None), given.pop("format", None)
    options = PredictOptions()
    try:
        options = PredictOptions.model_validate(given)
    except ValidationError as error:
        faults += faults_of(error, OPTIONS)
    as_of = None if options.as_of is None else read_day(options.as_of)
    if options.as_of is not None and as_of is None:
        msg = f"as_of must be a real date written YYYY-MM-DD (got {shown(options.as_of)})"
        faults.append(Fault(("as_of",), msg, "date_format"))
    chosen = _chosen("date_format", date_format, DATE_FORMATS, faults)
    wanted = _chosen("format", form, KINDS, faults)
    if faults:
        raise RequestError(faults)
    levels = tuple(dict.fromkeys(options.intervals or ()))
    known = next((kind for kind in KINDS if kind == wanted), None)
    return Asked(options.model_stage, as_of, levels, options.objective, chosen, known)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text  # so that it is refused in the words of every other number


def _chosen(
    name: str, text: str | None, choices: tuple[str, ...], faults: list[Fault]
) -> str | None:
    if text is None:
        return None
    for choice in choices:
        if choice.casefold() == text.strip().casefold():
            return choice
    msg = f"{name} must be one of {', '.join(choices)} (got {shown(text)})"
    faults.append(Fault((name,), msg, "literal_error"))
    return None
