"""Calls made from the OpenAPI text, good ones and bad ones: each answer is one that it promises."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

PROMISES = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "fuzz")
CASES = settings(
    settings.get_profile(PROFILE), max_examples=2 * settings.get_profile(PROFILE).max_examples
)
pytestmark = pytest.mark.timeout(7_200 if PROFILE == "nightly" else 300)


@pytest.fixture
def make_forecaster(make_trained: Any) -> Any:
    """The trained version, not a plain model."""
    return make_trained


@pytest.fixture
def url(
    make_app: Callable[..., FastAPI], live: Callable[..., AbstractContextManager[str]]
) -> Iterator[str]:
    """The application over a registry that is thrown away: orders change nothing of worth."""
    with live(make_app(explain_max_rows=3)) as address:
        yield address


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_answers_are_as_promised(url: str, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    calls = [found.ok() for found in schema.get_all_operations()]
    able = [
        call
        for call in calls
        if mode is GenerationMode.POSITIVE or call.body or call.query or call.path_parameters
    ]
    asked: Counter[str] = Counter()

    @CASES
    @given(case=st.sampled_from(able).flatmap(lambda call: call.as_strategy(mode)))
    def play(case: schemathesis.Case) -> None:
        asked[case.operation.label] += 1
        answer = case.call(base_url=url, timeout=60)
        # The check knows neither that too large is a refusal nor that a field may be left empty.
        fine = answer.status_code == 413 or "" in (case.query or {}).values()
        without = [negative_data_rejection] if fine else []
        case.validate_response(answer, checks=PROMISES, excluded_checks=without)

    play()
    assert set(asked) == {call.label for call in able}
    assert asked.total() >= CASES.max_examples


def test_every_refusal_of_a_guarded_call_is_documented(api: TestClient) -> None:
    text = api.get("/openapi.json").json()
    open_to_all = {"/", "/health", "/health/live", "/health/ready", "/metrics"}
    for path, calls in text["paths"].items():
        for method, call in calls.items():
            told = set(call["responses"])
            if path in open_to_all:
                assert not {"401", "403", "429"} & told, path
                continue
            assert {"200", "401", "403", "429", "503"} <= told, (method, path)
            if method == "post":
                assert {"413", "422"} <= told, (method, path)
            for code in told - {"200"}:
                shape = call["responses"][code]["content"]["application/json"]["schema"]
                assert shape == {"$ref": "#/components/schemas/ErrorAnswer"}, (path, code)
