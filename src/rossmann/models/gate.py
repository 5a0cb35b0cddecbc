"""The gate: whether a version may become Production, as a table with a verdict on each line.

It fails closed: what is missing, or is no number, has not passed.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from rossmann.errors import GateFailed, UnknownVersion
from rossmann.models.registry import ModelVersion, Registry
from rossmann.schema import Stage
from rossmann.settings import Settings

WINDOWS_TAG = "windows"
"""Version tag with the backtest windows as JSON: origin, days, rows, RMSPE by model."""
PASSED_TAG = "gate.passed"
TABLE_TAG = "gate.table"
_MODEL = "ensemble"
_BASELINE = "seasonal_naive"
Windows = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Line:
    """One check: the value found, the limit that it is held against, and whether it passed."""

    check: str
    value: float | None
    limit: float | None
    passed: bool
    note: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """All checks of one version; ``against``: the serving version, if it was compared."""

    version: int
    against: int | None
    lines: list[Line]

    @property
    def passed(self) -> bool:
        """True where there were checks and every one passed."""
        return bool(self.lines) and all(line.passed for line in self.lines)

    def table(self) -> str:
        """The lines as text in columns, with the verdict of each."""
        head = ("check", "value", "limit", "verdict")
        rows = [head, *(_cells(line) for line in self.lines)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        return "\n".join(
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
        )

    def require(self) -> None:
        """Raise ``GateFailed``, with the table, unless the version passed."""
        if not self.passed:
            raise GateFailed(f"version {self.version} did not pass the gate:\n{self.table()}")


def validate(registry: Registry, version: int | str, settings: Settings) -> Verdict:
    """Judge a version, and store the verdict on it (tags ``gate.passed``, ``gate.table``).

    It must beat the seasonal naive forecast on every window and, where another version serves that
    was measured on the same windows of the same data, be no worse than that one.
    Raises ``UnknownVersion`` or ``ServiceError``.
    """
    candidate = registry.find(int(version))
    serving = _serving(registry)
    if serving is not None and serving.version == candidate.version:
        serving = None
    verdict = judge(candidate, serving, settings.gate_tolerance)
    registry.set_tags(
        candidate.version,
        {
            TABLE_TAG: json.dumps([asdict(line) for line in verdict.lines]),
            "gate.against": str(verdict.against or ""),
            "gate.at": datetime.now(UTC).isoformat(timespec="seconds"),
            PASSED_TAG: "true" if verdict.passed else "false",
        },
    )
    return verdict


def judge(candidate: ModelVersion, serving: ModelVersion | None, tolerance: float) -> Verdict:
    """The checks themselves; ``tolerance``: RMSPE that counts as noise against ``serving``."""
    windows = _windows(candidate.tags)
    if not windows:
        return Verdict(candidate.version, None, [Line("backtest windows", None, None, False)])
    lines = [
        _line(f"{origin}: below seasonal naive", _score(w, _MODEL), _score(w, _BASELINE), True)
        for origin, w in windows.items()
    ]
    if serving is None:
        return Verdict(candidate.version, None, lines)
    return Verdict(
        candidate.version, serving.version, lines + _compare(candidate, serving, tolerance)
    )


def _serving(registry: Registry) -> ModelVersion | None:
    try:
        return registry.find(Stage.PRODUCTION.value)
    except UnknownVersion:
        return None


def _compare(candidate: ModelVersion, serving: ModelVersion, tolerance: float) -> list[Line]:
    name = f"version {serving.version}"
    for tag in ("data.dataset", "data.version"):
        has, other = candidate.tags.get(tag), serving.tags.get(tag)
        if has is None or has != other:
            note = f"not comparable: {tag} {has}, not {other}"
            return [Line(f"against {name}", None, None, True, note)]
    mine, theirs = _windows(candidate.tags), _windows(serving.tags)
    shared = [o for o in mine if o in theirs and mine[o].get("days") == theirs[o].get("days")]
    if not shared:
        return [Line(f"against {name}", None, None, True, "not comparable: no window in common")]
    return [
        _line(
            f"{origin}: no worse than {name}",
            _score(mine[origin], _MODEL),
            _plus(_score(theirs[origin], _MODEL), tolerance),
            False,
        )
        for origin in shared
    ]


def _line(check: str, value: float | None, limit: float | None, strictly: bool) -> Line:
    if value is None or limit is None:
        return Line(check, value, limit, False, "no measure")
    return Line(check, value, limit, value < limit if strictly else value <= limit)


def _plus(score: float | None, tolerance: float) -> float | None:
    return None if score is None else score + tolerance


def _windows(tags: Mapping[str, str]) -> Windows:
    """Windows by origin; empty where they are missing or unreadable."""
    try:
        listed = json.loads(tags.get(WINDOWS_TAG, ""))
        return {str(w["origin"]): dict(w) for w in listed}
    except (ValueError, TypeError, KeyError):
        return {}


def _score(window: Mapping[str, Any], name: str) -> float | None:
    """RMSPE of a model, or None where it is missing or no positive finite number."""
    scores = window.get("rmspe")
    value = scores.get(name) if isinstance(scores, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value > 0 else None


def _cells(line: Line) -> tuple[str, str, str, str]:
    verdict = "passed" if line.passed else "FAILED"
    return (
        line.check,
        "-" if line.value is None else f"{line.value:.4f}",
        "-" if line.limit is None else f"{line.limit:.4f}",
        f"{verdict} ({line.note})" if line.note else verdict,
    )
