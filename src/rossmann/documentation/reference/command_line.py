"""Pages of the command line: every verb with its arguments, options and example."""

import re
from collections.abc import Iterator
from typing import Any, Final

from rossmann.documentation.reference.page_parts import (
    block,
    code,
    page,
    paragraphs,
    prose,
    section,
    split_example,
    table,
)
from rossmann.installation import program

_SERVICES: Final = (
    *("up", "down", "status", "serve", "mlflow", "dashboard", "docs", "settings"),
    *("backup", "restore"),
)
_HEADER: Final = ("argument or option", "default and limits", "meaning")


def command_line_pages(command: Any) -> dict[str, str]:
    """``command-line.md`` and ``command-line-models.md``."""
    verbs = dict(visible_verbs(command))
    others = [name for name in command.commands if name in verbs and name not in _SERVICES]
    single = [name for name in others if " " not in name]
    groups = [name for name, verb in command.commands.items() if hasattr(verb, "commands")]
    introduction = (
        "Use this page to look up a verb that starts services, makes or restores a backup, or works"
        " on tables, keys or the prediction log. Verbs that forecast, train and promote are on the"
        " page [Models on the command line](command-line-models.md). Settings come from the"
        " [environment and the parameters file](settings.md). `rossmann VERB --help` prints the"
        " same texts. [Exit codes](errors.md#exit-codes) tell scripts how a command ended."
    )
    of_models = (
        "Use this page to look up a verb that forecasts, trains, judges or promotes. All other"
        " verbs are on the page [Command line](command-line.md)."
    )
    first = [_verb(name, verbs[name]) for name in _SERVICES if name in verbs]
    for group in groups:
        if group != "models":
            first += [_verb(name, verbs[name]) for name in verbs if name.startswith(f"{group} ")]
    second = [_verb(name, verbs[name]) for name in single]
    second += [_verb(name, verbs[name]) for name in verbs if name.startswith("models ")]
    return {
        "command-line.md": page("Command line", introduction, *first),
        "command-line-models.md": page("Models on the command line", of_models, *second),
    }


def visible_verbs(command: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every verb by its words, without hidden ones and without groups."""
    for name, verb in command.commands.items():
        if getattr(verb, "commands", None):
            yield from visible_verbs(verb, f"{prefix}{name} ")
        elif not verb.hidden:
            yield f"{prefix}{name}", verb


def _verb(name: str, verb: Any) -> str:
    text, example = split_example((verb.help or "").replace(f"{program()} ", "rossmann "))
    rows = [row for parameter in verb.params if (row := _parameter(parameter))]
    return section(
        f"rossmann {name}",
        paragraphs(text),
        table(_HEADER, rows) if rows else "",
        block("text", example) if example else "",
    )


def _parameter(parameter: Any) -> tuple[str, str, str] | None:
    """The cells of an argument or option; ``--help`` is on every verb and in no table."""
    if "--help" in parameter.opts:
        return None
    names, text = parameter.get_help_record(_context())
    found = re.fullmatch(r"(.*?)\s*\[([^\]]*)\]", text, re.DOTALL)
    meaning, notes = (found[1], found[2].split("; ")) if found else (text, [])
    shown = re.sub(r"<(\w+) range>", r"<\1>", names).replace("<list[float]>", "<float>")
    return code(shown), ", ".join(map(_note, notes)), prose(meaning)


def _note(note: str) -> str:
    """A default or a limit, as typer writes it, in words."""
    if note.startswith("default: "):
        return code(note.removeprefix("default: "))
    between = re.fullmatch(r"(\S+)<=x<=(\S+)", note)
    return f"{between[1]} to {between[2]}" if between else note.replace("x>=", "from ")


def _context() -> Any:
    """A context of typer's, in which it words the help of a parameter."""
    import typer

    return typer.Context(typer.main.get_command(typer.Typer(callback=lambda: None)))
