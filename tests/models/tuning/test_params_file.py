"""Edits of the parameters file: only the named numbers change."""

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rossmann.errors import SettingsError
from rossmann.models.tuning.params_file import (
    check_writable,
    diff,
    format_number,
    read_numbers,
    read_text,
    replace_numbers,
    write_params_text,
)
from tests.paths import ROOT

TEXT = (ROOT / "config" / "params.yaml").read_text("utf-8")
LIGHTGBM = ("profiles", "full", "members", "lightgbm")
RATE = (*LIGHTGBM, "learning_rate")
WEIGHT = ("profiles", "quick", "weights", "catboost")


def number_paths(document: object, parents: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if isinstance(document, dict):
        return [p for key, value in document.items() for p in number_paths(value, (*parents, key))]
    return [parents] if isinstance(document, int | float) else []


def test_only_the_named_numbers_change() -> None:
    after = replace_numbers(TEXT, {RATE: 0.0432, (*LIGHTGBM, "rounds"): 1234, WEIGHT: 0.15})
    changed = [
        (old, new)
        for old, new in zip(TEXT.split("\n"), after.split("\n"), strict=True)
        if old != new
    ]
    assert len(changed) == 2
    (members, new_members), (weights, new_weights) = changed
    expected = members.replace("learning_rate: 0.05", "learning_rate: 0.0432")
    assert new_members == expected.replace("rounds: 600", "rounds: 1234")
    assert new_weights == weights.replace("catboost: 0.2", "catboost: 0.15")


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(number_paths(yaml.safe_load(TEXT))),
        st.integers(0, 10**6) | st.floats(1e-9, 1e9, allow_nan=False),
        max_size=8,
    )
)
def test_written_numbers_are_read_back_and_the_rest_is_unchanged(
    changes: dict[tuple[str, ...], int | float],
) -> None:
    after = replace_numbers(TEXT, changes)
    assert read_numbers(after, changes) == changes
    restored = replace_numbers(after, read_numbers(TEXT, changes))
    assert yaml.safe_load(restored) == yaml.safe_load(TEXT)
    comments = [line.partition("#")[2] for line in TEXT.split("\n")]
    assert [line.partition("#")[2] for line in after.split("\n")] == comments


@given(st.floats(1e-12, 1e12))
def test_yaml_reads_every_number_as_a_number(number: float) -> None:
    assert math.isclose(yaml.safe_load(format_number(number)), number, rel_tol=1e-15)


def test_line_ends_and_unicode_are_kept() -> None:
    text = "a: 1 # größer — 😀\r\nb: {c: 2.50, 'd': 3}\r\n"
    assert replace_numbers(text, {("b", "c"): 7, ("b", "d"): 4}) == (
        "a: 1 # größer — 😀\r\nb: {c: 7, 'd': 4}\r\n"
    )


def test_missing_path_raises_with_its_name() -> None:
    with pytest.raises(SettingsError, match=r"no profiles\.full\.members\.lightgbm\.gamma"):
        replace_numbers(TEXT, {(*LIGHTGBM, "gamma"): 1})


def test_duplicate_key_is_changed_where_yaml_reads_it() -> None:
    assert replace_numbers("a: {x: 1, x: 2}\n", {("a", "x"): 9}) == "a: {x: 1, x: 9}\n"


@pytest.mark.parametrize(
    "text", ["a: &b {x: 1}\nb: *b\n", "a: {x: &v 1}\nb: {x: *v}\n"], ids=["table", "number"]
)
def test_value_with_a_yaml_alias_is_rejected(text: str) -> None:
    with pytest.raises(SettingsError, match=r"by hand: b\.x: 9"):
        replace_numbers(text, {("b", "x"): 9})


def test_diff_has_only_the_changed_lines() -> None:
    lines = diff(TEXT, replace_numbers(TEXT, {RATE: 0.03}), "params.yaml").split("\n")
    assert next(line for line in lines if line[:3] == "-  ").startswith("-      lightgbm: {")
    assert sum(line.startswith(("-", "+")) for line in lines) == 4
    assert diff(TEXT, TEXT, "params.yaml") == ""


def test_file_is_replaced_atomically_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "real.yaml"
    path.write_bytes(b"a: 1\r\n")
    path.chmod(0o640)
    link = tmp_path / "params.yaml"
    link.symlink_to(path)
    write_params_text(link, read_text(link).replace("1", "2"))
    assert path.read_bytes() == b"a: 2\r\n"
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in tmp_path.iterdir()) == ["params.yaml", "real.yaml"]


def test_read_only_file_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(TEXT)
    environment = {"ROSSMANN_PARAMS": str(path)}
    check_writable(path, environment)
    path.chmod(0o444)
    with pytest.raises(SettingsError, match="is not writable"):
        check_writable(path, environment)


def test_profiles_from_the_environment_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(TEXT)
    environment = {"ROSSMANN_PARAMS": str(path), "ROSSMANN_PROFILES": "{}"}
    with pytest.raises(SettingsError, match="ROSSMANN_PROFILES is set"):
        check_writable(path, environment)


def test_file_of_the_installed_package_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(TEXT)
    with pytest.raises(SettingsError, match="belongs to the installed package"):
        check_writable(path, {})
