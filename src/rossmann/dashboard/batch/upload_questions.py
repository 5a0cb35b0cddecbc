"""Reads an uploaded file; what the file does not decide itself is asked, one thing at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import streamlit as st

from rossmann.data.prepare_predictions import Upload, read_upload
from rossmann.data.uploads.dates import AmbiguousDatesError
from rossmann.data.uploads.decimal_marks import DECIMAL_MARKS, AmbiguousNumbersError
from rossmann.data.uploads.workbook import SeveralSheetsError

_CAPTIONS: Final = {
    "MM/DD/YYYY": "month first: 08/01/2015 is 1 August",
    "MM/DD/YY": "month first: 08/01/15 is 1 August",
    "DD/MM/YYYY": "day first: 08/01/2015 is 8 January",
    "DD/MM/YY": "day first: 08/01/15 is 8 January",
    ".": "a point: 1,000.5 is one thousand and a half",
    ",": "a comma: 1.000,5 is one thousand and a half",
}


@dataclass(frozen=True)
class _Question:
    """A choice that reading a file needs; ``option``: the parameter of ``read_upload``."""

    option: str
    text: str
    choices: Sequence[str]


def reading_options(digest: str) -> dict[str, Any] | None:
    """Draw the questions that came up for a file; its options, or None where one is unanswered."""
    options: dict[str, Any] = {}
    for question in _questions(digest):
        answer = st.radio(
            question.text,
            question.choices,
            index=None,
            key=f"{question.option}-{digest}",
            captions=[_CAPTIONS.get(choice, "") for choice in question.choices],
        )
        if answer is None:
            return None
        options[question.option] = answer
    return options


def read_or_ask(name: str, content: bytes, digest: str, options: dict[str, Any]) -> Upload | None:
    """The upload; None where it needs an answer more, which the next redraw asks for.

    Raises ``DataValidationError`` for an unusable file.
    """
    try:
        return read_upload(name, content, **options)
    except AmbiguousDatesError as error:
        text = "The dates in this file can be read in more than one way. How are they written?"
        question = _Question("date_format", text, error.formats)
    except AmbiguousNumbersError as error:
        text = f"In this file, {error}. Which one?"
        question = _Question("decimal", text, DECIMAL_MARKS)
    except SeveralSheetsError as error:
        text = "Several sheets of this workbook hold a table. Which one is it?"
        question = _Question("sheet", text, error.sheets)
    _questions(digest).append(question)
    return None


def _questions(digest: str) -> list[_Question]:
    questions: list[_Question] = st.session_state.setdefault(f"questions-{digest}", [])
    return questions
