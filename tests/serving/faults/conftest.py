"""A real registry behind a door that can fail, clients that play a load, and what users see."""

import http.client
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from rossmann.models.model_files import CARD_FILE, read_card, write_card
from rossmann.models.packaging import register
from rossmann.models.registry import Registry
from rossmann.models.train import Trained
from rossmann.settings import load_settings

PATIENCE = 120.0


def wait(what: str, is_so: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """What ``is_so`` gives as soon as it is true; HTTP that fails is not yet true."""
    deadline = time.monotonic() + seconds
    told: Any = None
    while time.monotonic() < deadline:
        try:
            told = is_so()
        except httpx.HTTPError as error:
            told = error
        else:
            if told:
                return told
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s for: {what}; last: {told!r}")


@pytest.fixture
def until() -> Callable[..., Any]:
    return wait


class Between:
    """A door before MLflow that passes requests on, or fails in the way that ``mode`` names.

    ``away`` hangs up; ``silent`` never answers; ``broken`` answers 500; ``half`` ends an answer in
    its midst; ``damaged`` changes a byte of each file. ``only``: paths with this text alone fail.
    """

    def __init__(self, behind: str) -> None:
        self.mode = ""
        self.only = ""
        self.asked = 0
        self.ended = threading.Event()
        target = urlsplit(behind)
        between = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                between.asked += 1
                mode = between.mode if between.only in self.path else ""
                length = int(self.headers.get("content-length", 0))
                body = self.rfile.read(length)
                if mode == "silent":
                    between.ended.wait(PATIENCE)
                if mode in {"away", "silent"}:
                    self.close_connection = True
                elif mode == "broken":
                    self.tell(500, b"<html>Internal Server Error</html>")
                else:
                    self.pass_on(body, mode)

            def pass_on(self, body: bytes, mode: str) -> None:
                link = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
                kept = {k: v for k, v in self.headers.items() if k.lower() == "content-type"}
                link.request(self.command, self.path, body, kept)
                answer = link.getresponse()
                content = answer.read()
                if mode == "damaged" and content:
                    middle = len(content) // 2
                    content = (
                        content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
                    )
                self.tell(answer.status, content, half=mode == "half")
                link.close()

            def tell(self, code: int, content: bytes, half: bool = False) -> None:
                self.send_response(code)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if half else content)
                self.close_connection = self.close_connection or half

            do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Nothing: the test tells."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def between(mlflow_server: str) -> Iterator[Between]:
    """A door before the real MLflow."""
    door = Between(mlflow_server)
    thread = threading.Thread(target=door.server.serve_forever)
    thread.start()
    yield door
    door.ended.set()
    door.server.shutdown()
    thread.join()
    door.server.server_close()


@pytest.fixture(scope="session")
def registered(
    trained: Trained, mlflow_server: str, tmp_path_factory: pytest.TempPathFactory
) -> list[int]:
    """Numbers of three versions in the real registry, each with other forecasts."""
    home = tmp_path_factory.mktemp("registered")
    settings = load_settings(data_dir=home, mlflow_tracking_uri=mlflow_server)
    numbers = []
    for place in range(3):
        folder = home / str(place)
        shutil.copytree(trained.folder, folder)
        card = read_card(folder)
        heard = {name: weight * (1 - 0.1 * place) for name, weight in card["weights"].items()}
        card = write_card(folder, {**card, "weights": heard}, list(card["files"]))
        assert (folder / CARD_FILE).is_file()
        numbers.append(register(Trained(folder, card, []), settings).version)
    return numbers


@pytest.fixture
def promote(mlflow_server: str) -> Callable[[int], None]:
    """Promotes as another hand does, past the door."""

    def move(version: int) -> None:
        with Registry(mlflow_server) as registry:
            registry.promote(version, "", "test")

    return move


@dataclass
class Load:
    """What came of a load: each answer's code (0: none came) and body, in the order of ends."""

    codes: list[int] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, code: int, content: bytes, fault: str = "") -> None:
        with self.lock:
            self.codes.append(code)
            if code == 200:
                self.bodies.append(json.loads(content))
            elif fault or code:
                self.faults.append(fault or content.decode("utf-8", "replace"))

    @property
    def answered(self) -> int:
        return self.codes.count(200)


@contextmanager
def run_load(
    url: str, body: dict[str, Any], clients: int = 4, pause: float = 0.01
) -> Iterator[Load]:
    """Clients that ask the same again and again over kept connections until the block ends."""
    load, stop, place = Load(), threading.Event(), urlsplit(url)
    content = json.dumps(body).encode()

    def play() -> None:
        link = http.client.HTTPConnection(place.hostname or "", place.port, timeout=PATIENCE)
        while not stop.is_set():
            try:
                link.request("POST", "/predict", content, {"Content-Type": "application/json"})
                answer = link.getresponse()
                load.note(answer.status, answer.read())
            except (OSError, http.client.HTTPException) as error:
                load.note(0, b"", repr(error))
                link.close()
            stop.wait(pause)
        link.close()

    threads = [threading.Thread(target=play) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.fixture
def under_load() -> Callable[..., AbstractContextManager[Load]]:
    return run_load


@pytest.fixture
def ask() -> Callable[..., httpx.Response]:
    """Asks for a forecast."""

    def post(url: str, body: dict[str, Any], seconds: float = PATIENCE) -> httpx.Response:
        return httpx.post(f"{url}/predict", json=body, timeout=seconds, trust_env=False)

    return post


@pytest.fixture
def health() -> Callable[[str], dict[str, Any]]:
    def get(url: str) -> dict[str, Any]:
        return dict(httpx.get(f"{url}/health", timeout=PATIENCE, trust_env=False).json())

    return get


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The local copies of the service that ``run_door`` starts."""
    return tmp_path / "models"
