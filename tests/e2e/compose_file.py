"""``deployment/compose.yaml`` with its variables filled in, and the order that it starts in."""

import graphlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.paths import ROOT

FOLDER = ROOT / "deployment"
FILE = FOLDER / "compose.yaml"
EXAMPLE = FOLDER / ".env.example"
VARIABLE = re.compile(r"\$\{(\w+)(?::?-([^}]*))?\}")


def example_variables() -> dict[str, str]:
    """The variables of ``.env.example``."""
    lines = [line for line in EXAMPLE.read_text("utf-8").splitlines() if line[:1] not in {"", "#"}]
    return dict(line.split("=", 1) for line in lines)


def fill_in(value: Any, variables: Mapping[str, str]) -> Any:
    """A part of the file with ``${NAME:-default}`` replaced."""
    if isinstance(value, dict):
        return {key: fill_in(one, variables) for key, one in value.items()}
    if isinstance(value, list):
        return [fill_in(one, variables) for one in value]
    if isinstance(value, str):
        return VARIABLE.sub(lambda match: variables.get(match[1]) or match[2] or "", value)
    return value


def compose_file(variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The file as compose reads it."""
    content: dict[str, Any] = fill_in(yaml.safe_load(FILE.read_text("utf-8")), variables or {})
    return content


def start_order(services: Mapping[str, Any]) -> list[str]:
    """All services, each after those that it depends on; raises ``CycleError`` for a circle."""
    depends = {name: set(one.get("depends_on", {})) for name, one in services.items()}
    return list(graphlib.TopologicalSorter(depends).static_order())


def mounts(service: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """Source, target and whether it is read-only, of each volume of a service."""
    found = []
    for volume in service.get("volumes", []):
        source, target, *mode = volume.split(":")
        found.append((source, target, mode == ["ro"]))
    return found


def secret_files(content: Mapping[str, Any], service: Mapping[str, Any]) -> dict[str, Path]:
    """The files of a service's secrets by their names below ``/run/secrets``."""
    return {name: FOLDER / content["secrets"][name]["file"] for name in service.get("secrets", [])}
