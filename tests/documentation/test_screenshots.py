"""Pictures of the dashboard where the browser's tools are missing."""

import sys
from pathlib import Path

import pytest

from rossmann.documentation import screenshots
from rossmann.errors import SettingsError


def test_missing_playwright_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "playwright.sync_api", None)
    with pytest.raises(SettingsError, match=r"pictures need Playwright.*scripts/test\.sh"):
        screenshots.take_screenshots("http://127.0.0.1:8501", tmp_path)


def test_missing_chromium_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match="pictures need Chromium"):
        screenshots.take_screenshots("http://127.0.0.1:8501", tmp_path)
