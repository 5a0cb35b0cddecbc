"""Page of the tables of the prediction log."""

import sqlalchemy as sa

from rossmann.documentation.reference.markdown import code, page, prose, section, sentence, table
from rossmann.prediction_log.database import tables


def log_table_pages() -> dict[str, str]:
    """``log-tables.md``."""
    introduction = (
        "Use this page when you query the prediction log. For most questions the view"
        " `predictions` is enough. [Prediction log](../deployment/prediction-log.md) has example"
        " queries, and how rows reach the database."
    )
    view = section(
        "View predictions",
        "One line for each forecast row: `logged_forecasts` joined with its request.",
        _columns(tables.predictions_query().selected_columns),
    )
    sections = [
        section(
            f"Table {name}",
            prose(str(definition.info["doc"])),
            _columns(definition.columns),
            _indexes(definition),
        )
        for name, definition in sorted(tables.metadata.tables.items())
    ]
    return {"log-tables.md": page("Tables of the prediction log", introduction, view, *sections)}


def _columns(columns: "sa.ColumnCollection[str, sa.ColumnElement[object]]") -> str:
    header = ("column", "type", "may be null", "meaning")
    return table(header, [_column(column) for column in columns if isinstance(column, sa.Column)])


def _column(column: "sa.Column[object]") -> tuple[str, ...]:
    kinds: tuple[tuple[type[object], str], ...] = (
        (sa.DateTime, "time"),
        (sa.Date, "date"),
        (sa.Integer, "integer"),
        (sa.Float, "number"),
        (sa.Text, "text"),
    )
    kind = next(word for type_, word in kinds if isinstance(column.type, type_))
    key = " (key)" if column.primary_key else ""
    nullable = "yes" if column.nullable else "no"
    return code(column.name), f"{kind}{key}", nullable, sentence(str(column.doc))


def _indexes(definition: sa.Table) -> str:
    names = sorted(", ".join(column.name for column in one.columns) for one in definition.indexes)
    return f"Indexes: {'; '.join(map(code, names))}." if names else ""
