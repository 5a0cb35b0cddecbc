"""Nobody waits for what follows an answer, and whoever comes later finds it done."""

import asyncio
from typing import Any

from starlette.responses import Response

from rossmann.serving.observability.prediction_recorder import NextTickTask


def test_answers_of_one_turn_are_sent_before_what_follows_any_of_them() -> None:
    happened: list[str] = []

    async def answer(name: str) -> None:
        async def send(message: Any) -> None:
            happened.append(f"{name} {message['type']}")

        async def receive() -> Any:
            raise AssertionError("an answer asks for nothing")

        noted = NextTickTask(happened.append, f"{name} noted")
        await Response(b"5234.56", background=noted)({"type": "http"}, receive, send)

    async def ask() -> None:
        await asyncio.gather(answer("a"), answer("b"))
        await asyncio.create_task(answer("later"))
        await asyncio.sleep(0)

    asyncio.run(ask())
    assert happened == [
        *("a http.response.start", "a http.response.body"),
        *("b http.response.start", "b http.response.body"),
        *("a noted", "b noted"),
        *("later http.response.start", "later http.response.body", "later noted"),
    ]
