"""What a gate says: a line for each check, and the verdict of them all."""

import json
import math
from dataclasses import dataclass

from rossmann.errors import GateRejectedError


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check: the value found, the limit that it is held against, and whether it passed."""

    check: str
    value: float | None
    limit: float | None
    passed: bool
    note: str = ""


def at_most(check: str, value: float | None, limit: float, note: str = "") -> CheckResult:
    """Passed where ``value`` is a number and no more than ``limit``."""
    if value is None or not math.isfinite(value):
        return CheckResult(check, None, limit, False, note or "no measure")
    return CheckResult(check, value, limit, value <= limit, note)


def at_least(check: str, value: float | None, limit: float, note: str = "") -> CheckResult:
    """Passed where ``value`` is a number and no less than ``limit``."""
    if value is None or not math.isfinite(value):
        return CheckResult(check, None, limit, False, note or "no measure")
    return CheckResult(check, value, limit, value >= limit, note)


def not_measured(check: str, why: str) -> CheckResult:
    """A check that could not be made: what is not measured has not passed."""
    return CheckResult(check, None, None, False, why)


@dataclass(frozen=True, slots=True)
class Verdict:
    """All checks of one version; ``against``: the version that served when it was judged."""

    version: int
    compared_with: int | None
    lines: list[CheckResult]

    @property
    def passed(self) -> bool:
        """True where there were checks and every one passed."""
        return bool(self.lines) and all(line.passed for line in self.lines)

    def table(self) -> str:
        """The lines as text in columns, with the verdict of each."""
        return "\n".join(_columns(self.lines))

    def raise_if_failed(self) -> None:
        """Raise ``GateFailed``, with the table, unless the version passed."""
        if not self.passed:
            raise GateRejectedError(
                f"version {self.version} did not pass the gate:\n{self.table()}"
            )


def format_stored_verdict(tag: str) -> list[str]:
    """The table of a stored verdict, line by line; empty where there is none to read."""
    try:
        return _columns([CheckResult(**fields) for fields in json.loads(tag)])
    except (ValueError, TypeError):
        return []


def _columns(lines: list[CheckResult]) -> list[str]:
    head = ("check", "value", "limit", "verdict")
    rows = [head, *(_cells(line) for line in lines)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _cells(line: CheckResult) -> tuple[str, str, str, str]:
    verdict = "passed" if line.passed else "FAILED"
    return (
        line.check,
        _number(line.value),
        _number(line.limit),
        f"{verdict} ({line.note})" if line.note else verdict,
    )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.0f}"
