"""The parameters file is changed digit by digit: a person can review it, and nothing else moves."""

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


def places(document: object, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if isinstance(document, dict):
        return [p for key, value in document.items() for p in places(value, (*above, key))]
    return [above] if isinstance(document, int | float) else []


def test_only_the_named_numbers_change() -> None:
    after = replace_numbers(TEXT, {RATE: 0.0432, (*LIGHTGBM, "rounds"): 1234, WEIGHT: 0.15})
    changed = [
        (one, two)
        for one, two in zip(TEXT.split("\n"), after.split("\n"), strict=True)
        if one != two
    ]
    assert len(changed) == 2
    (members, tuned), (weights, mixed) = changed
    want = members.replace("learning_rate: 0.05", "learning_rate: 0.0432")
    assert tuned == want.replace("rounds: 600", "rounds: 1234")
    assert mixed == weights.replace("catboost: 0.2", "catboost: 0.15")


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(places(yaml.safe_load(TEXT))),
        st.integers(0, 10**6) | st.floats(1e-9, 1e9, allow_nan=False),
        max_size=8,
    )
)
def test_what_is_written_is_read_back_and_the_rest_stays(
    changes: dict[tuple[str, ...], int | float],
) -> None:
    after = replace_numbers(TEXT, changes)
    assert read_numbers(after, changes) == changes
    back = replace_numbers(after, read_numbers(TEXT, changes))
    assert yaml.safe_load(back) == yaml.safe_load(TEXT)
    comments = [line.partition("#")[2] for line in TEXT.split("\n")]
    assert [line.partition("#")[2] for line in after.split("\n")] == comments


@given(st.floats(1e-12, 1e12))
def test_yaml_reads_every_number_as_a_number(number: float) -> None:
    assert math.isclose(yaml.safe_load(format_number(number)), number, rel_tol=1e-15)


def test_line_ends_and_odd_letters_stay() -> None:
    text = "a: 1 # größer — 😀\r\nb: {c: 2.50, 'd': 3}\r\n"
    assert replace_numbers(text, {("b", "c"): 7, ("b", "d"): 4}) == (
        "a: 1 # größer — 😀\r\nb: {c: 7, 'd': 4}\r\n"
    )


def test_a_missing_place_is_named() -> None:
    with pytest.raises(SettingsError, match=r"no profiles\.full\.members\.lightgbm\.gamma"):
        replace_numbers(TEXT, {(*LIGHTGBM, "gamma"): 1})


def test_a_key_that_stands_twice_is_changed_where_it_counts() -> None:
    assert replace_numbers("a: {x: 1, x: 2}\n", {("a", "x"): 9}) == "a: {x: 1, x: 9}\n"


@pytest.mark.parametrize(
    "text",
    ["a: &b {x: 1}\nb: *b\n", "a: {x: &v 1}\nb: {x: *v}\n"],
    ids=["table", "number"],
)
def test_a_value_that_two_places_share_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"by hand: b\.x: 9"):
        replace_numbers(text, {("b", "x"): 9})


def test_the_diff_shows_the_changed_line_alone() -> None:
    shown = diff(TEXT, replace_numbers(TEXT, {RATE: 0.03}), "params.yaml").split("\n")
    assert next(line for line in shown if line[:3] == "-  ").startswith("-      lightgbm: {")
    assert sum(line.startswith(("-", "+")) for line in shown) == 4
    assert diff(TEXT, TEXT, "params.yaml") == ""


def test_the_file_is_replaced_whole_and_keeps_its_mode(tmp_path: Path) -> None:
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


def test_a_file_marked_read_only_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(TEXT)
    named = {"ROSSMANN_PARAMS": str(path)}
    check_writable(path, named)
    path.chmod(0o444)
    with pytest.raises(SettingsError, match="is not writable"):
        check_writable(path, named)


def test_profiles_from_the_environment_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(TEXT)
    named = {"ROSSMANN_PARAMS": str(path), "ROSSMANN_PROFILES": "{}"}
    with pytest.raises(SettingsError, match="ROSSMANN_PROFILES is set"):
        check_writable(path, named)


def test_the_installed_package_is_not_edited(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(TEXT)
    with pytest.raises(SettingsError, match="belongs to the installed package"):
        check_writable(path, {})
