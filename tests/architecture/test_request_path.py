"""The two paths of docs/explanations/request-path.md: modules of a request and of a training row.

Both are traced on a small chain and compared with the lists in the document: the order in which
modules are first entered, and which of them a request enters more than once.
"""

import asyncio
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from rossmann.data.demo.write_tables import write_demo
from rossmann.data.make_dataset import make_dataset
from rossmann.data.panel.panel import build_panel
from rossmann.models.training.train import train
from rossmann.serving.observability import gauges
from rossmann.settings import Settings
from tests.paths import ROOT, SOURCE

MakeForecaster = Callable[[Path], Any]

HELPERS = ("schema.py", "epoch_days.py", "errors.py", "logging_config.py", "numba_kernel.py",
           "process_memory.py", "settings.py", "filesystem/",
           "serving/observability/tracing.py", "serving/schemas/")  # fmt: skip
"""What any module may call at any point: value types, dates, errors, files, spans, memory."""


class ModuleTrace:
    """The modules that are entered from another module, in order.

    Several calls out of one entry of the calling module count as one entry.
    """

    def __init__(self) -> None:
        self.entries: list[str] = []
        self._entry_of: dict[int, int] = {}
        self._frames: list[FrameType] = []  # keeps ids unique
        self._entries_by_caller: dict[tuple[int, str], int] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Trace this thread and those that begin in the block."""
        threading.setprofile(self._on_event)
        sys.setprofile(self._on_event)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]

    def first_entries(self) -> list[str]:
        """Each module once, in the order in which they are first entered."""
        return list(dict.fromkeys(self.entries))

    def entered_again(self) -> set[str]:
        """The modules that are entered more than once."""
        return {module for module, count in Counter(self.entries).items() if count > 1}

    def _on_event(self, frame: FrameType, event: str, _: Any) -> None:
        module = _module_of(frame)
        if event != "call" or module is None or id(frame) in self._entry_of:
            return  # a resumed coroutine is no new entry
        self._frames.append(frame)
        caller = frame.f_back
        while caller is not None and _module_of(caller) is None:
            caller = caller.f_back
        entry = -1 if caller is None else self._entry_of.get(id(caller), -1)
        if caller is None or _module_of(caller) != module:
            if (entry, module) not in self._entries_by_caller:
                self.entries.append(module)
                self._entries_by_caller[entry, module] = len(self.entries)
            entry = self._entries_by_caller[entry, module]
        self._entry_of[id(frame)] = entry


def _module_of(frame: FrameType) -> str | None:
    """The frame's module as the document names it; None for other code and for helpers."""
    if not frame.f_code.co_filename.startswith(str(SOURCE)):
        return None
    name = Path(frame.f_code.co_filename).relative_to(SOURCE).as_posix()
    return None if name.startswith(HELPERS) or not name.endswith(".py") else name


def documented(heading: str) -> tuple[list[str], set[str]]:
    """The numbered modules under a heading, and those of them that are marked as entered again."""
    text = (ROOT / "docs/explanations/request-path.md").read_text("utf-8")
    section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = re.findall(r"^\d+\. (.*)$", section, re.MULTILINE)
    modules = [re.match(r"`([^`]+)`", line) for line in lines]
    names = [match.group(1) for match in modules if match is not None]
    assert len(names) == len(lines)
    again = {name for name, line in zip(names, lines, strict=True) if "**again**" in line}
    return names, again


@pytest.fixture
def make_forecaster(make_trained: MakeForecaster) -> MakeForecaster:
    return make_trained


def test_a_request_takes_the_documented_path(
    make_app: Callable[..., FastAPI],
    row: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Gauges are refreshed at intervals, which is no part of a request's path.
    monkeypatch.setattr(gauges, "_REFRESH_SECONDS", 3_600)
    app, trace = make_app(), ModuleTrace()

    async def run() -> None:
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
        ):
            body = {"inputs": [row(1)], "intervals": [0.8]}
            await client.post("/predict", json=body)  # lazy imports and compilation
            await asyncio.sleep(0.2)
            with trace.running():
                response = await client.post("/predict", json=body)
                await asyncio.sleep(0.2)  # the response is counted and logged after it is sent
            assert response.status_code == 200

    asyncio.run(run())
    modules, again = documented("The path of a request")
    assert trace.first_entries() == modules
    assert trace.entered_again() == again


def test_a_training_row_takes_the_documented_path(chain_settings: Settings, tmp_path: Path) -> None:
    settings = chain_settings.model_copy(update={"data_dir": tmp_path})
    write_demo(settings.demo_raw_dir, seed=7, stores=20, days=500)
    trace = ModuleTrace()
    with trace.running():
        dataset = make_dataset(settings)
        build_panel(dataset, threads=1)
        train(settings, "quick")
    assert trace.first_entries() == documented("The path of a training row")[0]
