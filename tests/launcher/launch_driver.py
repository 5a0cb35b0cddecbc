"""Runs one launch of fake services as a process: ``python launch_driver.py PLAN.json [guard]``."""

import json
import sys
from pathlib import Path

from rossmann.errors import RossmannError
from rossmann.launcher.console import LaunchConsole
from rossmann.launcher.launch import LaunchPlan, up
from rossmann.launcher.processes import RunFolder
from rossmann.launcher.restarts import guard
from rossmann.launcher.services import Service
from rossmann.launcher.stop_signals import Interrupted


def main() -> int:
    content = json.loads(Path(sys.argv[1]).read_text())
    plan = LaunchPlan(
        services=[Service(**service) for service in content["services"]],
        logs=Path(content["logs"]),
        run=RunFolder(Path(content["run"])),
        start_before_preparation=content["early"],
        preparation=content["preparation"],
        guard=[sys.executable, *sys.argv, "guard"] if content["guard"] else [],
    )
    try:
        if sys.argv[2:] == ["guard"]:
            guard(plan.services, plan.run, plan.logs, LaunchConsole())
            return 0
        up(plan, LaunchConsole(), detach=content["detach"])
    except RossmannError as error:
        print(error, file=sys.stderr)
        return 1
    except Interrupted as error:
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
