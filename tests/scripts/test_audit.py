"""The audit of the lock files: what counts as a finding, and what as not known."""

from typing import Any

import pytest

from scripts import audit

CLEAN = {"name": "polars", "version": "2.1.0", "vulns": []}
SKIPPED = {"name": "numpy", "version": "2.4.6", "skip_reason": "not found"}
FOUND = {
    "name": "starlette",
    "version": "1.10.0",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["1.10.1"]}],
}


def report(*packages: dict[str, Any]) -> dict[str, Any]:
    return {"dependencies": list(packages)}


def test_a_finding_fails_and_names_the_release_that_mends_it() -> None:
    code, lines = audit.judge({"a.lock": report(CLEAN, FOUND, SKIPPED), "b.lock": report(FOUND)})
    assert code == 1
    assert lines == ["starlette==1.10.0: PYSEC-1, mended in 1.10.1"]


@pytest.mark.parametrize("name", ["PYSEC-1", "CVE-1"])
def test_an_accepted_advisory_is_no_finding(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(audit.ACCEPTED, name, "not used here")
    code, lines = audit.judge({"a.lock": report(CLEAN, FOUND)})
    assert code == 0
    assert "2 packages, 1 accepted" in lines[0]


def test_packages_that_were_not_asked_for_are_not_clean() -> None:
    code, lines = audit.judge({"a.lock": report(CLEAN, SKIPPED)})
    assert code == audit.NO_ANSWER
    assert "numpy==2.4.6" in lines[0]


def test_an_auditor_that_breaks_off_is_no_clean_result() -> None:
    code, _ = audit.judge({"a.lock": {"dependencies": [], "error": "no network"}})
    assert code == audit.NO_ANSWER


@pytest.mark.nightly
def test_locked_packages_have_no_known_vulnerability(capsys: pytest.CaptureFixture[str]) -> None:
    """By night: an advisory of tomorrow must not break the checks of a change."""
    code = audit.main([])
    said = capsys.readouterr().out
    if code == audit.NO_ANSWER:
        pytest.skip(f"the service with the advisories does not answer: {said.strip()}")
    assert code == 0, said


def test_every_accepted_advisory_has_a_reason() -> None:
    assert all(len(reason.split()) >= 3 for reason in audit.ACCEPTED.values())
