"""Verbs for API keys: keys new, keys list, keys revoke."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from rossmann.cli.terminal import echo, progress, show_table
from rossmann.installation import shell_command

if TYPE_CHECKING:
    from pathlib import Path

    from rossmann.settings import Settings


app = typer.Typer(help="API keys of the prediction service.", no_args_is_help=True)


class RightName(StrEnum):
    """What a key may allow."""

    PREDICT = "predict"
    OPERATE = "operate"


@app.command()
def new(
    name: Annotated[str, typer.Option("--name", help="name of the caller, for logs")],
    right: Annotated[
        RightName, typer.Option("--right", help="operate holds predict")
    ] = RightName.PREDICT,
    file: Annotated[
        bool, typer.Option("--file", help="keep its digest in the file of keys (API_KEYS_FILE)")
    ] = False,
) -> None:
    """Make a key, print it once, and the line that lets it in; the key itself is kept nowhere.

    Example: rossmann keys new --right predict --name shop-system --file
    """
    from rossmann.serving.access.api_keys import Permission, add_key, generate_key
    from rossmann.settings import load_settings

    key, entry = generate_key(Permission[right.name], name)
    if file:
        path = load_settings().keys_file
        add_key(path, entry)
        progress(f"its digest is in {path}: a running service accepts it within two seconds")
    else:
        progress("add to ROSSMANN_API_KEYS, with commas between several, and start the service:")
        progress(f"  {entry.file_line}")
    progress("calls without a key are rejected from then on; the dashboard sends ROSSMANN_API_KEY")
    progress("the key, shown this once, for the header X-API-Key:")
    echo(key)


@app.command("list")
def list_keys() -> None:
    """Show who has a key, never the keys.

    Example: rossmann keys list
    """
    from rossmann.serving.access.api_keys import parse_setting, read_key_file
    from rossmann.settings import load_settings

    settings = load_settings()
    path = settings.keys_file
    known = [(entry, "ROSSMANN_API_KEYS") for entry in parse_setting(settings.api_keys)]
    if path.exists():
        known += [(entry, str(path)) for entry in read_key_file(path)]
    if not known:
        return echo(_no_key_text(settings, path))
    rows = [
        [entry.name or "-", entry.permission.label, entry.created or "-", entry.digest[:8], place]
        for entry, place in known
    ]
    return show_table(["name", "right", "created", "sha256", "kept in"], rows)


@app.command()
def revoke(name: Annotated[str, typer.Argument(help="as keys list shows it")]) -> None:
    """Take a key out of the file; a service that runs refuses it within two seconds.

    Example: rossmann keys revoke shop-system
    """
    from rossmann.serving.access.api_keys import revoke_key as take_out
    from rossmann.settings import load_settings

    path = load_settings().keys_file
    entry = take_out(path, name)
    echo(f"{entry.name} (right to {entry.permission.label}) was removed from {path}")


def _no_key_text(settings: "Settings", path: "Path") -> str:
    if path.exists():
        return f"no key: {path} is empty, so no call by key is accepted"
    if settings.oidc_issuer:
        return "no key: callers need a token of the provider"
    return f"no key: the service is open to all; make one with: {shell_command('keys new')}"
