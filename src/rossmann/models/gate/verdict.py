"""The gate's verdict: one result for each check, and the table that shows them."""

import json
import math
from dataclasses import dataclass

from rossmann.errors import GateRejectedError


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check: the measured value, its limit, and whether it passed. Stored as JSON."""

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


def not_measured(check: str, reason: str) -> CheckResult:
    """A check that could not be made, and so has failed."""
    return CheckResult(check, None, None, False, reason)


@dataclass(frozen=True, slots=True)
class Verdict:
    """All checks of one version; ``compared_to``: the Production version at that time."""

    version: int
    compared_to: int | None
    results: list[CheckResult]

    @property
    def passed(self) -> bool:
        """True where there were checks and every one passed."""
        return bool(self.results) and all(result.passed for result in self.results)

    def table(self) -> str:
        """The checks as text in columns, one line each."""
        return "\n".join(_table_lines(self.results))

    def raise_if_failed(self) -> None:
        """Raise ``GateRejectedError``, with the table, unless the version passed."""
        if not self.passed:
            raise GateRejectedError(
                f"version {self.version} did not pass the gate:\n{self.table()}"
            )


def format_stored_verdict(tag: str) -> list[str]:
    """The table of a stored verdict, line by line; empty where there is none to read."""
    try:
        return _table_lines([CheckResult(**fields) for fields in json.loads(tag)])
    except (ValueError, TypeError):
        return []


def _table_lines(results: list[CheckResult]) -> list[str]:
    header = ("check", "value", "limit", "verdict")
    rows = [header, *(_cells(result) for result in results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    return [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _cells(result: CheckResult) -> tuple[str, str, str, str]:
    verdict = "passed" if result.passed else "FAILED"
    return (
        result.check,
        _number(result.value),
        _number(result.limit),
        f"{verdict} ({result.note})" if result.note else verdict,
    )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.0f}"
