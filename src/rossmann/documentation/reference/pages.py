"""All pages of the reference: path below ``docs/`` and Markdown text of each."""

from typing import Any

from rossmann.documentation.reference.command_line import command_line_pages
from rossmann.documentation.reference.http_api import client_pages, http_pages
from rossmann.documentation.reference.lists import (
    error_pages,
    feature_pages,
    log_table_pages,
    metric_pages,
    settings_pages,
)

REWRITE_COMMAND = "rossmann docs --write-reference"
"""The command that writes the pages anew."""


def reference_pages(command: Any) -> dict[str, str]:
    """The pages by path below ``docs/``; ``command``: the root of the command line (typer's)."""
    pages = {
        **http_pages(),
        **client_pages(),
        **command_line_pages(command),
        **settings_pages(),
        **feature_pages(),
        **error_pages(),
        **metric_pages(),
        **log_table_pages(),
    }
    return {f"reference/{name}": text for name, text in pages.items()}
