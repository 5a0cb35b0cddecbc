"""Pages that list what the code declares: settings, features, errors, metrics, log tables."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Final

import sqlalchemy as sa
import yaml
from prometheus_client import Counter, Histogram
from prometheus_client.metrics import MetricWrapperBase
from pydantic_settings import BaseSettings

from rossmann.documentation.reference.page_parts import (
    attribute_texts,
    attributes_of,
    block,
    code,
    page,
    prose,
    section,
    sentence,
    table,
    type_name,
)
from rossmann.errors import EXIT_CODES
from rossmann.features import feature_details
from rossmann.features.feature_details import FEATURE_DETAILS
from rossmann.installation import project_root
from rossmann.models.inference.row_warnings import WARNING_TYPES
from rossmann.prediction_log.database import tables
from rossmann.schema import FEATURE_CATALOGUE, Feature
from rossmann.serving.observability.metrics import LABELS, Metrics
from rossmann.serving.schemas.errors import ERROR_TYPES, STATUS_DESCRIPTIONS, client_error
from rossmann.setting_groups import AccessSettings, GateSettings, RequestLimits, TrainingSettings
from rossmann.settings import ExperimentSettings, PathSettings, ServiceSettings, Settings

SERVICE_GROUPS: Final[tuple[tuple[str, type[BaseSettings]], ...]] = (
    ("Folders and addresses", PathSettings),
    ("Services and logs", ServiceSettings),
    ("Access", AccessSettings),
    ("Limits of a request", RequestLimits),
    ("Online experiment", ExperimentSettings),
)
PARAMETER_GROUPS: Final[tuple[tuple[str, type[BaseSettings]], ...]] = (
    ("Training and backtest", TrainingSettings),
    ("Gate", GateSettings),
)
OTHER_VARIABLES: Final = {
    "ROSSMANN_PARAMS": "another parameters file than `config/params.yaml`",
    "ROSSMANN_SECRETS_DIR": "folder of files that hold settings, such as `/run/secrets`",
    "ROSSMANN_TRACE": "1: the command line shows where a fault of the program arose",
}
"""Variables that are no settings."""
_SETTING_HEADER: Final = ("setting", "type", "default", "meaning")
_GROUP_TITLES: Final = {
    "calendar": "Calendar",
    "promo": "Promotions",
    "holiday": "State holidays",
    "school": "School holidays",
    "opening": "Opening days",
    "store": "Store",
    "horizon": "Forecast horizon",
    "history": "Sales history",
    "state_space": "Kalman filters",
}
"""Heading of each group."""
_FEATURE_HEADER: Final = ("feature", "meaning", "columns", "days", "unit", "example")
_ERROR_CALL = """curl -s http://127.0.0.1:8000/predict -H 'Content-Type: application/json' -d '{
  "inputs": [{"Store": 5000, "DayOfWeek": 6, "Date": "2015-08-01", "Open": 1, "Promo": 0,
    "StateHoliday": "0", "SchoolHoliday": 0}]}'"""
_ERROR_SHAPE = """{"detail": [{"loc": ["inputs", 0, "Store"], "msg": "Store must be between 1 and 1115 (got 5000)", "type": "unknown_store"}],
 "request_id": "c53889d7190e45f4ec9496bbe05b77a0"}"""  # noqa: E501


def settings_pages() -> dict[str, str]:
    """``settings.md`` and ``parameters.md``."""
    return {"settings.md": _settings_page(), "parameters.md": _parameters_page()}


def default_parameters() -> dict[str, Any]:
    """The parameters file of the checkout, whatever file a variable names."""
    text = (project_root() / "config" / "params.yaml").read_text("utf-8")
    parameters: dict[str, Any] = yaml.safe_load(text)
    return parameters


def _settings_page() -> str:
    introduction = (
        "Use this page to look up a setting of the services. Set it by the environment variable"
        " below its name, or by its name in `config/params.yaml`; the variable wins. Relative"
        " paths begin at the project's folder. `rossmann settings` prints the values in use,"
        " without secrets. Settings of training and gate are [parameters](parameters.md).\n\n"
        "A value may also be in a file: `ROSSMANN_SECRETS_DIR` names a folder, such as"
        " `/run/secrets`, and its file `rossmann_api_key` holds `api_key`. Use it for secrets."
        " The environment goes before such a file, and the file before the parameters."
        " A variable whose name is nearly that of a setting is an error."
    )
    groups = [section(title, _group_table(group)) for title, group in SERVICE_GROUPS]
    rows = [(code(name), sentence(text)) for name, text in OTHER_VARIABLES.items()]
    others = section("Other variables", table(("variable", "meaning"), rows))
    return page("Settings", introduction, *groups, others)


