"""Bodies made to be expensive: few errors in the answer, little memory, no waiting."""

import json
import tracemalloc

import pytest

from rossmann.errors import MAX_REPORTED_ERRORS
from rossmann.serving.request_parsing.predict_parser import MalformedRequestError, parse_predict
from tests.fixtures.bombs import BODY_BOMBS, ROW

MAX_ROWS = 100_000


@pytest.mark.parametrize("name", BODY_BOMBS)
def test_errors_and_memory_are_bounded(name: str) -> None:
    body = BODY_BOMBS[name]()
    tracemalloc.start()
    try:
        with pytest.raises(MalformedRequestError) as caught:
            parse_predict(body, MAX_ROWS)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 1 <= len(caught.value.errors) <= MAX_REPORTED_ERRORS + len(ROW) + 30
    assert sum(len(error.msg) for error in caught.value.errors) < 500_000
    assert peak < 32 * len(body) + 2**20


def test_large_good_bodies_are_read() -> None:
    body = json.dumps({"intervals": [0.5, 0.8], "inputs": [ROW] * 2_000}).encode()
    assert len(parse_predict(body, MAX_ROWS).inputs) == 2_000
