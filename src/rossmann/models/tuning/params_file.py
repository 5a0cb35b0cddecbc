"""Change numbers in the parameters file so that a person can review it as a diff.

Only the digits of the changed numbers are replaced: comments, order, spaces and line ends stay,
byte for byte. What cannot be changed so is refused, with nothing written.
"""

import difflib
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import yaml

from rossmann.errors import SettingsError
from rossmann.settings import project_root

KeyPath = tuple[str, ...]
"""Keys from the top of the file down to a number."""
Number = float | int
_WRITABLE: Final = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def read_text(path: Path) -> str:
    """The file as it is, line ends and all; raises ``SettingsError`` where it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error


def check_writable(path: Path, environment: Mapping[str, str]) -> None:
    """Refuse, before any work, a file that a change would not reach or not take effect in.

    Raises ``SettingsError`` where the profiles come from the environment, where the file belongs
    to the installed package, and where it, or its folder, is not writable.
    """
    named = next((name for name in environment if name.upper() == "ROSSMANN_PROFILES"), None)
    if named and environment[named]:
        raise SettingsError(
            f"{named} is set: it goes before {path}, where a change would do nothing. Unset it, "
            "or take --dry-run"
        )
    real = path.resolve()
    if not environment.get("ROSSMANN_PARAMS") and not real.is_relative_to(project_root()):
        raise SettingsError(
            f"{path} belongs to the installed package and would be lost with it: copy it, and name "
            "the copy in ROSSMANN_PARAMS, or take --dry-run"
        )
    marked = real.is_file() and not real.stat().st_mode & _WRITABLE
    if marked or not os.access(real, os.W_OK) or not os.access(real.parent, os.W_OK):
        raise SettingsError(
            f"{path} is not writable: make it so, name another file in ROSSMANN_PARAMS, or take "
            "--dry-run"
        )


def read_numbers(text: str, places: Mapping[KeyPath, Number]) -> dict[KeyPath, Any]:
    """What the text holds at each place, ``None`` where nothing is."""
    document = _parsed(text)
    return {place: _at(document, place) for place in places}


def replace_numbers(text: str, changes: Mapping[KeyPath, Number]) -> str:
    """The text with the numbers at these places replaced, and nothing else.

    Raises ``SettingsError`` where a place is not there or the text is too clever for this: an
    alias that would change in two places, a key that stands twice.
    """
    spans = dict(_scalars(yaml.compose(text, yaml.SafeLoader)))
    missing = [".".join(place) for place in changes if place not in spans]
    if missing:
        raise SettingsError(f"the parameters file has no {', '.join(missing)} to change")
    # From the end, so that the places before keep theirs.
    done = text
    for place in sorted(changes, key=lambda one: spans[one], reverse=True):
        begin, end = spans[place]
        done = done[:begin] + format_number(changes[place]) + done[end:]
    wanted = _unshared(yaml.safe_load(text))
    for place, number in changes.items():
        _at(wanted, place[:-1])[place[-1]] = number
    if _parsed(done) != wanted:
        values = ", ".join(f"{'.'.join(p)}: {format_number(n)}" for p, n in changes.items())
        raise SettingsError(f"the parameters file must be changed by hand: {values}")
    return done


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


def write_text_atomic(path: Path, text: str) -> None:
    """Write beside the file and rename, with its mode: it is whole at any moment.

    Raises ``SettingsError`` where that cannot be done.
    """
    real = path.resolve()
    draft = ""
    try:
        handle, draft = tempfile.mkstemp(prefix=f".{real.name}.", dir=real.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        Path(draft).chmod(stat.S_IMODE(real.stat().st_mode))
        Path(draft).replace(real)
    except OSError as error:
        if draft:
            Path(draft).unlink(missing_ok=True)
        raise SettingsError(f"{path} cannot be written: {error}") from error


def _parsed(text: str) -> Any:
    """The document, or the error that stands for no document."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        return error


def _unshared(value: Any) -> Any:
    """A copy in which what an alias repeats is held apart, so that a change shows in one place."""
    if isinstance(value, dict):
        return {key: _unshared(one) for key, one in value.items()}
    return [_unshared(one) for one in value] if isinstance(value, list) else value


def _at(document: Any, place: KeyPath) -> Any:
    for key in place:
        document = document.get(key) if isinstance(document, dict) else None
    return document


def _scalars(
    node: yaml.Node | None, above: KeyPath = ()
) -> Iterator[tuple[KeyPath, tuple[int, int]]]:
    """Every scalar's place and where its text begins and ends."""
    if isinstance(node, yaml.ScalarNode):
        yield above, (node.start_mark.index, node.end_mark.index)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                yield from _scalars(value, (*above, key.value))