def _parameters_page() -> str:
    introduction = (
        "Use this page to look up a parameter of training, backtest or gate. Set it in"
        " `config/params.yaml`, or by the environment variable below its name, which wins."
        " Settings of the services have a [page of their own](settings.md)."
    )
    groups = [section(title, _group_table(group)) for title, group in PARAMETER_GROUPS]
    return page("Parameters", introduction, *groups, _profiles())


def _group_table(group: type[BaseSettings]) -> str:
    texts = attribute_texts(group)
    properties = Settings.model_json_schema()["properties"]
    defaults = default_parameters()
    rows = []
    for name in attributes_of(group):
        schema = properties[name]
        value = defaults.get(name, schema.get("default"))
        shown = "see below" if isinstance(value, Mapping) else _value(value)
        setting = f"{code(name)} {code(f'ROSSMANN_{name.upper()}')}"
        meaning = sentence(texts[name])
        rows.append((setting, type_name(schema).removesuffix(" or null"), shown, meaning))
    return table(_SETTING_HEADER, rows)


def _value(value: object) -> str:
    """A default; empty texts, lists and missing values are the same to a reader."""
    if isinstance(value, bool):
        return code(str(value).lower())
    if value is None or value in ("", [], ()):
        return "empty"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return code(", ".join(map(str, value)))
    if isinstance(value, float):
        return code(f"{value:g}")
    return code(value)


def _profiles() -> str:
    profiles: dict[str, dict[str, Any]] = default_parameters()["profiles"]
    rows = [("rows", *(_value(profile["rows"]) for profile in profiles.values()))]
    for member in next(iter(profiles.values()))["members"]:
        weights = [_value(profile["weights"][member]) for profile in profiles.values()]
        rows.append((f"weight of {member}", *weights))
    for member, parameters in next(iter(profiles.values()))["members"].items():
        for name in parameters:
            values = [_value(profile["members"][member][name]) for profile in profiles.values()]
            rows.append((f"{member}: {code(name)}", *values))
    text = (
        "`profiles` holds the two training profiles. `rows`: training rows, 0 uses every row."
        " `weights`: share of each member in the blend; they sum to 1. The parameters of a member"
        " have the names that its library gives them. [Tuning](../modelops/tuning.md) writes them."
    )
    return section("Training profiles", text, table(("", *profiles), rows))


def feature_pages() -> dict[str, str]:
    """``features.md``."""
    introduction = (
        "Use this page to look up one of the 46 features that the members learn from. **O** is the"
        " [origin](../explanations/origin.md), the last day whose sales are used, and **D** the"
        " row's day. No feature uses sales after O; days after O come from the schedule."
    )
    notes = (
        "- *Same kind* means days with the weekday and the promotion of the row.\n"
        "- *If planned*: the value is missing (NaN) where no schedule covers the days.\n"
        "- History and filters are on the scale of log sales. *Less kfb* means the distance to"
        " `kfb`, the forecast of the [base filter](../explanations/kalman-filter.md), which every"
        " member corrects.\n"
        f"- The example is store {feature_details.EXAMPLE_STORE} on"
        f" {feature_details.EXAMPLE_DATE} as of {feature_details.EXAMPLE_ORIGIN}, in the chain that"
        f" `{feature_details.EXAMPLE_CHAIN}` writes."
    )
    groups = [
        section(
            _GROUP_TITLES[group],
            table(_FEATURE_HEADER, [_feature_row(feature) for feature in features]),
        )
        for group, features in groupby(FEATURE_CATALOGUE, key=lambda feature: feature.group)
    ]
    return {"features.md": page("The 46 features", introduction, notes, *groups)}


def _feature_row(feature: Feature) -> tuple[str, ...]:
    details = FEATURE_DETAILS[feature.name]
    cells = (prose(text) for text in (details.source, details.window, details.unit))
    return code(feature.name), sentence(feature.note), *cells, code(f"{details.example:g}")


def error_pages() -> dict[str, str]:
    """``errors.md`` and ``error-types.md``."""
    return {"errors.md": _errors_page(), "error-types.md": _error_types_page()}


