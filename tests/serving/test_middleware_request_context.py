"""Tasks after a response: they delay no response and run before the next request."""

import asyncio
from typing import Any

from starlette.responses import Response

from rossmann.serving.middleware import NextTickTask


def test_responses_of_one_loop_turn_are_sent_before_their_tasks_run() -> None:
    events: list[str] = []

    async def respond(name: str) -> None:
        async def send(message: Any) -> None:
            events.append(f"{name} {message['type']}")

        async def receive() -> Any:
            raise AssertionError("a response receives nothing")

        task = NextTickTask(events.append, f"{name} logged")
        await Response(b"5234.56", background=task)({"type": "http"}, receive, send)

    async def run() -> None:
        await asyncio.gather(respond("a"), respond("b"))
        await asyncio.create_task(respond("later"))
        await asyncio.sleep(0)

    asyncio.run(run())
    assert events == [
        *("a http.response.start", "a http.response.body"),
        *("b http.response.start", "b http.response.body"),
        *("a logged", "b logged"),
        *("later http.response.start", "later http.response.body", "later logged"),
    ]
