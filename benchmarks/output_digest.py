"""Digests of the product's outputs, to compare two checkouts after a refactoring.

A checkout's service and command line run over a copy of a data folder that holds a Production
version. Each line printed is a case and the SHA-256 of its output without request ids, times and
addresses. Two checkouts with equal outputs print equal lines:

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
        process = subprocess.run(
            [sys.executable, "-m", "rossmann.cli", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.environment["ROSSMANN_DATA_DIR"],
        )
        return f"{process.returncode}\n{process.stdout}\n{process.stderr}"

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
            wait_until_healthy(health, process)
            yield
        finally:
            process.terminate()
            process.wait(60)


def free_port() -> int:
    """A TCP port that no process listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_healthy(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Wait until ``url`` returns 200; exits the program on timeout."""
    deadline = time.monotonic() + _TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url, timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise SystemExit(f"no response from {url}")


def without_ids(value: Any) -> Any:
    """A response without fields that differ from call to call."""
    if isinstance(value, dict):
        return {k: without_ids(v) for k, v in value.items() if k not in _DROPPED}
    return [without_ids(v) for v in value] if isinstance(value, list) else value


def digest(content: object) -> str:
    """SHA-256 of text, bytes or JSON; floats are written with all their digits."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    text = content if isinstance(content, str) else json.dumps(without_ids(content), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def without_durations(text: str) -> str:
    """Text without durations, speeds and log lines."""
    text = re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d .*\n", "", text, flags=re.MULTILINE)
    return re.sub(r"[\d.,]+ (s|ms|rows/s|rows a second|rows per second)\b", r"N \1", text)


def table_digest(content: bytes, file_format: str) -> str:
    """Digest of a table's columns, types and values (an Excel file also holds its date)."""
    if file_format == "csv":
        return digest(content)
    stream = BytesIO(content)
    table = pl.read_parquet(stream) if file_format == "parquet" else pl.read_excel(stream)
    return digest(f"{table.schema}\n{table.write_csv()}")


class Rows:
    """Rows of a chain for requests, drawn by a fixed seed."""

    def __init__(self, stores: list[int], last_day: date) -> None:
        self._random = np.random.default_rng(20150801)
        self._stores, self._last = stores, last_day

    def draw(self, count: int, first: int = 1, last: int = 48) -> list[dict[str, Any]]:
        """``count`` rows, ``first`` to ``last`` days after the end of history."""
        rows = []
        for _ in range(count):
            day = self._last + timedelta(days=int(self._random.integers(first, last + 1)))
            rows.append(
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
        return rows


def valid_bodies(rows: Rows, last_day: date) -> Iterator[tuple[str, dict[str, Any]]]:
    """Valid requests of all sizes and options."""
    as_of = (last_day - timedelta(days=60)).isoformat()
    for count in (1, 2, 8, 23, 24, 25, 400, 5_000):
        yield f"{count} rows", {"inputs": rows.draw(count)}
        yield f"{count} rows, bounds", {"inputs": rows.draw(count), "intervals": [0.5, 0.8, 0.95]}
        yield f"{count} rows, quantiles", {"inputs": rows.draw(count), "quantiles": [0.1, 0.5, 0.9]}
        yield f"{count} rows, unbiased", {"inputs": rows.draw(count), "objective": "unbiased"}
    for count in (1, 30, 3_000):
        yield f"{count} rows, as_of", {"inputs": rows.draw(count, -59, -12), "as_of": as_of}
        yield f"{count} past rows", {"inputs": rows.draw(count, -59, -12)}
        yield f"{count} rows, far", {"inputs": rows.draw(count, 40, 300), "intervals": [0.8]}
        totals = {"totals": ["store", "store_type", "chain"], "intervals": [0.8, 0.95]}
        yield f"{count} rows, totals", {"inputs": (drawn := rows.draw(count)), **totals}
        yield f"{count} rows, quantiles of totals", {"inputs": drawn, **totals, "quantiles": [0.4]}
    invalid = rows.draw(3)
    invalid[1]["DayOfWeek"] = invalid[1]["DayOfWeek"] % 7 + 1
    yield "weekday contradicts date", {"inputs": invalid}
    yield "by number", {"inputs": rows.draw(2), "model_stage": 1}


def invalid_bodies(rows: Rows, last_day: date) -> Iterator[tuple[str, bytes]]:
    """Invalid requests, each with its own error."""
    valid = rows.draw(1)[0]
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
    for field, invalid_values in values.items():
        for value in invalid_values:
            yield (
                f"{field}={value!r}",
                json.dumps({"inputs": [valid, valid | {field: value}]}).encode(),
            )
    for field in valid:
        row = {name: value for name, value in valid.items() if name != field}
        yield f"no {field}", json.dumps({"inputs": [row]}).encode()
    as_of: list[object] = ["2015-99-99", "1990-01-01", "2031-01-01", 5, valid["Date"]]
    options: dict[str, list[object]] = {
        "as_of": as_of,
        "intervals": [[0.0], [1.0], ["0.8"], 0.8, [0.999], []],
        "quantiles": [[0.0], [1.0], ["0.5"], 0.5, [0.995], []],
        "objective": ["cost"],
        "totals": [["week"], "chain"],
        "model_stage": ["Archived", "Nowhere", 999, -1, 1.5],
        "extra": [1],
    }
    for name, option_values in options.items():
        for value in option_values:
            yield f"{name}={value!r}", json.dumps({"inputs": [valid], name: value}).encode()
    yield "empty list", b'{"inputs": []}'
    yield "no inputs", b"{}"
    yield "no JSON", b"{"
    yield "a list", b"[]"
    yield "NaN", b'{"inputs": [NaN]}'
    yield "not UTF-8", b'{"inputs": ["\xff"]}'
    yield "empty body", b""
    many = [valid | {"Store": 50_000 + i, "Date": "1990-01-01"} for i in range(50)]
    yield "many errors", json.dumps({"inputs": many}).encode()


def encode(rows: list[dict[str, Any]], file_format: str) -> bytes:
    """Rows as a file."""
    stream = BytesIO()
    table = pl.DataFrame(rows)
    if file_format == "csv":
        table.write_csv(stream)
    elif file_format == "parquet":
        table.write_parquet(stream)
    else:
        table.write_excel(stream)
    return stream.getvalue()


def files(rows: Rows) -> Iterator[tuple[str, str, bytes, str, dict[str, str]]]:
    """Files in every input and output format, with options; some are invalid."""
    valid = rows.draw(700)
    extra = [row | {"Note": f"row {i}; ä"} for i, row in enumerate(valid)]
    for source in _FORMATS:
        for target in _FORMATS:
            yield f"{source} to {target}", source, encode(extra, source), target, {"format": target}
    content = encode(valid, "csv")
    options: list[dict[str, str]] = [
        {"intervals": "0.5,0.9"},
        {"quantiles": "0.1,0.975"},
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
    broken = [row | {"Store": 99_999} if i % 100 == 0 else row for i, row in enumerate(valid)]
    yield "unknown stores", "csv", encode(broken, "csv"), "csv", {}
    yield "no date column", "csv", b"Store,Open\n1,1\n", "csv", {}
    yield "no table", "csv", b"\x00\x01\x02", "csv", {}
    yield "no Open", "csv", encode([{k: v for k, v in r.items() if k != "Open"} for r in valid], "csv"), "csv", {}  # fmt: skip  # noqa: E501
    slashes = [
        row | {"Date": date.fromisoformat(row["Date"]).strftime("%d/%m/%Y")} for row in valid
    ]
    yield "dates by slashes", "csv", encode(slashes, "csv"), "csv", {}


def http_cases(client: httpx.Client) -> Iterator[tuple[str, str]]:
    """Requests to the service and the digests of their responses."""
    info = client.get("/model/info").json()
    last_day = date.fromisoformat(info["data"]["panel"]["last_day"])
    listed = client.get("/stores").json()
    stores = [
        store["store"] for store in (listed if isinstance(listed, list) else listed["stores"])
    ]
    rows = Rows(stores, last_day)
    for name, body in valid_bodies(rows, last_day):
        response = client.post("/predict", json=body)
        yield f"POST /predict: {name} ({response.status_code})", digest(response.json())
    for name, content in invalid_bodies(rows, last_day):
        response = client.post("/predict", content=content)
        yield f"POST /predict: {name} ({response.status_code})", digest(response.json())
    for count in (1, 12):
        body = {"inputs": rows.draw(count), "intervals": [0.8]}
        response = client.post("/explain", json=body)
        yield f"POST /explain: {count} rows ({response.status_code})", digest(response.json())
    for name, file_format, content, output_format, options in files(rows):
        response = client.post(
            "/predict/file",
            params=options,
            content=content,
            headers={"Content-Type": _FORMATS[file_format]},
        )
        if response.status_code == 200:
            content_digest = table_digest(response.content, output_format)
        else:
            content_digest = digest(response.json())
        headers = {
            k: v for k, v in response.headers.items() if k.startswith("x-") and "request" not in k
        }
        yield (
            f"POST /predict/file: {name} ({response.status_code})",
            f"{content_digest} {digest(headers)}",
        )
    for path in (
        *("/", "/model/info", "/models", "/stores", "/stores/1", "/stores/1/history?days=40"),
        *("/stores/1/plan?days=20", "/stores/99999", "/stores/x", "/nowhere", "/openapi.json"),
        *("/experiments/current", "/docs"),
    ):
        response = client.get(path)
        is_json = "json" in response.headers.get("content-type", "")
        content_digest = digest(response.json()) if is_json else digest(response.text)
        yield f"GET {path} ({response.status_code})", content_digest
    names = sorted(line for line in client.get("/metrics").text.splitlines() if line[:2] == "# ")
    yield "GET /metrics: names", digest("\n".join(names))


def cli_cases(checkout: Checkout, folder: Path, rows: Rows) -> Iterator[tuple[str, str]]:
    """The command line's help and its results, files included."""
    verbs = re.findall(r"^  ([a-z]+)  ", checkout.run("--help"), re.MULTILINE)
    for verb in verbs:
        yield f"rossmann {verb} --help", digest(checkout.run(verb, "--help"))
    # Totals are refused where a store's day comes twice.
    valid = list({(row["Store"], row["Date"]): row for row in rows.draw(300)}.values())
    for file_format in _FORMATS:
        source, target = folder / f"rows.{file_format}", folder / f"out.{file_format}"
        source.write_bytes(encode(valid, file_format))
        totals = folder / f"totals-{file_format}.csv"
        options = ("--interval", "0.8", "--interval", "0.95", "--totals", str(totals))
        text = checkout.run("predict", str(source), "-o", str(target), *options)
        yield (
            f"rossmann predict {file_format}: words",
            digest(without_durations(text.replace(str(folder), ""))),
        )
        yield (
            f"rossmann predict {file_format}: rows",
            table_digest(target.read_bytes(), file_format),
        )
        yield f"rossmann predict {file_format}: totals", digest(totals.read_bytes())
    for arguments in (["models", "list"], ["models", "show", "1"], ["data", "check"]):
        text = checkout.run(*arguments)
        for port in (checkout.api_port, checkout.mlflow_port):
            text = text.replace(str(port), "PORT")
        yield f"rossmann {' '.join(arguments)}", digest(text.replace(str(folder.parent), ""))


def log_case(checkout: Checkout, folder: Path) -> tuple[str, str]:
    """All rows of the prediction log without times and request ids, in a fixed order."""
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
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "data"
        shutil.copytree(args.data, data)
        folder = Path(temporary) / "files"
        folder.mkdir()
        checkout = Checkout(args.checkout.resolve(), data)
        with checkout.service() as client:
            for name, content_digest in http_cases(client):
                print(name, content_digest, flush=True)
            rows = Rows([1, 2, 3, 5, 8], date(2015, 7, 31))
            for name, content_digest in cli_cases(checkout, folder, rows):
                print(name, content_digest, flush=True)
        print(*log_case(checkout, folder))


if __name__ == "__main__":
    main()
