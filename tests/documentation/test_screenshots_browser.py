"""Pictures of the dashboard, taken in a real browser over the stub of the service."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rossmann.documentation.screenshots import MAX_BYTES, PICTURES, WIDTH, take_screenshots
from rossmann.errors import ServiceError
from tests.fixtures.browser import free_port
from tests.fixtures.dashboard import StubService
from tests.fixtures.shared import CHROMIUM

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]
BACKGROUNDS = {"light": (255, 255, 255), "dark": (15, 23, 42)}


@pytest.mark.nightly
def test_every_picture_shows_a_finished_page(
    stub: StubService, stub_dashboard: tuple[StubService, str], tmp_path: Path
) -> None:
    paths = take_screenshots(stub_dashboard[1], tmp_path / "images")
    names = [picture.name for picture in PICTURES]
    assert [path.name for path in paths] == [f"{name}.png" for name in names]
    assert names == ["home", "single", "single-dark", "batch"]
    for path, picture in zip(paths, PICTURES, strict=True):
        assert path.stat().st_size <= MAX_BYTES
        image = Image.open(path).convert("RGB")
        assert image.width == WIDTH and 600 <= image.height <= 1600
        pixels = np.asarray(image).reshape(-1, 3)
        background = (pixels == BACKGROUNDS[picture.theme]).all(axis=1).mean()
        assert 0.4 < background < 0.95  # the page's theme, and not a blank page
        assert len(np.unique(pixels, axis=0)) > 100
    # The batch is the file's: three stores for two weeks, forecast with the range of the page.
    (body,) = [body for body in stub.predict_bodies if len(body["inputs"]) == 42]
    assert {row["Store"] for row in body["inputs"]} == {1, 2, 3}


def test_dashboard_that_is_away_is_named(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ServiceError, match=f"no picture home of the dashboard at {url}"):
        take_screenshots(url, tmp_path)
    assert list(tmp_path.iterdir()) == []
