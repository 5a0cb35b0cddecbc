"""A small service that speaks the contract, so that pages are tested without a model behind."""

import json
import threading
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from rossmann.serving import model_messages

FIRST, LAST = date(2014, 1, 1), date(2015, 7, 31)
PLANNED_TO = date(2015, 9, 17)
FURTHEST = LAST + timedelta(days=365)


def sales_of(row: dict[str, Any]) -> float:
    """What the small service forecasts: a sum that a test can do in its head."""
    if not row["Open"]:
        return 0.0
    weekday = date.fromisoformat(row["Date"]).isoweekday()
    return 1000.0 * row["Store"] + 10.0 * weekday + 500.0 * row["Promo"]


def planned(store: int, day: date) -> dict[str, Any]:
    """Open but on Sundays; promotions in odd weeks; a holiday on 15 August; store 3 has no plan."""
    return {
        "Store": store,
        "DayOfWeek": day.isoweekday(),
        "Date": day.isoformat(),
        "Open": int(day.isoweekday() != 7),
        "Promo": day.isocalendar().week % 2,
        "StateHoliday": "a" if (day.month, day.day) == (8, 15) else "0",
        "SchoolHoliday": int(day.month == 8),
        "scheduled": store != 3 and day <= PLANNED_TO,
    }


class SmallService:
    """Starts and stops on one port; ``asked`` and ``explained`` hold what was posted."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.dataset = "demo"
        self.stores: Sequence[int] = (1, 2, 3)
        self.status, self.reason, self.registry = "healthy", "", "reachable"
        self.answers_left: int | None = None
        self.explained: list[dict[str, Any]] = []
        self.explain_fails: int | None = None
        self._server: ThreadingHTTPServer | None = None
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
                self._send(*service.get(parts.path, asked))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = service.explain if self.path == "/explain" else service.predict
                self._send(*answer(json.loads(body)))

            def _send(self, code: int, answer: Any) -> None:
                body = json.dumps(answer, default=str).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def data(self) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "version": "0123456789ab",
            "label": "demo data",
            "rows": 1731,
            "stores": len(self.stores),
            "first_day": FIRST,
            "last_day": LAST,
            "schedule_end": PLANNED_TO,
        }

    def get(self, path: str, asked: dict[str, str]) -> tuple[int, Any]:
        match path.strip("/").split("/"):
            case ["health"]:
                return 200, self._health()
            case ["model", "info"]:
                return 200, self._info()
            case ["stores"]:
                return 200, [self._store(store) for store in self.stores]
            case ["stores", store, "plan"]:
                start = date.fromisoformat(asked["start"])
                if start > FURTHEST:
                    fault = {"loc": ["query", "start"], "msg": "start is too late", "type": "x"}
                    return 422, {"detail": [fault], "request_id": "x"}
                days = [start + timedelta(days=i) for i in range(int(asked["days"]))]
                rows = [planned(int(store), day) for day in days if day <= FURTHEST]
                return 200, {"store": int(store), "start": start, "rows": rows}
            case ["stores", store, "history"]:
                return 200, self._history(int(store), asked)
        return 404, {"detail": [], "request_id": "x"}

    def _health(self) -> Any:
        return model_messages.Health(
            status=self.status,
            reason=self.reason,
            registry=self.registry,
            model_loaded=True,
            model_version=3,
            model_stage="Production",
            data=self.data(),
            version="0",
            uptime_seconds=1,
        ).model_dump(mode="json")

    def _info(self) -> Any:
        scores = {"ensemble": 0.1, "median": 0.13, "seasonal_naive": 0.17}
        return model_messages.ModelInfo(
            production_version=3,
            staging_version=4,
            registered_models=["rossmann-ensemble"],
            loaded_versions=[3],
            profile="quick",
            features=46,
            members=["lightgbm"],
            weights={"lightgbm": 1.0},
            levels=[0.8, 0.95],
            metrics={"windows": [{"rmspe": scores}]},
            data={"model": self.data(), "panel": self.data()},
        ).model_dump(mode="json")

    def _store(self, number: int) -> dict[str, Any]:
        return {
            "store": number,
            "store_type": "a",
            "assortment": "c",
            "competition_distance": 100.0,
            "promo2": False,
            "last_day": LAST,
            "last_sales": 1000.0 * number,
            "mean_sales": 1000.0 * number,
        }

    def _history(self, store: int, asked: dict[str, str]) -> dict[str, Any]:
        until = date.fromisoformat(asked.get("until", LAST.isoformat()))
        days = [until - timedelta(days=i) for i in reversed(range(int(asked["days"])))]
        rows = [planned(store, day) for day in days]
        past = [
            {"Date": r["Date"], "Sales": sales_of(r), "Open": r["Open"], "Promo": r["Promo"]}
            for r in rows
        ]
        return {"store": store, "until": until, "days": past}

    def explain(self, body: dict[str, Any]) -> tuple[int, Any]:
        """A plain day sells 1000 x Store; the rest is told as weekday, promotion and two more."""
        self.explained.append(body)
        if self.explain_fails is not None:
            return self.explain_fails, {"detail": [], "request_id": "x"}
        row = body["inputs"][0]
        plain, sales, promo = 1000.0 * row["Store"], sales_of(row), 500.0 * row["Promo"]
        parts = {"weekday": sales - plain - promo, "promotion": promo, "month": 2.0, "store": -2.0}
        told = [
            {"name": n, "label": n, "factor": 1 + s / plain, "percent": 100 * s / plain, "sales": s}
            for n, s in parts.items()
        ]
        split = {"forecast": sales, "baseline": plain, "drivers": told}
        code, answer = self.predict(body)
        self.asked.remove(body)
        return code, {**answer, "explanations": [split]}

    def predict(self, body: dict[str, Any]) -> tuple[int, Any]:
        if self.answers_left is not None:
            if self.answers_left == 0:
                return 500, {}
            self.answers_left -= 1
        self.asked.append(body)
        rows = body["inputs"]
        days = [date.fromisoformat(row["Date"]) for row in rows]
        origin = min(LAST, min(days) - timedelta(days=1))
        if body.get("as_of"):
            origin = date.fromisoformat(body["as_of"])
        faults = list(_faults(rows, days, origin, self.stores))
        if faults:
            return 422, {"detail": faults, "request_id": "x"}
        sales = [sales_of(row) for row in rows]
        bands = [
            {"level": p, "lower": [0.9 * s for s in sales], "upper": [1.1 * s for s in sales]}
            for p in body.get("intervals", [])
        ]
        return 200, {
            "predictions": sales,
            "model_version": 3,
            "model_stage": "Production",
            "count": len(rows),
            "as_of": origin,
            "objective": body.get("objective", "accuracy"),
            "intervals": bands,
            "warnings": list(_warnings(rows)),
            "request_id": "x",
        }


def _faults(
    rows: list[dict[str, Any]], days: list[date], origin: date, stores: Sequence[int]
) -> Iterator[dict[str, Any]]:
    for i, (row, day) in enumerate(zip(rows, days, strict=True)):
        if row["Store"] not in stores:
            msg = f"Store is unknown (got {row['Store']})"
            yield {"loc": ["inputs", i, "Store"], "msg": msg, "type": "unknown_store"}
        if day <= max(FIRST, origin) or day > FURTHEST:
            yield {"loc": ["inputs", i, "Date"], "msg": f"Date {day} has no answer", "type": "date"}


def _warnings(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    places = [i for i, row in enumerate(rows) if row["Store"] == 3]
    if places:
        msg = "days without a schedule"
        yield {"type": "no_schedule", "msg": msg, "count": len(places), "rows": places[:10]}


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallService]:
    small = SmallService()
    monkeypatch.setenv("ROSSMANN_API_URL", small.url)
    yield small
    small.stop()
