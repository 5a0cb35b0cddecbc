"""Requests made to take all memory or time, against the service as a process, many at once.

It may use 2 GB, its reading processes included; a good request is answered within a second at any
time; and the memory returns. Quick variants in each run, in which other tests take the processor
(five seconds); all by night.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any, Final

import httpx
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from rossmann.data.panel.panel import Panel
from rossmann.serving.access.api_keys import Permission, generate_key
from tests.fixtures import bombs
from tests.fixtures.serving import RunningService
from tests.fixtures.watch import ServiceWatch, Target, memory_mb
from tests.serving.batch_prediction.test_job_response_stream import table
from tests.serving.batch_prediction.test_upload_limits import clients

NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
pytestmark = pytest.mark.timeout(3_600 if NIGHTLY else 300)
MAX_MB: Final = 2_048
MAX_MORE_MB: Final = 250 if NIGHTLY else 400
"""That may be kept of what was used meanwhile."""
MAX_SECONDS: Final = 1.0 if NIGHTLY else 5.0
"""Of a good request; other tests run at the same time, but not by night."""
AT_ONCE: Final = 8
REFUSED: Final = (400, 413, 422)
SENT: Final = 1 << 18
UNFINISHED: Final = 50 if NIGHTLY else 20
HEADS: Final = (40, 80) if NIGHTLY else (4, 8)
"""Megabytes of a header."""
SHORT_ROWS: Final = 8_000_000 if NIGHTLY else 25_000
"""Under 996 names; more than 251,000 are too many values, which takes 15 s to find out."""


@dataclass(frozen=True)
class Bomb:
    """A body and where it is sent, with its Content-Encoding."""

    name: str
    path: str
    body: Callable[[], bytes]
    encoding: str = ""


def of_file(name: str, body: Callable[[], bytes]) -> Bomb:
    return Bomb(name, "/predict/file", body)


def of_rows(name: str, body: Callable[[], bytes]) -> Bomb:
    return Bomb(name, "/predict", body)


LINES: Final = (
    of_file("a far cell", bombs.WORKBOOK_BOMBS["a far cell"]),
    of_file("a sheet of 1,000,000 x 200", lambda: bombs.wide_rows(1_000_000, "GR")),
    of_file("an ODS sheet of 1,000,000 x 200", lambda: bombs.repeated_cells(1_000_000, 200)),
    of_file("short rows", lambda: bombs.packed(bombs.short_rows(SHORT_ROWS))),
    of_file("too dense", lambda: bombs.packed(bombs.short_rows(20_000_000))),
    of_file("an open quote", lambda: bombs.packed(bombs.open_quote())),
    of_file("an open quote, again", lambda: bombs.packed(bombs.open_quote())),
    of_rows("unknown options", lambda: bombs.unknown_options(1_300_000)),
    of_rows("bad rows", lambda: bombs.partial_rows(19_000)),
    of_file("a footer of 10^12 rows", bombs.lying_footer),
    of_file("a page of 2 GB", bombs.lying_page),
    of_file("a lying directory", lambda: bombs.smaller_in_directory(bombs.large_text(300))),
    of_file("ODS repeats", bombs.repeated_cells),
    of_file("hidden columns", bombs.hidden_columns),
    of_file("hidden columns, one by one", lambda: bombs.hidden_columns(quoted=b'""')),
    of_file("long texts", lambda: bombs.parquet(Store=pa.array(["x" * (100 << 20)]))),
    of_file("long texts, often", bombs.WORKBOOK_BOMBS["long texts, often"]),
)


@dataclass(frozen=True)
class Attacker:
    """Sends bombs to the running service, with the keys of its callers."""

    service: RunningService
    keys: Sequence[str]

    @property
    def port(self) -> int:
        return int(self.service.url.rpartition(":")[2])

    def send(self, work: Sequence[Bomb]) -> None:
        """Send bombs at once, by turns of the callers; each is refused."""
        bodies = [bomb.body() for bomb in work]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            codes = list(pool.map(self._send_one, work, bodies, cycle(self.keys)))
        assert {
            bomb.name: code for bomb, code in zip(work, codes, strict=True) if code not in REFUSED
        } == {}

    def _send_one(self, bomb: Bomb, body: bytes, key: str) -> int:
        headers = {"X-API-Key": key, "Content-Type": "application/json"}
        if bomb.encoding:
            headers["Content-Encoding"] = bomb.encoding
        url = f"{self.service.url}{bomb.path}"
        while True:
            response = httpx.post(url, content=body, headers=headers, timeout=120, trust_env=False)
            if response.status_code != 503:  # the caller has its places
                return response.status_code
            time.sleep(0.1)

    def pour(self, head: str, megabytes: int) -> None:
        """Send bytes after an unfinished head until the service refuses them."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            with suppress(OSError):
                connection.sendall(head.encode())
                for _ in range((megabytes << 20) // SENT):
                    connection.sendall(b"x" * SENT)
            time.sleep(0.5)


@contextmanager
def watched(run_service: Callable[..., RunningService], row: dict[str, Any]) -> Iterator[Attacker]:
    """A service with two callers, which must keep the bounds; its memory returns at the end."""
    (key, one), (other, two) = (generate_key(Permission.PREDICT, name) for name in "ab")
    service = run_service(api_keys=f"{one.file_line},{two.file_line}")
    pid, port = service.process.pid, int(service.url.rpartition(":")[2])
    headers = {"X-API-Key": key, "Content-Type": "application/json"}
    attacker = Attacker(service, (key, other))
    attacker.send([of_file("no bomb", lambda: bombs.workbook((1, 0, 1)))])
    before = memory_mb(pid)
    with ServiceWatch(Target(pid, port, json.dumps({"inputs": [row]}), headers)) as watch:
        yield attacker
        deadline = time.monotonic() + 30
        while (after := memory_mb(pid)) > before + MAX_MORE_MB and time.monotonic() < deadline:
            time.sleep(0.2)
    seen = watch.report
    peak = max(sample.megabytes for sample in seen.samples)
    worst = max(seen.answers, key=lambda answer: answer.seconds)
    figures = (
        f"{before:.0f} MB, {peak:.0f}, then {after:.0f}; at worst {worst.seconds:.2f} s, with"
        f" {seen.share_left(worst):.0%} of the processors; {len(seen.answers)} answers"
    )
    sys.stdout.write(f"{figures}\n")
    assert service.process.poll() is None
    assert seen.failures(MAX_SECONDS) == [], figures
    assert peak < MAX_MB and after < before + MAX_MORE_MB, figures
    assert "Traceback" not in service.stop()


@contextmanager
def slow_readers(port: int, body: bytes, key: str, count: int) -> Iterator[None]:
    """Clients that send a file and read nothing of the answer."""
    head = f"POST /predict/file HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    with ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.settimeout(60)
            client.connect(("127.0.0.1", port))
            client.sendall(f"{head}X-API-Key: {key}\r\n\r\n".encode() + body)
        yield


def test_every_bomb_at_once(
    run_service: Callable[..., RunningService], row: Any, panel: Panel
) -> None:
    with watched(run_service, row()) as attacker:
        key, _ = attacker.keys
        body = table(panel, 100_000, "csv")
        with (
            clients(attacker.service.url, 20, key, sent=1) as slow,
            slow_readers(attacker.port, body, key, 3),
            ThreadPoolExecutor(60) as pool,
        ):
            attacker.send(LINES)
            predict = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\n"
            unfinished = f"{predict}Content-Length: {60 << 20}\r\n\r\n"
            work = [pool.submit(attacker.pour, unfinished, 59) for _ in range(UNFINISHED)]
            work += [pool.submit(attacker.pour, f"{predict}X-A: ", size) for size in HEADS]
            while not all(one.done() for one in work):
                for client in slow:
                    with suppress(OSError):  # its time is over
                        client.sendall(b"x")
                time.sleep(0.1)
            for one in work:
                one.result()


def packed(content: Callable[[], bytes], layers: Sequence[str], encoding: str = "utf-8") -> bytes:
    plain = content()
    return bombs.packed(
        plain if encoding == "utf-8" else plain.decode().encode(encoding, "replace"), layers
    )


layers = st.lists(st.sampled_from(["gzip", "zip"]), max_size=4)
encodings = st.sampled_from(["utf-8", "utf-8", "utf-16", "utf-8-sig"])
texts = st.one_of(
    st.builds(
        partial, st.just(bombs.short_rows), st.integers(1, SHORT_ROWS), st.integers(6, 1_100)
    ),
    st.builds(
        partial, st.just(bombs.open_quote), st.integers(1, 3_000_000),
        st.sampled_from([b'""\n', b'"\n', b"x\n", b'"a""",\n', b'""\r', b'";"\n']),
    ),
    st.builds(
        partial, st.just(bombs.hidden_columns), st.integers(1, 2_000_000),
        st.sampled_from([b"a", b"", b"Store", b"a\n", b'""']), st.sampled_from([b'"', b'""', b"'"]),
    ),
)  # fmt: skip
documents = st.one_of(
    st.builds(
        partial, st.just(bombs.wide_rows), st.integers(2, 400_000),
        st.sampled_from(["B", "Z", "GR", "XFD"]),
    ),
    st.builds(
        partial, st.just(bombs.repeated_cells), st.integers(1, 3_000_000), st.integers(1, 20_000)
    ),
    st.builds(partial, st.just(bombs.lying_footer), st.integers(1, 62).map(lambda n: 2**n)),
    st.builds(partial, st.just(bombs.lying_page), st.integers(1, 31).map(lambda n: 2**n - 1)),
    st.builds(
        lambda row, column: partial(bombs.workbook, (row, column, 1)),
        st.integers(1, 1_048_575), st.integers(0, 16_383),
    ),
    st.builds(
        lambda megabytes, size: lambda: bombs.smaller_in_directory(
            bombs.large_text(megabytes), size
        ),
        st.integers(1, 400), st.integers(0, 2**20),
    ),
)  # fmt: skip
bodies = st.one_of(
    st.builds(partial, st.just(bombs.unknown_options), st.integers(65, 1_500_000)),
    st.builds(partial, st.just(bombs.partial_rows), st.integers(1, 50_000), st.integers(1, 60)),
    st.sampled_from(sorted(bombs.BODY_BOMBS)).map(bombs.BODY_BOMBS.__getitem__),
)
variants = st.one_of(
    st.builds(
        lambda *how: of_file("text", lambda: packed(*how)), texts, layers, encodings
    ),
    st.builds(lambda *how: of_file("document", lambda: packed(*how)), documents, layers),
    bodies.map(partial(of_rows, "rows")),
    bodies.map(lambda body: Bomb("rows", "/predict", lambda: packed(body, ["gzip"]), "gzip")),
)  # fmt: skip


@pytest.mark.nightly
def test_variants_in_any_order(run_service: Callable[..., RunningService], row: Any) -> None:
    @hypothesis(
        max_examples=150 if NIGHTLY else 3, derandomize=not NIGHTLY, deadline=None, database=None,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.lists(variants, min_size=1 if NIGHTLY else 5, max_size=10))
    def send(work: list[Bomb]) -> None:
        attacker.send(work)

    with watched(run_service, row()) as attacker:
        send()
