"""How often a caller may call: one worker, several, several machines; and what callers are told."""

import fcntl
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import anyio
import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from rossmann.errors import RateLimitError
from rossmann.serving.access import rate_limiter as rate_store
from rossmann.serving.access.api_keys import Permission, generate_key
from rossmann.serving.access.rate_limiter import RateLimiter
from rossmann.serving.access.rate_limits import RateLimit, WindowUsage, parse_rate_limits
from rossmann.serving.access.shared_rate_counter import SharedRateCounter
from rossmann.serving.client.client import Client
from rossmann.settings import load_settings

App = Callable[..., FastAPI]
Live = Callable[[FastAPI], AbstractContextManager[str]]
PERIOD = 60


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_words() -> None:
    assert parse_rate_limits("") == parse_rate_limits(" , ") == ()
    assert parse_rate_limits("20/second, 600 per Minutes,5/hour") == (
        RateLimit(20, 1),
        RateLimit(600, 60),
        RateLimit(5, 3600),
    )
    assert str(RateLimit(600, 60)) == "600/minute"


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 8),
    steps=st.lists(st.sampled_from([0.0, 0.1, 1.0, 7.0, 20.0, 45.0, 70.0, 200.0]), max_size=120),
)
def test_nobody_gets_more_than_the_limit(count: int, steps: list[float]) -> None:
    clock = Clock()
    counter = SharedRateCounter([RateLimit(count, PERIOD)], None, clock)
    let_in: list[float] = []
    for step in steps:
        clock.now += step
        allowed, standing = counter.hit("key")
        if allowed:
            let_in.append(clock.now)
            assert standing.remaining >= 0
        else:
            assert standing.retry_after > 0
    for moment in let_in:
        window = moment // PERIOD
        assert sum(t // PERIOD == window for t in let_in) <= count
        assert sum(moment <= t < moment + PERIOD for t in let_in) < 2 * count or count == 1
    assert len(let_in) >= min(count, len(steps))
    counter.close()


@settings(max_examples=200, deadline=None)
@given(
    count=st.integers(1, 1000),
    passed=st.floats(0, 0.999),
    before=st.integers(0, 1000),
    now=st.integers(0, 1000),
)
def test_the_wait_is_neither_too_short_nor_too_long(
    count: int, passed: float, before: int, now: int
) -> None:
    here = WindowUsage(RateLimit(count, PERIOD), passed, min(before, count), min(now, count))
    if here.allowed:
        assert here.retry_after == 0
        return

    def after(seconds: float) -> WindowUsage:
        later = passed + seconds / PERIOD
        if later < 1:
            return here._replace(elapsed=later)
        return WindowUsage(here.limit, later - 1, here.now, 0)

    assert here.retry_after <= 2 * PERIOD
    assert after(here.retry_after + 0.001).allowed
    assert not after(max(0.0, here.retry_after - 0.001)).allowed
    assert here.to_error("calls").seconds >= here.retry_after


def test_callers_are_counted_apart_and_refusals_not_at_all() -> None:
    clock = Clock(PERIOD * 100.0)
    counter = SharedRateCounter(parse_rate_limits("3/minute"), None, clock)
    assert [counter.hit("a")[0] for _ in range(9)] == [True] * 3 + [False] * 6
    assert counter.hit("b")[0]
    clock.now += PERIOD * 2
    assert [counter.hit("a")[0] for _ in range(9)] == [True] * 3 + [False] * 6


def test_every_limit_holds() -> None:
    clock = Clock(86_400.0 * 10)
    counter = SharedRateCounter(parse_rate_limits("2/second, 5/hour"), None, clock)
    let_in = 0
    for _ in range(10):
        clock.now += 2
        let_in += sum(counter.hit("a")[0] for _ in range(3))
    assert let_in == 5
    allowed, standing = counter.hit("a")
    assert not allowed and standing.limit == RateLimit(5, 3600)


def test_what_was_forced_is_counted_and_what_costs_nothing_is_not() -> None:
    counter = SharedRateCounter(parse_rate_limits("10/day"), None, Clock())
    assert all(counter.hit("a", cost=0)[0] for _ in range(30))
    assert counter.hit("a", 9)[0] and counter.hit("a", 2**40)[0]
    allowed, standing = counter.hit("a", cost=0)
    assert not allowed and standing.remaining == 0
    assert counter.hit("a", 5, force=True)[0]


def test_a_file_of_before_the_machine_was_started_counts_for_nothing(tmp_path: Path) -> None:
    clock, limits = Clock(5_000_000.0), parse_rate_limits("2/hour")
    before = SharedRateCounter(limits, tmp_path / "rates", clock)
    assert [before.hit("a")[0] for _ in range(3)] == [True, True, False]
    clock.now = 100.0
    after = SharedRateCounter(limits, tmp_path / "rates", clock)
    assert [after.hit("a")[0] for _ in range(3)] == [True, True, False]


def test_more_callers_than_there_is_room_for() -> None:
    counter = SharedRateCounter(parse_rate_limits("1/day"), None, Clock())
    for number in range(60_000):
        assert counter.hit(f"caller {number}")[0]
    assert not counter.hit("caller 59999")[0]


def test_who_holds_the_lock_for_ever_stops_nobody(tmp_path: Path) -> None:
    counter = SharedRateCounter(parse_rate_limits("2/day"), tmp_path / "rates")
    with (tmp_path / "rates").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert [counter.hit("a")[0] for _ in range(3)] == [True, True, False]


def test_without_room_for_the_file_the_worker_counts_alone(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("no folder")
    counter = SharedRateCounter(parse_rate_limits("2/day"), tmp_path / "run" / "rates")
    assert [counter.hit("a")[0] for _ in range(3)] == [True, True, False]


def test_processes_lose_no_count(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from rossmann.serving.access.shared_rate_counter import SharedRateCounter\n"
        "from rossmann.serving.access.rate_limits import parse_rate_limits\n"
        "counter = SharedRateCounter(parse_rate_limits('3000/day'), Path(sys.argv[1]))\n"
        "print(sum(counter.hit('a')[0] for _ in range(2000)))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "rates")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    let_in = [int(process.communicate(timeout=120)[0]) for process in running]
    # One that waits too long for the lock goes on without it, so a few may slip through.
    assert 3000 <= sum(let_in) <= 3010, let_in


def over(answer: Any) -> int:
    assert answer.status_code == 429, answer.text
    fault = answer.json()["detail"][0]
    assert fault["type"] == "over_rate" and "try again in" in fault["msg"]
    return int(answer.headers["Retry-After"])


def test_over_the_rate_is_429_with_how_long_to_wait(make_app: App, row: Any) -> None:
    (first, one), (second, two) = (generate_key(Permission.PREDICT, name) for name in "ab")
    app = make_app(api_keys=f"{one.file_line},{two.file_line}", rate_limit="3/day")
    body = {"inputs": [row()]}
    with TestClient(app) as client:
        for left in (2, 1, 0):
            answer = client.post("/predict", json=body, headers={"X-API-Key": first})
            assert answer.status_code == 200
            assert answer.headers["RateLimit-Limit"] == "3"
            assert answer.headers["RateLimit-Remaining"] == str(left)
            assert 0 < int(answer.headers["RateLimit-Reset"]) <= 86_400
        refused = client.post("/predict", json=body, headers={"X-API-Key": first})
        assert 0 < over(refused) <= 2 * 86_400
        assert refused.headers["RateLimit-Remaining"] == "0"
        over(client.get("/model/info", headers={"X-API-Key": first}))
        assert client.get("/model/info", headers={"X-API-Key": second}).status_code == 200
        # Whoever tries keys is counted by address, whichever key it is.
        for number in range(3):
            assert client.get("/model/info", headers={"X-API-Key": f"{number}"}).status_code == 401
        over(client.get("/model/info", headers={"X-API-Key": "another"}))
        over(client.get("/stores"))
        assert client.get("/model/info", headers={"X-API-Key": second}).status_code == 200
        for path in ("/health", "/health/live", "/health/ready", "/metrics", "/docs"):
            answer = client.get(path)
            assert answer.status_code == 200 and "RateLimit-Limit" not in answer.headers


def test_rows_are_counted_when_they_are_answered(make_app: App, row: Any) -> None:
    with TestClient(make_app(rate_limit_rows="10/day")) as client:
        for rows, code in ((1, 200), (8, 200), (0, 422), (30, 200), (1, 429), (1, 429)):
            answer = client.post("/predict", json={"inputs": [row()] * rows})
            assert answer.status_code == code, answer.text
        assert "(rows)" in answer.json()["detail"][0]["msg"]
        # Of 39 rows let in today, 9 may still count: the rest must slide out, today and tomorrow.
        passed = time.monotonic() / 86_400 % 1
        assert over(answer) == pytest.approx((2 - passed - 9 / 39) * 86_400, abs=10)
        over(client.get("/stores"))
        assert client.get("/health").status_code == 200


def test_an_open_service_counts_by_address(make_app: App) -> None:
    app = make_app(rate_limit="2/day")
    clients = [
        TestClient(app, client=(address, 1))
        for address in ("192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")
    ]
    with clients[0]:
        codes = [[c.get("/model/info").status_code for _ in range(2)] for c in clients]
        # The addresses of one IPv6 network are one customer's.
        assert codes == [[200, 200], [200, 200], [200, 200], [429, 429], [200, 200]]


@pytest.mark.parametrize(("trusted", "last"), [("", 429), ("192.0.2.9", 429), ("127.0.0.1", 200)])
def test_a_caller_is_only_taken_for_another_at_a_trusted_proxys_word(
    live: Callable[..., AbstractContextManager[str]], make_app: App, trusted: str, last: int
) -> None:
    with live(make_app(rate_limit="1/day"), trusted_proxies=trusted) as url:
        codes = [
            httpx.get(f"{url}/stores", headers={"X-Forwarded-For": told}, trust_env=False)
            for told in ("198.51.100.1", "198.51.100.2")
        ]
        assert [answer.status_code for answer in codes] == [200, last]


def test_the_client_tells_how_long_to_wait(live: Live, make_app: App) -> None:
    with live(make_app(rate_limit="1/hour")) as url, Client(url) as client:
        client.model_info()
        with pytest.raises(RateLimitError, match="over the rate of 1/hour") as caught:
            client.model_info()
        assert 1 <= caught.value.seconds <= 7200


def test_workers_share_the_count(run_door: Callable[..., Any]) -> None:
    door = run_door(workers=2, rate_limit="30/day")
    codes = [httpx.get(f"{door.url}/model/info", trust_env=False).status_code for _ in range(80)]
    assert codes.count(200) == 30 and codes.count(429) == 50, codes
    door.stop()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts a real Redis on a socket in a folder; several times, if it was ended."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        socket = tmp_path / "redis.sock"
        command = [program, "--port", "0", "--unixsocket", str(socket), "--save", ""]
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
        started.append(process)
        while not socket.exists():
            assert process.poll() is None, "redis ended"
            time.sleep(0.01)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(30)


def test_machines_share_the_count_by_redis(
    redis_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_store, "_REDIS_COOLDOWN", 0.0)
    url = f"unix://{tmp_path / 'redis.sock'}"
    chosen = load_settings(data_dir=tmp_path, rate_limit="100/hour, 6/day", rate_limit_store=url)

    rows = chosen.model_copy(update={"rate_limit_rows": "6/day"})

    async def play() -> None:
        process = redis_server()
        one, two = RateLimiter(chosen, "calls"), RateLimiter(chosen, "calls")
        let_in = [(await limiter.hit("a"))[0] for _ in range(4) for limiter in (one, two)]
        assert let_in == [True] * 6 + [False] * 2
        allowed, standing = await one.hit("a")
        assert not allowed and standing.limit == RateLimit(6, 86_400)
        assert (standing.remaining, standing.now) == (
            0,
            6,
        ) and 0 < standing.retry_after <= 2 * 86_400
        allowed, standing = await two.hit("b")
        assert allowed and standing.remaining == 5
        assert (await two.hit("b", cost=0))[1].remaining == 5
        assert await one.hit("b", 9, force=True) == (True, ANY)
        allowed, standing = await two.hit("b", cost=0)
        assert not allowed and (standing.remaining, standing.now) == (0, 10)
        assert (await RateLimiter(rows, "rows").hit("b"))[0]  # counted apart
        process.kill()
        process.wait(30)
        (tmp_path / "redis.sock").unlink()
        # Away: each machine counts by itself, from nothing.
        assert [(await one.hit("a"))[0] for _ in range(8)] == [True] * 6 + [False] * 2
        assert (await two.hit("a"))[0]
        redis_server()
        assert (await one.hit("a"))[0]  # it came back, empty
        await one.close()
        await two.close()

    anyio.run(play)


def test_a_redis_that_hangs_keeps_nobody_waiting(tmp_path: Path) -> None:
    import socket

    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        url = f"redis://:hunter2@127.0.0.1:{deaf.getsockname()[1]}/0"
        chosen = load_settings(data_dir=tmp_path, rate_limit="2/day", rate_limit_store=url)

        async def play() -> list[bool]:
            limiter = RateLimiter(chosen, "calls")
            begun = time.monotonic()
            found = [(await limiter.hit("a"))[0] for _ in range(3)]
            assert time.monotonic() - begun < 30  # not for ever; it is asked once
            await limiter.close()
            return found

        assert anyio.run(play) == [True, True, False]
