"""Digests of what the product answers, to prove that a refactoring changes no number and no word.

A checkout's service and command line run over a copy of a data folder that holds a Production
version. Each line printed is a case and the SHA-256 of its answer; request ids, times and addresses
are left out. Two checkouts that answer the same print the same:

    python benchmarks/output_digest.py --data data --checkout ../before > before.txt
    python benchmarks/output_digest.py --data data > after.txt
    diff before.txt after.txt
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import polars as pl

_TIMEOUT: Final = 300.0
_DROPPED: Final = {"request_id", "seconds", "uptime_seconds", "pid", "address", "created"}
_FORMATS: Final = {
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}


class Checkout:
    """A checkout over a data folder: its command line, and its services on free ports."""

    def __init__(self, source: Path, data: Path) -> None:
        self.api_port, self.mlflow_port = free_port(), free_port()
        self.environment = {
            **{name: value for name, value in os.environ.items() if "ROSSMANN" not in name},
            "PYTHONPATH": str(source / "src"),
            "ROSSMANN_DATA_DIR": str(data),
            "ROSSMANN_API_PORT": str(self.api_port),
            "ROSSMANN_MLFLOW_PORT": str(self.mlflow_port),
            "ROSSMANN_LOG_LEVEL": "error",
            "COLUMNS": "100",
        }

    def run(self, *arguments: str) -> str:
        """The command line's exit code and output."""
        done = subprocess.run(
            [sys.executable, "-m", "rossmann.cli", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.environment["ROSSMANN_DATA_DIR"],
        )
        return f"{done.returncode}\n{done.stdout}\n{done.stderr}"

    @contextmanager
    def service(self) -> Iterator[httpx.Client]:
        """MLflow and the prediction service, and a client of the latter."""
        with self._running("mlflow", f"http://127.0.0.1:{self.mlflow_port}/health"):
            url = f"http://127.0.0.1:{self.api_port}"
            with (
                self._running("serve", f"{url}/health/ready"),
                httpx.Client(base_url=url, timeout=_TIMEOUT, trust_env=False) as client,
            ):
                yield client

    @contextmanager
    def _running(self, verb: str, health: str) -> Iterator[None]:
        process = subprocess.Popen(
            [sys.executable, "-m", "rossmann.cli", verb],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            await_health(health, process)
            yield
        finally:
            process.terminate()
            process.wait(60)


def free_port() -> int:
    """A TCP port that no process listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_health(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Return once ``url`` answers 200; ends the program where it does not."""
    ends = time.monotonic() + _TIMEOUT
    while time.monotonic() < ends and process.poll() is None:
        try:
            if httpx.get(url, timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise SystemExit(f"no answer from {url}")


def normalized(value: Any) -> Any:
    """An answer without what differs from call to call."""
    if isinstance(value, dict):
        return {k: normalized(v) for k, v in value.items() if k not in _DROPPED}
    return [normalized(v) for v in value] if isinstance(value, list) else value


def digest(content: object) -> str:
    """SHA-256 of text, bytes or JSON; floats are written with all their digits."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    text = content if isinstance(content, str) else json.dumps(normalized(content), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def without_times(text: str) -> str:
    """Text without durations, speeds and the lines of the log."""
    text = re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d .*\n", "", text, flags=re.MULTILINE)
    return re.sub(r"[\d.,]+ (s|ms|rows/s|rows a second|rows per second)\b", r"N \1", text)


def table_digest(content: bytes, form: str) -> str:
    """Digest of a table's columns, types and values (an Excel file also holds its date)."""
    if form == "csv":
        return digest(content)
    stream = BytesIO(content)
    table = pl.read_parquet(stream) if form == "parquet" else pl.read_excel(stream)
    return digest(f"{table.schema}\n{table.write_csv()}")


class Rows:
    """Rows of a chain for requests, drawn by a fixed seed."""

    def __init__(self, stores: list[int], last_day: date) -> None:
        self._random = np.random.default_rng(20150801)
        self._stores, self._last = stores, last_day

    def draw(self, count: int, first: int = 1, last: int = 48) -> list[dict[str, Any]]:
        """``count`` rows, ``first`` to ``last`` days after the end of history."""
        made = []
        for _ in range(count):
            day = self._last + timedelta(days=int(self._random.integers(first, last + 1)))
            made.append(
                {
                    "Store": int(self._random.choice(self._stores)),
                    "DayOfWeek": day.isoweekday(),
                    "Date": day.isoformat(),
                    "Open": int(self._random.random() < 0.9),
                    "Promo": int(self._random.integers(2)),
                    "StateHoliday": str(self._random.choice(["0", "0", "0", "a", "b", "c"])),
                    "SchoolHoliday": int(self._random.integers(2)),
                }
            )
        return made


def predict_bodies(rows: Rows, last_day: date) -> Iterator[tuple[str, dict[str, Any]]]:
    """Good requests of all sizes and options."""
    as_of = (last_day - timedelta(days=60)).isoformat()
    for count in (1, 2, 8, 23, 24, 25, 400, 5_000):
        yield f"{count} rows", {"inputs": rows.draw(count)}
        yield f"{count} rows, bounds", {"inputs": rows.draw(count), "intervals": [0.5, 0.8, 0.95]}
        yield f"{count} rows, unbiased", {"inputs": rows.draw(count), "objective": "unbiased"}
    for count in (1, 30, 3_000):
        yield f"{count} rows, as_of", {"inputs": rows.draw(count, -59, -12), "as_of": as_of}
        yield f"{count} past rows", {"inputs": rows.draw(count, -59, -12)}
        yield f"{count} rows, far", {"inputs": rows.draw(count, 40, 300), "intervals": [0.8]}
        totals = ["store", "store_type", "chain"]
        yield (
            f"{count} rows, totals",
            {"inputs": rows.draw(count), "totals": totals, "intervals": [0.8, 0.95]},
        )
    odd = rows.draw(3)
    odd[1]["DayOfWeek"] = odd[1]["DayOfWeek"] % 7 + 1
    yield "weekday contradicts date", {"inputs": odd}
    yield "by number", {"inputs": rows.draw(2), "model_stage": 1}


def bad_bodies(rows: Rows, last_day: date) -> Iterator[tuple[str, bytes]]:
    """Requests that are refused, each in its words."""
    good = rows.draw(1)[0]
    values: dict[str, list[object]] = {
        "Store": ["1", 0, -1, 1.0, True, None, 10**20, 99_999],
        "DayOfWeek": [0, 8, "1", None],
        "Date": ["2015-13-01", "01.08.2015", "", 20150801, "1999-01-01", "2031-01-01", None],
        "Open": [2, "1", True, None, 0.5],
        "Promo": [2, None],
        "StateHoliday": ["d", 0, None],
        "SchoolHoliday": [3, None],
        "Unknown": [1],
    }
    for field, wrong in values.items():
        for value in wrong:
            yield (
                f"{field}={value!r}",
                json.dumps({"inputs": [good, good | {field: value}]}).encode(),
            )
    for field in good:
        row = {name: value for name, value in good.items() if name != field}
        yield f"no {field}", json.dumps({"inputs": [row]}).encode()
    as_of: list[object] = ["2015-99-99", "1990-01-01", "2031-01-01", 5, good["Date"]]
    options: dict[str, list[object]] = {
        "as_of": as_of,
        "intervals": [[0.0], [1.0], ["0.8"], 0.8, [0.999], []],
        "objective": ["cost"],
        "totals": [["week"], "chain"],
        "model_stage": ["Archived", "Nowhere", 999, -1, 1.5],
        "extra": [1],
    }
    for name, given in options.items():
        for value in given:
            yield f"{name}={value!r}", json.dumps({"inputs": [good], name: value}).encode()
    yield "empty list", b'{"inputs": []}'
    yield "no inputs", b"{}"
    yield "no JSON", b"{"
    yield "a list", b"[]"
    yield "NaN", b'{"inputs": [NaN]}'
    yield "not UTF-8", b'{"inputs": ["\xff"]}'
    yield "empty body", b""
    many = [good | {"Store": 50_000 + i, "Date": "1990-01-01"} for i in range(50)]
    yield "many errors", json.dumps({"inputs": many}).encode()


def encoded(rows: list[dict[str, Any]], form: str) -> bytes:
    """Rows as a file."""
    stream = BytesIO()
    table = pl.DataFrame(rows)
    if form == "csv":
        table.write_csv(stream)
    elif form == "parquet":
        table.write_parquet(stream)
    else:
        table.write_excel(stream)
    return stream.getvalue()


def files(rows: Rows) -> Iterator[tuple[str, str, bytes, str, dict[str, str]]]:
    """Files in every format and to every format, with options; some are refused."""
    good = rows.draw(700)
    extra = [row | {"Note": f"row {i}; ä"} for i, row in enumerate(good)]
    for form in _FORMATS:
        for out in _FORMATS:
            yield f"{form} to {out}", form, encoded(extra, form), out, {"format": out}
    content = encoded(good, "csv")
    options: list[dict[str, str]] = [
        {"intervals": "0.5,0.9"},
        {"objective": "unbiased"},
        {"as_of": "2015-06-01"},
        {"model_stage": "1"},
        {"model_stage": "Nowhere"},
        {"date_format": "DD.MM.YYYY"},
        {"unknown": "1"},
        {"format": "pdf"},
    ]
    for option in options:
        yield f"options {option}", "csv", content, "csv", option
    german = content.replace(b",", b";")
    yield "semicolons", "csv", german, "csv", {}
    broken = [row | {"Store": 99_999} if i % 100 == 0 else row for i, row in enumerate(good)]
    yield "unknown stores", "csv", encoded(broken, "csv"), "csv", {}
    yield "no date column", "csv", b"Store,Open\n1,1\n", "csv", {}
    yield "no table", "csv", b"\x00\x01\x02", "csv", {}
    yield "no Open", "csv", encoded([{k: v for k, v in r.items() if k != "Open"} for r in good], "csv"), "csv", {}  # fmt: skip  # noqa: E501
    slashes = [row | {"Date": date.fromisoformat(row["Date"]).strftime("%d/%m/%Y")} for row in good]
    yield "dates by slashes", "csv", encoded(slashes, "csv"), "csv", {}


def http_cases(client: httpx.Client) -> Iterator[tuple[str, str]]:
    """Every call of the service and the digest of its answer."""
    info = client.get("/model/info").json()
    last_day = date.fromisoformat(info["data"]["panel"]["last_day"])
    listed = client.get("/stores").json()
    stores = [
        store["store"] for store in (listed if isinstance(listed, list) else listed["stores"])
    ]
    rows = Rows(stores, last_day)
    for name, body in predict_bodies(rows, last_day):
        answer = client.post("/predict", json=body)
        yield f"POST /predict: {name} ({answer.status_code})", digest(answer.json())
    for name, content in bad_bodies(rows, last_day):
        answer = client.post("/predict", content=content)
        yield f"POST /predict: {name} ({answer.status_code})", digest(answer.json())
    for count in (1, 12):
        body = {"inputs": rows.draw(count), "intervals": [0.8]}
        answer = client.post("/explain", json=body)
        yield f"POST /explain: {count} rows ({answer.status_code})", digest(answer.json())
    for name, form, content, out, options in files(rows):
        answer = client.post(
            "/predict/file",
            params=options,
            content=content,
            headers={"Content-Type": _FORMATS[form]},
        )
        good = answer.status_code == 200
        told = table_digest(answer.content, out) if good else digest(answer.json())
        heads = {
            k: v for k, v in answer.headers.items() if k.startswith("x-") and "request" not in k
        }
        yield f"POST /predict/file: {name} ({answer.status_code})", f"{told} {digest(heads)}"
    for path in (
        *("/", "/model/info", "/models", "/stores", "/stores/1", "/stores/1/history?days=40"),
        *("/stores/1/plan?days=20", "/stores/99999", "/stores/x", "/nowhere", "/openapi.json"),
        *("/experiments/current", "/docs"),
    ):
        answer = client.get(path)
        is_json = "json" in answer.headers.get("content-type", "")
        told = digest(answer.json()) if is_json else digest(answer.text)
        yield f"GET {path} ({answer.status_code})", told
    names = sorted(line for line in client.get("/metrics").text.splitlines() if line[:2] == "# ")
    yield "GET /metrics: names", digest("\n".join(names))


def cli_cases(checkout: Checkout, folder: Path, rows: Rows) -> Iterator[tuple[str, str]]:
    """The command line's help and its results, files included."""
    verbs = re.findall(r"^  ([a-z]+)  ", checkout.run("--help"), re.MULTILINE)
    for verb in verbs:
        yield f"rossmann {verb} --help", digest(checkout.run(verb, "--help"))
    good = rows.draw(300)
    for form in _FORMATS:
        given, made = folder / f"rows.{form}", folder / f"out.{form}"
        given.write_bytes(encoded(good, form))
        totals = folder / f"totals-{form}.csv"
        options = ("--interval", "0.8", "--interval", "0.95", "--totals", str(totals))
        text = checkout.run("predict", str(given), "-o", str(made), *options)
        yield (
            f"rossmann predict {form}: words",
            digest(without_times(text.replace(str(folder), ""))),
        )
        yield f"rossmann predict {form}: rows", table_digest(made.read_bytes(), form)
        yield f"rossmann predict {form}: totals", digest(totals.read_bytes())
    for words in (["models", "list"], ["models", "show", "1"], ["data", "check"]):
        text = checkout.run(*words)
        for port in (checkout.api_port, checkout.mlflow_port):
            text = text.replace(str(port), "PORT")
        yield f"rossmann {' '.join(words)}", digest(text.replace(str(folder.parent), ""))


def log_case(checkout: Checkout, folder: Path) -> tuple[str, str]:
    """All rows of the prediction log but their times and request ids, in a fixed order."""
    path = folder / "log.parquet"
    checkout.run("log", "export", "-o", str(path))
    table = pl.read_parquet(path).drop("request_id", "answered_at", "latency_seconds", "batch")
    return f"rossmann log export: {len(table)} rows", digest(
        table.sort(table.columns).write_csv(float_precision=None)
    )


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkout", type=Path, default=Path(__file__).resolve().parents[1])
    parser.add_argument("--data", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "data"
        shutil.copytree(given.data, data)
        folder = Path(temporary) / "files"
        folder.mkdir()
        checkout = Checkout(given.checkout.resolve(), data)
        with checkout.service() as client:
            for name, told in http_cases(client):
                print(name, told, flush=True)
            rows = Rows([1, 2, 3, 5, 8], date(2015, 7, 31))
            for name, told in cli_cases(checkout, folder, rows):
                print(name, told, flush=True)
        print(*log_case(checkout, folder))


if __name__ == "__main__":
    main()
