"""A process that has imported everything and forks one retraining for each line that it reads.

A line is JSON: ``settings`` to change, the ``name`` of the model, whether to ``promote``, and the
call to ``pause`` at, as ``module:function[:nth]``, or ``rest:METHOD path``. A fork that pauses
touches a file and waits for ever, to be killed. It answers with the pid of the fork, then, when
that has ended, with its exit code.
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from rossmann.errors import RossmannError
from rossmann.models.publishing.mlflow_client import quiet_mlflow
from rossmann.models.registry import mlflow_rest
from rossmann.models.training import retrain
from rossmann.settings import load_settings

PAUSED = "paused"


def wait_for_ever(folder: Path) -> None:
    (folder / PAUSED).touch()
    while True:
        time.sleep(60)


def pause_at(where: str, folder: Path) -> None:
    kind, _, what = where.partition(":")
    if kind == "rest":
        real_call = mlflow_rest.MlflowRest.call

        def call(self: Any, method: str, path: str, **fields: Any) -> Any:
            if f"{method} {path}" == what:
                wait_for_ever(folder)
            return real_call(self, method, path, **fields)  # type: ignore[arg-type]

        mlflow_rest.MlflowRest.call = call  # type: ignore[method-assign, assignment]
        return
    owner: Any = importlib.import_module(kind)
    *path, name = what.split(".")
    for part in path:
        owner = getattr(owner, part)

    def paused(*arguments: Any, **named: Any) -> Any:
        wait_for_ever(folder)

    setattr(owner, name, paused)


def work(told: dict[str, Any]) -> int:
    settings = load_settings(**told["settings"])
    if told["pause"]:
        pause_at(told["pause"], Path(told["folder"]))
    order = retrain.RetrainRequest("quick", "scheduler", promote=told["promote"], name=told["name"])
    try:
        return int(retrain.retrain(settings, order).outcome)
    except RossmannError as error:
        return error.exit_code


def main() -> None:
    import catboost  # noqa: F401
    import lightgbm  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import xgboost  # noqa: F401

    with quiet_mlflow():
        print("ready", flush=True)
        for line in sys.stdin:
            child = os.fork()
            if child == 0:
                os._exit(work(json.loads(line)))
            print(child, flush=True)
            status = os.waitpid(child, 0)[1]
            print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