def _errors_page() -> str:
    introduction = (
        "Use this page when a call, a forecast or a command tells you that something is wrong."
        " It lists the status codes of the HTTP API, the warnings of a forecast, and the exit"
        " codes of the command line. The `type` of each error is on the page"
        " [Error types](error-types.md)."
    )
    return page("Errors and warnings", introduction, _statuses(), _warnings(), _exit_codes())


def _statuses() -> str:
    rows = []
    for status, text in sorted(STATUS_DESCRIPTIONS.items()):
        error = client_error(status, "")
        rows.append(
            (str(status), sentence(text), code(error.__name__ if error else "ServiceError"))
        )
    text = (
        "Every error response has one shape. `detail` lists each error with its place (`loc`), a"
        " text for people (`msg`) and a stable word (`type`). Compare `type` in programs, never"
        " `msg`. `request_id` finds the call in the logs. The [Python client](python-client.md)"
        " raises the exception of the last column."
    )
    example = block("json", _ERROR_SHAPE, "response")
    call = block("bash", _ERROR_CALL)
    return section(
        "Error responses", text, call, example, table(("status", "meaning", "exception"), rows)
    )


def _warnings() -> str:
    text = (
        "A warning is a reason to use a forecast with care; it is never an error. A response has"
        " it in `warnings`, with its `type`, a text, the number of rows and the first of them. A"
        " file has it in the column `warnings` and in the header `X-Warnings`."
    )
    rows = [
        (code(name), sentence(warning.meaning), sentence(warning.action))
        for name, warning in WARNING_TYPES.items()
    ]
    return section("Warnings", text, table(("type", "meaning", "what to do"), rows))


def _exit_codes() -> str:
    rows = [(code(name), prose(text)) for name, text in EXIT_CODES.items()]
    return section("Exit codes", table(("exit code", "meaning"), rows))


def _error_types_page() -> str:
    introduction = (
        "Use this page to look up the `type` of an error response: its status code, what it means,"
        " and what to do. [Errors and warnings](errors.md) shows the shape of the response."
    )
    parts: dict[str, list[tuple[str, ...]]] = {"Types of a call": [], "Types of invalid input": []}
    for name, error in ERROR_TYPES.items():
        title = "Types of invalid input" if error.status == 422 else "Types of a call"
        row = (code(name), str(error.status), sentence(error.meaning), sentence(error.action))
        parts[title].append(row)
    header = ("type", "status", "meaning", "what to do")
    sections = [section(title, table(header, rows)) for title, rows in parts.items()]
    return page("Error types", introduction, *sections)


def metric_pages() -> dict[str, str]:
    """``metrics.md``."""
    introduction = (
        "Use this page to look up a metric for a query, a panel or an alert. `GET /metrics`"
        " returns them in Prometheus' text format, without a key, as the sum of all workers."
        " [Observability](../deployment/observability.md) shows how to scrape them."
    )
    metrics = sorted(all_metrics().items())
    rows = [
        (code(name), _metric_kind(metric), _metric_labels(metric), _metric_help(metric))
        for name, metric in metrics
    ]
    labels = [(code(name), sentence(text)) for name, text in LABELS.items()]
    curl = "```bash\ncurl -sf http://127.0.0.1:8000/metrics\n```"
    text = (
        "No label has a value that callers can choose. Gauges are refreshed once a second. A"
        " histogram has the series `_bucket`, `_sum` and `_count`, with buckets from 0.25 ms to"
        " 30 s."
    )
    page_text = page(
        "Metrics",
        introduction,
        curl,
        section("List of metrics", table(("name", "type", "labels", "meaning"), rows)),
        section("Labels", text, table(("label", "meaning"), labels)),
    )
    return {"metrics.md": page_text}


def all_metrics() -> dict[str, MetricWrapperBase]:
    """Every metric by its name in a query."""
    found = {}
    for metric in _registered(Metrics()):
        name = f"{metric._name}{'_total' if isinstance(metric, Counter) else ''}"
        found[name] = metric
    return found


def _registered(metrics: Metrics) -> set[MetricWrapperBase]:
    collectors = list(metrics.registry._collector_to_names)
    return {metric for metric in collectors if isinstance(metric, MetricWrapperBase)}


def _metric_kind(metric: MetricWrapperBase) -> str:
    if isinstance(metric, Counter):
        return "counter"
    return "histogram" if isinstance(metric, Histogram) else "gauge"


def _metric_labels(metric: MetricWrapperBase) -> str:
    return ", ".join(map(code, metric._labelnames))


def _metric_help(metric: MetricWrapperBase) -> str:
    return sentence(metric._documentation)


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
