"""Texts of users stay literal; what a browser makes of them is in ``test_markdown_browser``."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rossmann.dashboard.shared.markdown import (
    code_span,
    escape_markdown,
    markdown_list,
    visible_line,
)
from tests.fixtures.hostile_texts import TEXTS

SOURCE = re.compile(r":color\[\\(?P<alone>.)\]|\\(?P<escaped>[!-/:-@\[-`{-~])|(?P<space>&#32;)")


def shown(source: str) -> str:
    """What Markdown shows for the three forms that ``escape_markdown`` writes."""
    return SOURCE.sub(lambda m: m["alone"] or m["escaped"] or " ", source)


@given(st.one_of(st.text(), st.text("[]()<>:@.wW-=~$`*_\\#&|{}! \n\t1a")))
def test_every_character_is_shown(text: str) -> None:
    assert shown(escape_markdown(text)) == visible_line(text)


@given(st.text("[]()<>:@.wW-=~$`*_\\#&|{}! \n\t1a"))
def test_no_character_with_a_meaning_is_bare(text: str) -> None:
    bare = SOURCE.sub(
        lambda m: "\N{SYMBOL FOR SPACE}" if m["space"] else "\0", escape_markdown(text)
    )
    assert not re.search(r"[$&*<[\]\\_`{|~@\n\t]|:(?![ ␠])|[<>~=-]{2}|^ | $|  ", bare)


def test_common_words_stay_readable() -> None:
    text = "line 3: Store must be between 1 and 40 (got 9999); a-b, 1.5 % (x). The end."
    assert escape_markdown(text) == text


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\r\nb\tc\u2028d", "a  b c d"),
        ("\u202egnp.exe\u202c \u2066x\u2069", "�gnp.exe� �x�"),
        ("\x00\x1b[31m\x7f\x9b", "��[31m��"),
        ("مرحبا שלום", "مرحبا שלום"),
    ],
)
def test_text_is_one_line_without_control_characters(text: str, line: str) -> None:
    assert visible_line(text) == line


def test_a_list_has_one_line_for_each_text() -> None:
    assert len(markdown_list(TEXTS).splitlines()) == len(TEXTS)
    assert markdown_list(["a", "*b*"]) == "- a\n- \\*b\\*"


@pytest.mark.parametrize(
    ("text", "source"),
    [("rossmann up", "`rossmann up`"), ("a`b", "`` a`b ``"), (" ``a", "```  ``a ```")],
)
def test_code_span_holds_any_command(text: str, source: str) -> None:
    assert code_span(text) == source
