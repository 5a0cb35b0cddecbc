"""The command line: ``rossmann VERB``.

Each verb imports what it needs when it is called, so that ``--help`` answers at once.
"""

import io
import os
import re
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Annotated, Any

import typer

from rossmann.cli import benchmark, data, keys, log, models, predict, services, training, tune
from rossmann.cli.terminal import echo
from rossmann.errors import RossmannError, SettingsError, missing_package_message
from rossmann.filesystem.atomic_write import private_files
from rossmann.installation import program
from rossmann.launcher.stop_signals import Interrupted

app = typer.Typer(
    name="rossmann",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.add_typer(data.app, name="data")
app.add_typer(models.app, name="models")
app.add_typer(benchmark.app, name="benchmark")
app.add_typer(keys.app, name="keys")
app.add_typer(log.app, name="log")
training.add_verbs(app)
tune.add_verbs(app)
app.command()(training.retrain)
models.add_verbs(app)
predict.add_verbs(app)
services.add_verbs(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        echo(version("rossmann"))
        raise typer.Exit


@app.callback(help="Daily sales forecasts for a retail chain. Begin with: rossmann up")
def root(
    version: Annotated[
        bool,
        typer.Option("--version", help="print the version", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Options of the program itself."""


_SPIN_COUNT = "20000"
_SIGNAL_EXIT = 128
_CTRL_C_EXIT = 130
_RESULT_VERBS = {"predict", "backtest", "benchmark", "log", "docs"}
"""Verbs that write files for others to read."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code. All errors become lines on stderr here.

    0 is success, 1 an error that the line explains, 2 a command line that makes no sense, and
    128 + the signal's number when a signal ended it. ``retrain`` has more: see its help.
    """
    # The boosters' threads wait by spinning. On a machine that does other work too, their default
    # makes a fit several times as long; this bound costs nothing on an idle one. It is read when
    # the libraries load, so it is set before, and services that are started from here inherit it.
    os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # the terminal's encoding may lack a character
    try:
        _check_thread_count(os.environ.get("NUMBA_NUM_THREADS", ""))
        command = typer.main.get_command(app)
        _name_program(command, program())
        words = sys.argv[1:] if arguments is None else list(arguments)
        with nullcontext() if _writes_results(words) else private_files():
            code = command.main(args=words, prog_name=program(), standalone_mode=False)
    except typer.TyperException as error:
        return _print_usage(error)
    except Interrupted as error:
        return _print_error("stopped", error.exit_code)
    except BrokenPipeError:
        # The reader of stdout is gone: print nothing, not even the interpreter's message.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except RossmannError as error:
        return _print_error(str(error), error.exit_code)
    except OSError as error:
        return _print_error(str(error), 1)
    except ModuleNotFoundError as error:
        return _print_error(missing_package_message(error), 1)
    except Exception as error:  # noqa: BLE001 - entry point: no stack trace
        if os.environ.get("ROSSMANN_TRACE") == "1":
            traceback.print_exc()
        what = f"{type(error).__name__}: {error}"
        return _print_error(f"fault of the program: {what}. Show where with: ROSSMANN_TRACE=1", 1)
    if code == _CTRL_C_EXIT:
        return _print_error("stopped", _CTRL_C_EXIT)
    return code if isinstance(code, int) else 0


def _writes_results(words: Sequence[str]) -> bool:
    """Whether the verb writes a file where its user wants it: with the user's permissions then."""
    verb = next((word for word in words if not word.startswith("-")), "")
    return verb in _RESULT_VERBS


def _check_thread_count(value: str) -> None:
    """Numba cannot be imported with such a number; a text it leaves out of account by itself."""
    if re.fullmatch(r"\s*(-[0-9]+|0+)\s*", value):
        raise SettingsError(f"NUMBA_NUM_THREADS must be 1 or more, got {value[:40]}; unset it")


def _name_program(command: Any, name: str) -> None:
    """Let the examples of all help texts begin with the program as this shell finds it."""
    if command.help:
        command.help = re.sub(
            r"(Example:\s|Begin with: )(.*?)rossmann ",
            lambda match: f"{match[1]}{match[2]}{name} ",
            command.help,
            flags=re.DOTALL,
        )
    for verb in getattr(command, "commands", {}).values():
        _name_program(verb, name)


def _print_usage(error: typer.TyperException) -> int:
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    if text.startswith("Usage:"):  # no verb was given: the help, which is no error message
        echo(text)
        return 2
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else program()
    return _print_error(f"{text.strip().rstrip('.')}. See: {path} --help", 2)


def _print_error(text: str, code: int) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"error: {text}\n" if code < _SIGNAL_EXIT else f"{text}\n")
    return code
