"""The client's way of a file: from disk to the service and back to disk, never whole in memory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from pydantic import TypeAdapter

from rossmann.schema import Objective
from rossmann.serving.messages import Notice

_BLOCK = 1 << 20
_NOTICES = TypeAdapter(list[Notice])


@dataclass(frozen=True)
class FileAnswer:
    """What was told of a file that was forecast; ``path``: where its rows are."""

    path: Path
    count: int
    model_version: int
    model_stage: str
    as_of: str
    objective: str
    warnings: list[Notice]


def file_options(
    target: Path,
    stage: str | int,
    as_of: str | None,
    intervals: Sequence[float],
    objective: Objective | None,
    date_format: str | None,
) -> dict[str, str]:
    """The query; what is not asked for is left to the service."""
    form = target.suffix.lower().removeprefix(".")
    asked = {
        "model_stage": str(stage),
        "as_of": as_of,
        "intervals": ",".join(str(float(level)) for level in intervals),
        "objective": objective,
        "date_format": date_format,
        "format": form if form in {"csv", "parquet", "xlsx"} else None,
    }
    return {name: value for name, value in asked.items() if value}


def send_file(
    http: httpx.Client,
    source: Path,
    target: Path,
    params: Mapping[str, str],
    timeout: httpx.Timeout,
    check: Callable[[httpx.Response], None],
) -> FileAnswer:
    """Send ``source`` and write the answer to ``target``, which is there only when it is whole.

    ``check`` raises for a refusal. Raises ``httpx.HTTPError`` where the answer breaks off,
    ``KeyError`` or ``ValueError`` where what answers is another service.
    """
    draft = target.with_name(f".{target.name}.draft")
    try:
        with (
            source.open("rb") as body,
            http.stream(
                "POST", "/predict/file", content=body, params=params, timeout=timeout
            ) as answer,
        ):
            if answer.status_code >= 400:
                answer.read()
                check(answer)
            told = _told(answer.headers, target)
            with draft.open("wb") as out:
                for block in answer.iter_bytes(_BLOCK):
                    out.write(block)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return told


def _told(headers: httpx.Headers, target: Path) -> FileAnswer:
    return FileAnswer(
        path=target,
        count=int(headers["X-Rows"]),
        model_version=int(headers["X-Model-Version"]),
        model_stage=headers["X-Model-Stage"],
        as_of=headers["X-As-Of"],
        objective=headers["X-Objective"],
        warnings=_NOTICES.validate_json(headers["X-Warnings"]),
    )
