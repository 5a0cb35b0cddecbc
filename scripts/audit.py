"""Known vulnerabilities of the locked packages, asked for by pip-audit.

Usage: ``python scripts/audit.py [LOCK...]``; all lock files where none is named. Exit code 0: none
but those accepted below. 1: there are some; each is printed with the release that mends it. 3: the
service with the advisories did not answer, so nothing is known.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("deployment/docker/requirements.lock", "requirements-dev.lock")
"""The second holds all of ``requirements.lock`` and ``requirements-serving.lock``. The small one is
first: where it cannot be asked for, the other is not tried."""
ACCEPTED: dict[str, str] = {}
"""Advisories that do not concern this product: the identifier, and why."""
NO_ANSWER = 3


def run_auditor(lock: Path) -> dict[str, Any]:
    """pip-audit's report on a lock file."""
    command = [
        *(sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"),
        *("--disable-pip", "--require-hashes", "--requirement", str(lock)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return {"dependencies": [], "error": reason}
    return report


def judge(reports: Mapping[str, Mapping[str, Any]]) -> tuple[int, list[str]]:
    """Exit code and lines to print for the reports of each lock file."""
    lines: set[str] = set()
    audited: set[str] = set()
    unknown: set[str] = set()
    for lock, report in reports.items():
        if "error" in report:
            unknown.add(f"{lock}: {report['error']}")
        for package in report["dependencies"]:
            name = f"{package['name']}=={package.get('version', '?')}"
            if "skip_reason" in package:
                unknown.add(name)
                continue
            audited.add(name)
            lines.update(f"{name}: {line}" for line in _findings(package["vulns"]))
    if lines:
        return 1, sorted(lines)
    if unknown:
        shown = ", ".join(sorted(unknown)[:3])
        return NO_ANSWER, [f"{len(unknown)} packages could not be asked for: {shown} ..."]
    accepted = f", {len(ACCEPTED)} accepted" if ACCEPTED else ""
    return 0, [f"no known vulnerability in {len(audited)} packages{accepted}"]


def _findings(vulnerabilities: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    for one in vulnerabilities:
        if not {one["id"], *one.get("aliases", ())} & set(ACCEPTED):
            mended = ", ".join(one.get("fix_versions", ())) or "no release yet"
            yield f"{one['id']}, mended in {mended}"


def main(arguments: list[str]) -> int:
    """Audit the lock files and print the verdict."""
    reports: dict[str, dict[str, Any]] = {}
    for lock in arguments or LOCKS:
        reports[lock] = run_auditor(ROOT / lock)
        if all("skip_reason" in package for package in reports[lock]["dependencies"]):
            break
    code, lines = judge(reports)
    sys.stdout.write("\n".join(lines) + "\n")
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
