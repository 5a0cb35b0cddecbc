"""HTTP baseline: the service's request and response schemas without a model.

    python benchmarks/http_baseline.py PORT [WORKERS]

FastAPI parses the body, a constant list is the forecast, FastAPI serializes the response.
"""

import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from rossmann.serving.schemas.forecasts import PredictRequest, PredictResponse


def make_app() -> FastAPI:
    """An application with the same forecast for every row."""
    app = FastAPI()

    @app.post("/predict")
    async def predict(request: PredictRequest) -> PredictResponse:
        count = len(request.inputs)
        return PredictResponse(
            predictions=[5234.56] * count,
            model_version=1,
            model_stage="Production",
            count=count,
            as_of="2015-07-31",
            intervals=[],
            warnings=[],
            request_id="",
        )

    return app


if __name__ == "__main__":
    uvicorn.run(
        "http_baseline:make_app",
        factory=True,
        app_dir=str(Path(__file__).parent),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        workers=int(sys.argv[2]) if len(sys.argv) > 2 else 1,
        log_level="warning",
        access_log=False,
    )
