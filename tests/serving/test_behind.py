"""Nobody waits for what follows an answer."""

import asyncio
from typing import Any

from starlette.responses import Response

from rossmann.serving.behind import Behind


def test_what_is_behind_an_answer_comes_when_all_of_it_is_sent() -> None:
    happened: list[str] = []

    async def send(message: Any) -> None:
        happened.append(message["type"])

    async def receive() -> Any:
        raise AssertionError("an answer asks for nothing")

    answer = Response(
        b"5234.56", background=Behind(lambda *given: happened.extend(given), "1", "2")
    )
    asyncio.run(answer({"type": "http"}, receive, send))
    assert happened == ["http.response.start", "http.response.body", "1", "2"]
