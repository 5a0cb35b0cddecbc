"""Output of verbs: lines and tables on stdout, progress on stderr."""

from collections.abc import Sequence

import typer


def echo(text: str = "") -> None:
    """A line on stdout."""
    typer.echo(text)


def progress(text: str) -> None:
    """A line of progress on stderr, so that stdout holds the result alone."""
    typer.echo(f"  {text}", err=True)


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their content; numbers to the right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        cells = [
            cell.rjust(width) if cell[:1].isdigit() else cell.ljust(width)
            for cell, width in zip(line, widths, strict=True)
        ]
        echo("  ".join(cells).rstrip())
