"""Bodies made to be expensive: few errors in the answer, little memory, no waiting."""

import json
import tracemalloc

import pytest

from rossmann.errors import MAX_REPORTED_ERRORS
from rossmann.serving.request_parsing.predict_parser import MalformedRequestError, parse_predict

ROW = {"Store": 1, "DayOfWeek": 4, "Date": "2015-08-13", "Open": 1, "Promo": 0,
       "StateHoliday": "0", "SchoolHoliday": 1}  # fmt: skip
GOOD = json.dumps(ROW).encode()
MAX_ROWS = 100_000


def fields(count: int) -> bytes:
    return b",".join(b'"a%d":1' % index for index in range(count))


BOMBS = {
    "many options": b"{" + fields(300_000) + b',"inputs":[' + GOOD + b"]}",
    "many fields of a row": b'{"inputs":[{' + fields(300_000) + b"}]}",
    "many fields behind many rows": b'{"inputs":['
    + b"{}," * 90_000
    + b"{"
    + fields(200_000)
    + b"}]}",
    "one field many times": b'{"inputs":[{' + b'"Store":1,' * 300_000 + GOOD[1:] + b"]}",
    "many rows without fields": b'{"inputs":[' + b",".join([b"{}"] * 90_000) + b"]}",
    "many rows with some unknown fields": b'{"inputs":['
    + b",".join([b"{" + fields(30) + b"}"] * 20_000)
    + b"]}",
    "many values that are no rows": b'{"inputs":[' + b"1," * 300_000 + b"1]}",
    "many levels": b'{"intervals":[' + b"5," * 300_000 + b'5],"inputs":[' + GOOD + b"]}",
    "nested lists": b'{"inputs":' + b"[" * 2_000_000 + b"}",
    "nested lists of an unknown option": b'{"inputs":[' + GOOD + b'],"x":' + b"[" * 2_000_000,
    "a number of a million digits": b'{"inputs":[' + b"1" * 10**6 + b"]}",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_errors_and_memory_are_bounded(name: str) -> None:
    body = BOMBS[name]
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
