"""Replace numbers in the parameters file and leave every other byte, so that a diff is readable.

Comments, order, spaces and line ends stay. What cannot be changed so raises an error, with nothing
written. Round trips of ``ruamel.yaml`` change indentation and line ends, so it is not used here.
"""

import difflib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import yaml

from rossmann.errors import SettingsError
from rossmann.filesystem.atomic_write import write_text_atomic
from rossmann.installation import project_root

KeyPath = tuple[str, ...]
"""Keys from the top of the file down to a number."""
Number = float | int
_WRITABLE: Final = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def read_text(path: Path) -> str:
    """The file's text with its line ends; raises ``SettingsError`` where it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error


def check_writable(path: Path, environment: Mapping[str, str]) -> None:
    """Raise ``SettingsError`` for a file that cannot be changed, or whose change has no effect.

    That is where the profiles come from the environment, where the file belongs to the installed
    package, and where it, or its folder, is not writable.
    """
    variable = next((name for name in environment if name.upper() == "ROSSMANN_PROFILES"), None)
    if variable and environment[variable]:
        raise SettingsError(
            f"{variable} is set: it goes before {path}, where a change would do nothing. Unset it, "
            "or take --dry-run"
        )
    real = path.resolve()
    if not environment.get("ROSSMANN_PARAMS") and not real.is_relative_to(project_root()):
        raise SettingsError(
            f"{path} belongs to the installed package and would be lost with it: copy it, and name "
            "the copy in ROSSMANN_PARAMS, or take --dry-run"
        )
    read_only = real.is_file() and not real.stat().st_mode & _WRITABLE
    if read_only or not os.access(real, os.W_OK) or not os.access(real.parent, os.W_OK):
        raise SettingsError(
            f"{path} is not writable: make it so, name another file in ROSSMANN_PARAMS, or take "
            "--dry-run"
        )


def read_numbers(text: str, paths: Iterable[KeyPath]) -> dict[KeyPath, Any]:
    """The value at each key path, ``None`` where there is none."""
    document = _parse(text)
    return {path: _value_at(document, path) for path in paths}


def replace_numbers(text: str, changes: Mapping[KeyPath, Number]) -> str:
    """The text with the numbers at these key paths replaced, and nothing else.

    Raises ``SettingsError`` where a path is missing, or where more than the number would change: an
    alias repeats it elsewhere.
    """
    spans = dict(_scalar_spans(yaml.compose(text, yaml.SafeLoader)))
    missing = [".".join(path) for path in changes if path not in spans]
    if missing:
        raise SettingsError(f"the parameters file has no {', '.join(missing)} to change")
    changed = text
    # from the end, so that the spans before stay valid
    for path in sorted(changes, key=lambda path: spans[path], reverse=True):
        start, end = spans[path]
        changed = changed[:start] + format_number(changes[path]) + changed[end:]
    expected = _without_aliases(yaml.safe_load(text))
    for path, number in changes.items():
        _value_at(expected, path[:-1])[path[-1]] = number
    if _parse(changed) != expected:
        values = ", ".join(f"{'.'.join(p)}: {format_number(n)}" for p, n in changes.items())
        raise SettingsError(f"the parameters file must be changed by hand: {values}")
    return changed


def format_number(number: Number) -> str:
    """A number as YAML 1.1 reads it back: never with an exponent, which may be read as text."""
    return str(int(number)) if number == int(number) else format(Decimal(repr(number)), "f")


def diff(before: str, after: str, name: str) -> str:
    """The change as a unified diff; empty where there is none."""
    lines = difflib.unified_diff(
        before.splitlines(),
        after.splitlines(),
        f"{name} (now)",
        f"{name} (tuned)",
        lineterm="",
        n=1,
    )
    return "\n".join(lines)


def write_params_text(path: Path, text: str) -> None:
    """Replace the file's text in one step, with its mode kept and links followed.

    Raises ``SettingsError`` where that cannot be done.
    """
    real = path.resolve()
    try:
        write_text_atomic(real, text, stat.S_IMODE(real.stat().st_mode))
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error}") from error


def _parse(text: str) -> Any:
    """The document, or the error, which equals no document."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        return error


def _without_aliases(value: Any) -> Any:
    """A deep copy in which each alias is a copy of its own, so that a change is in one place."""
    if isinstance(value, dict):
        return {key: _without_aliases(item) for key, item in value.items()}
    return [_without_aliases(item) for item in value] if isinstance(value, list) else value


def _value_at(document: Any, path: KeyPath) -> Any:
    for key in path:
        document = document.get(key) if isinstance(document, dict) else None
    return document


def _scalar_spans(
    node: yaml.Node | None, parent: KeyPath = ()
) -> Iterator[tuple[KeyPath, tuple[int, int]]]:
    """Every scalar's key path, and the start and end of its text."""
    if isinstance(node, yaml.ScalarNode):
        yield parent, (node.start_mark.index, node.end_mark.index)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                yield from _scalar_spans(value, (*parent, key.value))
