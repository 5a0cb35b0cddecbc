"""Loads the fixtures of ``tests/fixtures``, so that every test may use each of them."""

pytest_plugins = [
    "tests.fixtures.shared",
    "tests.fixtures.models",
    "tests.fixtures.prediction_log",
    "tests.fixtures.serving",
    "tests.fixtures.experiments",
    "tests.fixtures.faults",
    "tests.fixtures.dashboard",
    "tests.fixtures.browser",
    "tests.fixtures.networks",
    "tests.fixtures.launches",
]
