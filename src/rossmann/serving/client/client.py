"""Typed HTTP client of the prediction service; one method for each endpoint."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import httpx
from pydantic import TypeAdapter

from rossmann.addresses import is_this_machine, open_transport
from rossmann.errors import ServiceError
from rossmann.installation import shell_command
from rossmann.schema import Objective
from rossmann.serving.client.responses import (
    FileResult,
    ResponseModel,
    file_options,
    number_lists,
    parse_list,
    parse_response,
    raise_for_error,
    transfer_file,
)
from rossmann.serving.schemas.forecasts import ExplainResponse, PredictResponse
from rossmann.serving.schemas.models import (
    ExperimentState,
    Health,
    LoadResponse,
    ModelInfo,
    ModelVersionInfo,
)
from rossmann.serving.schemas.stores import StoreHistory, StorePlan, StoreSummary

_STORES = TypeAdapter(list[StoreSummary])
_VERSIONS = TypeAdapter(list[ModelVersionInfo])

EXPLAIN_TIMEOUT: Final = 120.0
"""Seconds that a response with feature attributions may take for some hundred rows."""


class Client:
    """Client of one service; safe to share between threads.

    Every call raises ``ServiceError`` where the service is away or fails, and ``RequestError``
    (with ``errors``) for invalid input. Where the caller may not, it raises
    ``AuthenticationError`` or ``PermissionDeniedError``; for too many calls ``RateLimitError``
    (with ``seconds`` to wait). For an unknown version it raises ``VersionNotFoundError``, and
    without a model ``ModelUnavailableError``.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        timeout: float = 30,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._long_timeout = httpx.Timeout(max(timeout, EXPLAIN_TIMEOUT), connect=min(timeout, 5.0))
        self._http = httpx.Client(
            base_url=self.base_url,
            headers={"X-API-Key": api_key} if api_key else {},
            timeout=httpx.Timeout(timeout, connect=min(timeout, 5.0)),
            transport=transport or open_transport(self.base_url),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections.

        Example: ``client.close()``
        """
        self._http.close()

    def health(self) -> Health:
        """State of the service.

        Example: ``print(client.health().status)``
        """
        return self._get("/health", Health)

    def model_info(self) -> ModelInfo:
        """Versions in use, and the data of the model and of the panel.

        Example: ``print(client.model_info().production_version)``
        """
        return self._get("/model/info", ModelInfo)

    def predict(
        self,
        rows: Sequence[Mapping[str, Any]],
        stage: str | int = "Production",
        as_of: str | None = None,
        intervals: Sequence[float] = (),
        objective: Objective | None = None,
        totals: Sequence[str] = (),
        quantiles: Sequence[float] = (),
    ) -> PredictResponse:
        """Forecast each of ``rows`` (the seven fields), in their order, and totals of them.

        Example: ``print(client.predict(rows, intervals=[0.8]).predictions)``
        """
        body = _body(rows, stage, as_of, intervals, objective, quantiles)
        if totals:
            body["totals"] = list(totals)
        return parse_response(self._send("POST", "/predict", json=body), PredictResponse)

    def predict_file(
        self,
        source: Path,
        target: Path,
        stage: str | int = "Production",
        as_of: str | None = None,
        intervals: Sequence[float] = (),
        objective: Objective | None = None,
        date_format: str | None = None,
        quantiles: Sequence[float] = (),
    ) -> FileResult:
        """Forecast every row of a CSV, Parquet or Excel file into ``target``.

        The suffix of ``target`` (.csv, .parquet, .xlsx) is the format of the response; with
        another one it is the format of ``source``. Neither file is held in memory as a whole.
        Raises ``OSError`` too.

        Example: ``client.predict_file(Path("data/demo/raw/test.csv"), Path("out.csv"))``
        """
        options = file_options(target, stage, as_of, objective, date_format)
        options |= number_lists(intervals=intervals, quantiles=quantiles)
        with self._translate_errors():
            try:
                return transfer_file(self._http, source, target, options, self._long_timeout)
            except (KeyError, ValueError) as error:
                raise ServiceError(
                    f"what answers at {self.base_url} is not this service"
                ) from error

    def explain(
        self,
        rows: Sequence[Mapping[str, Any]],
        stage: str | int = "Production",
        as_of: str | None = None,
        intervals: Sequence[float] = (),
        objective: Objective | None = None,
        quantiles: Sequence[float] = (),
    ) -> ExplainResponse:
        """Forecast each of ``rows``, with its feature attributions; takes some 25 ms a row.

        The timeout is the client's, but at least ``EXPLAIN_TIMEOUT`` seconds.

        Example: ``print(client.explain(rows).explanations[0].drivers[0].label)``
        """
        body = _body(rows, stage, as_of, intervals, objective, quantiles)
        response = self._send("POST", "/explain", json=body, timeout=self._long_timeout)
        return parse_response(response, ExplainResponse)

    def stores(self) -> list[StoreSummary]:
        """Every store, by number.

        Example: ``print(len(client.stores()))``
        """
        return parse_list(_STORES, self._send("GET", "/stores"))

    def store(self, number: int) -> StoreSummary:
        """One store.

        Example: ``print(client.store(1).store_type)``
        """
        return self._get(f"/stores/{number:d}", StoreSummary)

    def history(self, number: int, days: int = 90, until: str | None = None) -> StoreHistory:
        """The last ``days`` days of a store, up to ``until`` (YYYY-MM-DD) or the end of history.

        To compare sales with a forecast, use the days' ``backtest``.

        Example: ``print(client.history(1, days=7).days[0].Sales)``
        """
        params = {"days": days} | ({"until": until} if until else {})
        return self._get(f"/stores/{number:d}/history", StoreHistory, params)

    def plan(self, number: int, start: str | None = None, days: int = 48) -> StorePlan:
        """A store's plan for ``days`` days from ``start`` or from the day after history.

        Example: ``print(client.plan(1, days=7).rows[0].Promo)``
        """
        params = {"days": days} | ({"start": start} if start else {})
        return self._get(f"/stores/{number:d}/plan", StorePlan, params)

    def experiments_current(self) -> ExperimentState:
        """The running experiment and its comparison so far; may take some seconds.

        Example: ``print(client.experiments_current().mode)``
        """
        return parse_response(
            self._send("GET", "/experiments/current", timeout=self._long_timeout), ExperimentState
        )

    def models(self) -> list[ModelVersionInfo]:
        """Every version in the registry, newest first; needs a key with the right to operate.

        Example: ``print(client.models()[0].stage)``
        """
        return parse_list(_VERSIONS, self._send("GET", "/models"))

    def load(self, stage: str | int = "Production") -> LoadResponse:
        """Load a stage or version; needs an API key with the right to operate.

        Example: ``print(client.load("Production").model_version)``
        """
        return parse_response(
            self._send("POST", "/model/load", json={"model_stage": stage}), LoadResponse
        )

    def promote(self, version: int, reason: str = "", force: bool = False) -> ModelVersionInfo:
        """Make ``version`` the Production version; needs an API key with the right to operate.

        Raises ``GateRejectedError`` where the gate rejects it and ``force`` is not set.

        Example: ``print(client.promote(2, reason="better in the last six weeks").stage)``
        """
        body = {"reason": reason, "force": force}
        response = self._send("POST", f"/models/{version:d}/promote", json=body)
        return parse_response(response, ModelVersionInfo)

    def rollback(self, reason: str = "") -> ModelVersionInfo:
        """Go back to the version before; needs an API key with the right to operate.

        Example: ``print(client.rollback(reason="its Sundays were too high").version)``
        """
        response = self._send("POST", "/models/rollback", json={"reason": reason})
        return parse_response(response, ModelVersionInfo)

    def _get(
        self, path: str, model: type[ResponseModel], params: Mapping[str, Any] | None = None
    ) -> ResponseModel:
        return parse_response(self._send("GET", path, params=params), model)

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        with self._translate_errors():
            response = self._http.request(method, path, **options)
        raise_for_error(response)
        return response

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Turn errors of the connection into ``ServiceError``."""
        try:
            yield
        except httpx.TimeoutException as error:
            raise ServiceError(f"the service at {self.base_url} does not answer in time") from error
        except httpx.RemoteProtocolError as error:
            raise ServiceError(f"the service at {self.base_url} broke off its answer") from error
        except httpx.HTTPError as error:
            is_here = is_this_machine(httpx.URL(self.base_url).host)
            hint = f"; start it with: {shell_command('serve')}" if is_here else ""
            raise ServiceError(f"the service at {self.base_url} is away ({error}){hint}") from error


def _body(
    rows: Sequence[Mapping[str, Any]],
    stage: str | int,
    as_of: str | None,
    intervals: Sequence[float],
    objective: Objective | None,
    quantiles: Sequence[float],
) -> dict[str, Any]:
    """Body of a request; for fields left out, the service's defaults hold."""
    body: dict[str, Any] = {"inputs": [dict(row) for row in rows], "model_stage": stage}
    if as_of is not None:
        body["as_of"] = as_of
    if intervals:
        body["intervals"] = list(intervals)
    if quantiles:
        body["quantiles"] = list(quantiles)
    if objective is not None:
        body["objective"] = objective
    return body
