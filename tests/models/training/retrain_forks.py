"""A process that has imported everything and forks one retraining for each line that it reads.

A line is JSON: ``settings`` to change, the ``name`` of the model, whether to ``promote``, and the
call to ``pause`` at, as ``module:function`` or ``rest:METHOD path``. A fork that pauses creates a
file in ``folder`` and waits to be killed. The process prints the pid of the fork and, after its
end, its exit code.
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
from rossmann.models.training.retrain import RetrainRequest, retrain
from rossmann.settings import load_settings

PAUSED = "paused"


def pause(folder: Path) -> None:
    (folder / PAUSED).touch()
    while True:
        time.sleep(60)


def pause_at(call_name: str, folder: Path) -> None:
    module_name, _, name = call_name.partition(":")
    if module_name == "rest":
        real_call = mlflow_rest.MlflowRest.call

        def call(self: Any, method: str, path: str, **fields: Any) -> Any:
            if f"{method} {path}" == name:
                pause(folder)
            return real_call(self, method, path, **fields)  # type: ignore[arg-type]

        mlflow_rest.MlflowRest.call = call  # type: ignore[method-assign, assignment]
        return
    owner: Any = importlib.import_module(module_name)
    *attributes, function = name.split(".")
    for attribute in attributes:
        owner = getattr(owner, attribute)
    assert hasattr(owner, function), call_name
    setattr(owner, function, lambda *_, **__: pause(folder))


def run(task: dict[str, Any]) -> int:
    settings = load_settings(**task["settings"])
    if task["pause"]:
        pause_at(task["pause"], Path(task["folder"]))
    request = RetrainRequest("quick", "scheduler", promote=task["promote"], name=task["name"])
    try:
        return int(retrain(settings, request).outcome)
    except RossmannError as error:
        return error.exit_code


def main() -> None:
    import catboost  # noqa: F401
    import lightgbm  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import xgboost  # noqa: F401

    with quiet_mlflow("http://127.0.0.1"):
        print("ready", flush=True)
        for line in sys.stdin:
            child = os.fork()
            if child == 0:
                os._exit(run(json.loads(line)))
            print(child, flush=True)
            status = os.waitpid(child, 0)[1]
            print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
