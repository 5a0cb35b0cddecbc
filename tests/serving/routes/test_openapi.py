"""Requests generated from the OpenAPI document, valid and invalid: responses conform to it."""

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

CHECKS = [
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
    """Loads the trained version."""
    return make_trained


@pytest.fixture
def url(
    make_app: Callable[..., FastAPI], live: Callable[..., AbstractContextManager[str]]
) -> Iterator[str]:
    """URL of the application over a temporary registry, which operations may change."""
    with live(make_app(explain_max_rows=3)) as base_url:
        yield base_url


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_responses_conform_to_the_openapi_document(url: str, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    tested = [
        operation
        for operation in operations
        if mode is GenerationMode.POSITIVE
        or operation.body
        or operation.query
        or operation.path_parameters
    ]
    counts: Counter[str] = Counter()

    @CASES
    @given(case=st.sampled_from(tested).flatmap(lambda operation: operation.as_strategy(mode)))
    def run_case(case: schemathesis.Case) -> None:
        counts[case.operation.label] += 1
        response = case.call(base_url=url, timeout=60)
        # The check does not know status 413, nor that a query parameter may be empty.
        may_be_valid = response.status_code == 413 or "" in (case.query or {}).values()
        excluded = [negative_data_rejection] if may_be_valid else []
        case.validate_response(response, checks=CHECKS, excluded_checks=excluded)

    run_case()
    assert set(counts) == {operation.label for operation in tested}
    assert counts.total() >= CASES.max_examples


def test_error_codes_of_every_protected_operation_are_documented(api: TestClient) -> None:
    document = api.get("/openapi.json").json()
    public = {"/", "/health", "/health/live", "/health/ready", "/metrics"}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            codes = set(operation["responses"])
            if path in public:
                assert not {"401", "403", "429"} & codes, path
                continue
            assert {"200", "401", "403", "429", "503"} <= codes, (method, path)
            if method == "post":
                assert {"413", "422"} <= codes, (method, path)
            for code in codes - {"200"}:
                schema = operation["responses"][code]["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorAnswer"}, (path, code)


def test_every_media_type_of_a_response_has_a_schema(api: TestClient) -> None:
    document = api.get("/openapi.json").json()
    empty = [
        f"{method} {path} {code} {media}"
        for path, calls in document["paths"].items()
        for method, call in calls.items()
        for code, response in call["responses"].items()
        for media, content in response.get("content", {}).items()
        if not content.get("schema")
    ]
    assert not empty
