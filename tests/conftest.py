"""Loads the fixtures of ``tests/fixtures``, so that every test may use each of them."""

from typing import Final

import pytest

pytest_plugins = [
    "tests.fixtures.shared",
    "tests.fixtures.models",
    "tests.fixtures.prediction_log",
    "tests.fixtures.serving",
    "tests.fixtures.faults",
    "tests.fixtures.dashboard",
    "tests.fixtures.browser",
    "tests.fixtures.networks",
    "tests.fixtures.launches",
]

_FIRST: Final = ("e2e", "serving/faults", "launcher", "dashboard", "models", "serving", "cli")
"""Rooms whose tests wait for processes: a run that ends with them ends on one of its processes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow rooms; the order within a room stays."""

    def place(item: pytest.Item) -> int:
        rooms = (n for n, room in enumerate(_FIRST) if item.nodeid.startswith(f"tests/{room}/"))
        return next(rooms, len(_FIRST))

    items.sort(key=place)
