"""Work after a response: no caller waits for it, and it is done before the next request."""

import asyncio
from typing import Any

from starlette.responses import Response

from rossmann.serving.middleware.request_context import NextTickTask


def test_responses_of_one_turn_are_sent_before_the_task_of_any() -> None:
    happened: list[str] = []

    async def answer(name: str) -> None:
        async def send(message: Any) -> None:
            happened.append(f"{name} {message['type']}")

        async def receive() -> Any:
            raise AssertionError("an answer asks for nothing")

        task = NextTickTask(happened.append, f"{name} logged")
        await Response(b"5234.56", background=task)({"type": "http"}, receive, send)

    async def run() -> None:
        await asyncio.gather(answer("a"), answer("b"))
        await asyncio.create_task(answer("later"))
        await asyncio.sleep(0)

    asyncio.run(run())
    assert happened == [
        *("a http.response.start", "a http.response.body"),
        *("b http.response.start", "b http.response.body"),
        *("a logged", "b logged"),
        *("later http.response.start", "later http.response.body", "later logged"),
    ]
