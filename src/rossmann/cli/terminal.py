"""What verbs print: lines, progress and tables on stdout, nothing else."""

from collections.abc import Sequence

import typer


def echo(text: str = "") -> None:
    """A line on stdout."""
    typer.echo(text)


def progress(text: str) -> None:
    """A line about a long work that goes on, on stderr, so that stdout holds the result alone."""
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
