"""Rate limits: in one worker, several workers and several machines, and their responses."""

import fcntl
import shutil
import socket
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
from rossmann.serving.access import rate_limiter
from rossmann.serving.access.api_keys import Permission, generate_key
from rossmann.serving.access.rate_limiter import RateLimiter, SharedRateCounter
from rossmann.serving.access.rate_limits import RateLimit, WindowUsage, parse_rate_limits
from rossmann.serving.client.client import Client
from rossmann.settings import load_settings

App = Callable[..., FastAPI]
Live = Callable[[FastAPI], AbstractContextManager[str]]
PERIOD = 60


class Clock:
    """A clock that is advanced by the test."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_parse_rate_limits() -> None:
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
def test_allowed_calls_never_exceed_the_limit(count: int, steps: list[float]) -> None:
    clock = Clock()
    counter = SharedRateCounter([RateLimit(count, PERIOD)], None, clock)
    allowed_at: list[float] = []
    for step in steps:
        clock.now += step
        allowed, usage = counter.hit("key")
        if allowed:
            allowed_at.append(clock.now)
            assert usage.remaining >= 0
        else:
            assert usage.retry_after > 0
    for moment in allowed_at:
        window = moment // PERIOD
        assert sum(t // PERIOD == window for t in allowed_at) <= count
        assert sum(moment <= t < moment + PERIOD for t in allowed_at) < 2 * count or count == 1
    assert len(allowed_at) >= min(count, len(steps))
    counter.close()


@settings(max_examples=200, deadline=None)
@given(
    count=st.integers(1, 1000),
    passed=st.floats(0, 0.999),
    before=st.integers(0, 1000),
    now=st.integers(0, 1000),
)
def test_retry_after_is_exact(count: int, passed: float, before: int, now: int) -> None:
    usage = WindowUsage(RateLimit(count, PERIOD), passed, min(before, count), min(now, count))
    if usage.allowed:
        assert usage.retry_after == 0
        return

    def usage_after(seconds: float) -> WindowUsage:
        later = passed + seconds / PERIOD
        if later < 1:
            return usage._replace(elapsed=later)
        return WindowUsage(usage.limit, later - 1, usage.current, 0)

    assert usage.retry_after <= 2 * PERIOD
    assert usage_after(usage.retry_after + 0.001).allowed
    assert not usage_after(max(0.0, usage.retry_after - 0.001)).allowed
    assert usage.to_error("calls").seconds >= usage.retry_after


def test_callers_are_counted_separately_and_rejections_are_not_counted() -> None:
    clock = Clock(PERIOD * 100.0)
    counter = SharedRateCounter(parse_rate_limits("3/minute"), None, clock)
    assert [counter.hit("a")[0] for _ in range(9)] == [True] * 3 + [False] * 6
    assert counter.hit("b")[0]
    clock.now += PERIOD * 2
    assert [counter.hit("a")[0] for _ in range(9)] == [True] * 3 + [False] * 6


def test_every_limit_is_enforced() -> None:
    clock = Clock(86_400.0 * 10)
    counter = SharedRateCounter(parse_rate_limits("2/second, 5/hour"), None, clock)
    allowed_calls = 0
    for _ in range(10):
        clock.now += 2
        allowed_calls += sum(counter.hit("a")[0] for _ in range(3))
    assert allowed_calls == 5
    allowed, usage = counter.hit("a")
    assert not allowed and usage.limit == RateLimit(5, 3600)


def test_forced_cost_is_counted_and_zero_cost_is_not() -> None:
    counter = SharedRateCounter(parse_rate_limits("10/day"), None, Clock())
    assert all(counter.hit("a", cost=0)[0] for _ in range(30))
    assert counter.hit("a", 9)[0] and counter.hit("a", 2**40)[0]
    allowed, usage = counter.hit("a", cost=0)
    assert not allowed and usage.remaining == 0
    assert counter.hit("a", 5, force=True)[0]


def test_counter_file_from_before_a_reboot_is_ignored(tmp_path: Path) -> None:
    clock, limits = Clock(5_000_000.0), parse_rate_limits("2/hour")
    first = SharedRateCounter(limits, tmp_path / "rates", clock)
    assert [first.hit("a")[0] for _ in range(3)] == [True, True, False]
    clock.now = 100.0
    rebooted = SharedRateCounter(limits, tmp_path / "rates", clock)
    assert [rebooted.hit("a")[0] for _ in range(3)] == [True, True, False]


def test_more_callers_than_the_file_can_store() -> None:
    counter = SharedRateCounter(parse_rate_limits("1/day"), None, Clock())
    for number in range(60_000):
        assert counter.hit(f"caller {number}")[0]
    assert not counter.hit("caller 59999")[0]


def test_lock_held_by_another_process_blocks_no_call(tmp_path: Path) -> None:
    counter = SharedRateCounter(parse_rate_limits("2/day"), tmp_path / "rates")
    with (tmp_path / "rates").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert [counter.hit("a")[0] for _ in range(3)] == [True, True, False]


def test_worker_counts_in_memory_when_the_file_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("not a folder")
    counter = SharedRateCounter(parse_rate_limits("2/day"), tmp_path / "run" / "rates")
    assert [counter.hit("a")[0] for _ in range(3)] == [True, True, False]


def test_concurrent_processes_lose_no_count(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from rossmann.serving.access.rate_limiter import RowLimiter, SharedRateCounter\n"
        "from rossmann.serving.access.rate_limits import parse_rate_limits\n"
        "counter = SharedRateCounter(parse_rate_limits('3000/day'), Path(sys.argv[1]))\n"
        "print(sum(counter.hit('a')[0] for _ in range(2000)))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "rates")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    allowed_calls = [int(process.communicate(timeout=120)[0]) for process in running]
    # A process that waits too long for the lock continues without it: a few calls more may pass.
    assert 3000 <= sum(allowed_calls) <= 3010, allowed_calls


def assert_rate_limited(response: Any) -> int:
    """Check a 429 response; returns its seconds to wait."""
    assert response.status_code == 429, response.text
    error = response.json()["detail"][0]
    assert error["type"] == "over_rate" and "try again in" in error["msg"]
    return int(response.headers["Retry-After"])


def test_rate_limit_exceeded_is_429_with_retry_after(make_app: App, row: Any) -> None:
    (first, one), (second, two) = (generate_key(Permission.PREDICT, name) for name in "ab")
    app = make_app(api_keys=f"{one.file_line},{two.file_line}", rate_limit="3/day")
    body = {"inputs": [row()]}
    with TestClient(app) as client:
        for remaining in (2, 1, 0):
            response = client.post("/predict", json=body, headers={"X-API-Key": first})
            assert response.status_code == 200
            assert response.headers["RateLimit-Limit"] == "3"
            assert response.headers["RateLimit-Remaining"] == str(remaining)
            assert 0 < int(response.headers["RateLimit-Reset"]) <= 86_400
        rejected = client.post("/predict", json=body, headers={"X-API-Key": first})
        assert 0 < assert_rate_limited(rejected) <= 2 * 86_400
        assert rejected.headers["RateLimit-Remaining"] == "0"
        assert_rate_limited(client.get("/model/info", headers={"X-API-Key": first}))
        assert client.get("/model/info", headers={"X-API-Key": second}).status_code == 200
        # Requests with invalid keys are counted by address.
        for number in range(3):
            assert client.get("/model/info", headers={"X-API-Key": f"{number}"}).status_code == 401
        assert_rate_limited(client.get("/model/info", headers={"X-API-Key": "another"}))
        assert_rate_limited(client.get("/stores"))
        assert client.get("/model/info", headers={"X-API-Key": second}).status_code == 200
        for path in ("/health", "/health/live", "/health/ready", "/metrics", "/docs"):
            response = client.get(path)
            assert response.status_code == 200 and "RateLimit-Limit" not in response.headers


def test_open_service_counts_by_address(make_app: App) -> None:
    app = make_app(rate_limit="2/day")
    clients = [
        TestClient(app, client=(address, 1))
        for address in (
            *("192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"),
            # As a proxy writes IPv4 addresses that reach it by a socket of IPv6.
            *("::ffff:192.0.2.3", "::ffff:192.0.2.4", "::ffff:192.0.2.1", "::FFFF:c000:204"),
        )
    ]
    with clients[0]:
        codes = [[c.get("/model/info").status_code for _ in range(2)] for c in clients]
        # Addresses of one IPv6 network count as one caller; mapped ones are IPv4.
        answered, refused = [200, 200], [429, 429]
        assert codes == [
            *(answered, answered, answered, refused, answered),
            *(answered, answered, refused, refused),
        ]


@pytest.mark.parametrize(
    ("trusted_proxies", "last_code"), [("", 429), ("192.0.2.9", 429), ("127.0.0.1", 200)]
)
def test_forwarded_address_is_used_only_from_a_trusted_proxy(
    live: Callable[..., AbstractContextManager[str]],
    make_app: App,
    trusted_proxies: str,
    last_code: int,
) -> None:
    with live(make_app(rate_limit="1/day"), trusted_proxies=trusted_proxies) as url:
        responses = [
            httpx.get(f"{url}/stores", headers={"X-Forwarded-For": forwarded}, trust_env=False)
            for forwarded in ("198.51.100.1", "198.51.100.2")
        ]
        assert [response.status_code for response in responses] == [200, last_code]


def test_client_error_contains_seconds_to_wait(live: Live, make_app: App) -> None:
    with live(make_app(rate_limit="1/hour")) as url, Client(url) as client:
        client.model_info()
        with pytest.raises(RateLimitError, match="over the rate of 1/hour") as caught:
            client.model_info()
        assert 1 <= caught.value.seconds <= 7200


def test_workers_share_one_count(run_service: Callable[..., Any]) -> None:
    service = run_service(workers=2, rate_limit="30/day")
    codes = [httpx.get(f"{service.url}/model/info", trust_env=False).status_code for _ in range(80)]
    assert codes.count(200) == 30 and codes.count(429) == 50, codes
    service.stop()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts a real Redis on a Unix socket; again after it was stopped."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        path = tmp_path / "redis.sock"
        command = [program, "--port", "0", "--unixsocket", str(path), "--save", ""]
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
        started.append(process)
        # Redis creates the socket's file some time before it listens on it.
        with socket.socket(socket.AF_UNIX) as connection:
            while connection.connect_ex(str(path)):
                assert process.poll() is None, "redis ended"
                time.sleep(0.01)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(30)


def test_machines_share_one_count_in_redis(
    redis_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limiter, "_REDIS_COOLDOWN", 0.0)
    # A busy machine may take longer than a service would wait.
    monkeypatch.setattr(rate_limiter, "_REDIS_TIMEOUT", 30.0)
    url = f"unix://{tmp_path / 'redis.sock'}"
    redis_settings = load_settings(
        data_dir=tmp_path, rate_limit="100/hour, 6/day", rate_limit_store=url
    )
    rows = redis_settings.model_copy(update={"rate_limit_rows": "6/day"})

    async def run() -> None:
        process = redis_server()
        one, two = RateLimiter(redis_settings, "calls"), RateLimiter(redis_settings, "calls")
        results = [(await limiter.hit("a"))[0] for _ in range(4) for limiter in (one, two)]
        assert results == [True] * 6 + [False] * 2
        allowed, usage = await one.hit("a")
        assert not allowed and usage.limit == RateLimit(6, 86_400)
        assert (usage.remaining, usage.current) == (0, 6)
        assert 0 < usage.retry_after <= 2 * 86_400
        allowed, usage = await two.hit("b")
        assert allowed and usage.remaining == 5
        assert (await two.hit("b", cost=0))[1].remaining == 5
        assert await one.hit("b", 9, force=True) == (True, ANY)
        allowed, usage = await two.hit("b", cost=0)
        assert not allowed and (usage.remaining, usage.current) == (0, 10)
        assert (await one.hit("b", -9, force=True))[1].current == 1  # given back
        assert (await one.hit("b", -9, force=True))[1].current == 0
        assert await one.hit("b", 10) == (True, ANY)
        assert (await RateLimiter(rows, "rows").hit("b"))[0]  # a separate count
        process.kill()
        process.wait(30)
        (tmp_path / "redis.sock").unlink()
        # Redis is unavailable: each machine counts locally, from 0.
        assert [(await one.hit("a"))[0] for _ in range(8)] == [True] * 6 + [False] * 2
        assert (await two.hit("a"))[0]
        redis_server()
        assert (await one.hit("a"))[0]  # Redis is back, empty
        await one.close()
        await two.close()

    anyio.run(run)


def test_hanging_redis_times_out_and_counts_locally(tmp_path: Path) -> None:
    with socket.socket() as silent_server:
        silent_server.bind(("127.0.0.1", 0))
        silent_server.listen()
        url = f"redis://:hunter2@127.0.0.1:{silent_server.getsockname()[1]}/0"
        redis_settings = load_settings(data_dir=tmp_path, rate_limit="2/day", rate_limit_store=url)

        async def run() -> list[bool]:
            limiter = RateLimiter(redis_settings, "calls")
            started_at = time.monotonic()
            results = [(await limiter.hit("a"))[0] for _ in range(3)]
            assert time.monotonic() - started_at < 30  # one timeout, then the cooldown
            await limiter.close()
            return results

        assert anyio.run(run) == [True, True, False]
