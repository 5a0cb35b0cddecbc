"""Output of verbs, and the options of those that read a table."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from rossmann.data.uploads.table_reader import ReadOptions

Choice = TypeVar("Choice", bound=str)

DateFormatOption = Annotated[str | None, typer.Option(help="such as MM/DD/YYYY, if ambiguous")]
DecimalOption = Annotated[str | None, typer.Option(help="decimal mark, if ambiguous: . or ,")]
SheetOption = Annotated[str | None, typer.Option(help="sheet of a workbook with several tables")]


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


def parse_choice(option: str, text: str | None, choices: Sequence[Choice]) -> Choice | None:
    """The choice that ``text`` names; None without a text."""
    if text is None:
        return None
    for choice in choices:
        if choice == text:
            return choice
    raise typer.BadParameter(f"{option} {text} must be one of {', '.join(choices)}")


@contextmanager
def reading_options(
    date_format: str | None, decimal: str | None, sheet: str | None
) -> "Iterator[ReadOptions]":
    """The options of reading a table; errors about an ambiguous one name the option to give."""
    from rossmann.data.uploads.table_reader import ReadOptions
    from rossmann.data.uploads.value_formats import (
        DECIMAL_MARKS,
        AmbiguousDatesError,
        AmbiguousNumbersError,
    )
    from rossmann.data.uploads.workbook import SeveralSheetsError
    from rossmann.errors import DataValidationError

    options = ReadOptions(date_format, parse_choice("--decimal", decimal, DECIMAL_MARKS), sheet)
    try:
        yield options
    except AmbiguousDatesError as error:
        text = f"{error}, with --date-format {error.formats[0]} or another"
        raise DataValidationError(text) from error
    except AmbiguousNumbersError as error:
        raise DataValidationError(f"{error}, with --decimal . or --decimal ,") from error
    except SeveralSheetsError as error:
        raise DataValidationError(f"{error}, with --sheet NAME") from error
