"""The committed pages are what the code says now; each object of the code is on its page."""

import ast
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import ValidationError

from rossmann.cli import app
from rossmann.data.uploads import fields
from rossmann.documentation.reference import reference_pages
from rossmann.documentation.reference.http_api import TAGS, api_document, operations, public_methods
from rossmann.documentation.reference.lists import (
    OTHER_VARIABLES,
    PARAMETER_GROUPS,
    SERVICE_GROUPS,
    all_metrics,
)
from rossmann.documentation.reference.page_parts import attribute_texts, split_example
from rossmann.documentation.reference.pages import REWRITE_COMMAND
from rossmann.errors import EXIT_CODES, AlreadyRunningError
from rossmann.features.feature_details import FEATURE_DETAILS
from rossmann.launcher.stop_signals import Interrupted
from rossmann.models.inference import row_warnings
from rossmann.models.training.retrain import RetrainOutcome
from rossmann.prediction_log.database import tables
from rossmann.schema import FEATURES, ROW_FIELDS
from rossmann.serving.observability.metrics import LABELS
from rossmann.serving.request_parsing import predict_parser
from rossmann.serving.request_parsing.predict_parser import to_error_details
from rossmann.serving.schemas.errors import ERROR_TYPES, STATUS_BY_ERROR, STATUS_DESCRIPTIONS
from rossmann.serving.schemas.models import LoadRequest, PromoteRequest
from rossmann.settings import Settings
from tests.paths import ROOT, SOURCE

FOLDER = ROOT / "docs"
COMMAND: Any = typer.main.get_command(app)
PAGES = reference_pages(COMMAND)
MAX_WORDS = 1_500


def page(name: str) -> str:
    return PAGES[f"reference/{name}.md"]


def line_of(text: str, start: str) -> str:
    """The one line of a page that begins so."""
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return line


def section_of(text: str, heading: str) -> str:
    """What stands below a heading, up to the next."""
    found = re.search(
        rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", text, re.DOTALL | re.MULTILINE
    )
    assert found, heading
    return found[1]


@pytest.mark.parametrize("name", sorted(PAGES))
def test_committed_page_is_what_the_code_says(name: str) -> None:
    path = FOLDER / name
    text = path.read_text("utf-8") if path.exists() else ""
    assert text == PAGES[name], f"docs/{name} is out of date: run `{REWRITE_COMMAND}`"


def test_folder_has_no_other_page() -> None:
    assert {f"reference/{path.name}" for path in (FOLDER / "reference").iterdir()} == set(PAGES)


@pytest.mark.parametrize("name", sorted(PAGES))
def test_page_is_short_and_names_no_path_of_this_machine(name: str) -> None:
    text = re.sub(r"^```.*?^```$", "", PAGES[name], flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!--.*?-->|\]\([^)]*\)", "", text, flags=re.DOTALL)
    assert len(re.findall(r"[A-Za-z0-9][\w'.,/%:=<>-]*", text)) <= MAX_WORDS
    assert str(ROOT) not in PAGES[name]
    assert str(Path.home()) not in PAGES[name]


@pytest.mark.parametrize("name", sorted(PAGES))
def test_links_lead_to_headings(name: str) -> None:
    for file, anchor in re.findall(r"\]\(([\w.-]+\.md)(?:#([\w-]+))?\)", PAGES[name]):
        headings = re.findall(r"^#+ (.+)$", PAGES[f"reference/{file}"], re.MULTILINE)
        anchors = {re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in headings}
        assert not anchor or anchor in anchors, f"{file}#{anchor}"


@pytest.mark.parametrize("name", sorted(PAGES))
def test_rows_of_a_table_have_the_cells_of_its_header(name: str) -> None:
    for header, rows in re.findall(r"^(\|.*)\n\| ---.*\n((?:\|.*\n)+)", PAGES[name], re.MULTILINE):
        for row in rows.splitlines():
            assert len(re.findall(r"(?<!\\)\|", row)) == header.count("|"), row


def test_pages_depend_on_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROSSMANN_API_PORT", "8123")
    monkeypatch.setenv("ROSSMANN_STORES_FOR_ANYONE", "false")
    monkeypatch.setenv("STREAMLIT_SERVER_BASE_URL_PATH", "/elsewhere")
    assert reference_pages(typer.main.get_command(app)) == PAGES


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_setting_is_on_a_page_with_its_meaning(name: str) -> None:
    parameters = {field for _, group in PARAMETER_GROUPS for field in attribute_texts(group)}
    text = page("parameters" if name in parameters else "settings")
    cells = line_of(text, f"| `{name}` `ROSSMANN_{name.upper()}` |").split(" | ")
    assert all(cell.strip(" |") for cell in cells)


def test_groups_have_every_setting_once() -> None:
    texts = [attribute_texts(group) for _, group in (*SERVICE_GROUPS, *PARAMETER_GROUPS)]
    assert sorted(name for group in texts for name in group) == sorted(Settings.model_fields)


def test_variables_of_the_code_are_on_the_page() -> None:
    sources = [path for path in SOURCE.rglob("*.py") if "documentation" not in path.parts]
    text = "".join(path.read_text("utf-8") for path in sources)
    named = set(re.findall(r'"(ROSSMANN_[A-Z_]*[A-Z])"', text))
    known = {f"ROSSMANN_{name.upper()}" for name in Settings.model_fields} | set(OTHER_VARIABLES)
    assert named <= known
    assert all(f"| `{name}` |" in page("settings") for name in OTHER_VARIABLES)


def verbs(command: Any = COMMAND, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, verb in command.commands.items():
        if hasattr(verb, "commands"):
            yield from verbs(verb, f"{prefix}{name} ")
        elif not verb.hidden:
            yield f"{prefix}{name}", verb


@pytest.mark.parametrize(("name", "verb"), list(verbs()), ids=[name for name, _ in verbs()])
def test_verb_is_on_a_page_with_its_options_and_example(name: str, verb: Any) -> None:
    (text,) = [
        p
        for p in (page("command-line"), page("command-line-models"))
        if f"## rossmann {name}\n" in p
    ]
    verb_text = section_of(text, f"rossmann {name}")
    for parameter in verb.params:
        if parameter.help and "--help" not in parameter.opts:
            assert all(option in verb_text for option in parameter.opts)
        else:
            assert "--help" in parameter.opts, parameter.name
    assert re.search(rf"```text\n(\w+=\S+ )?rossmann {name}\b", verb_text)


DOCUMENT, RIGHTS = api_document()


@pytest.mark.parametrize("call", [f"{method} {path}" for path, method, _ in operations(DOCUMENT)])
def test_route_is_on_the_page_with_parameters_and_statuses(call: str) -> None:
    method, path = call.split()
    operation = DOCUMENT["paths"][path][method.lower()]
    text = section_of(page("http-api"), call)
    assert set(operation["tags"]) <= set(TAGS)
    assert operation["summary"] in text
    assert "Right: " in text
    assert re.search(r"```bash\ncurl -sf ", text)
    assert all(code in text for code in operation["responses"] if code != "200")
    for parameter in operation.get("parameters", []):
        assert parameter["description"]
        assert f"| `{parameter['name']}` |" in text


@pytest.mark.parametrize("name", sorted(DOCUMENT["components"]["schemas"]))
def test_fields_of_a_schema_are_on_a_page_with_their_meaning(name: str) -> None:
    names = ("http-api-fields", "http-api-store-fields", "http-api-model-fields")
    (text,) = [page(one) for one in names if f"\n## {name}\n" in page(one)]
    for field, schema in DOCUMENT["components"]["schemas"][name]["properties"].items():
        assert schema.get("description"), field
        assert f"| `{field}` |" in section_of(text, name)


def test_rights_are_those_of_the_access_tests() -> None:
    assert RIGHTS["/models"] == RIGHTS["/models/rollback"] == "operate"
    assert RIGHTS["/predict"] == RIGHTS["/model/info"] == "predict"
    assert RIGHTS["/health"] == RIGHTS["/stores"] == "anyone"


@pytest.mark.parametrize("name", FEATURES)
def test_feature_is_on_the_page(name: str) -> None:
    assert name in FEATURE_DETAILS
    cells = line_of(page("features"), f"| `{name}` |").split(" | ")
    assert len(cells) == 6
    assert all(cell.strip(" |") for cell in cells)


def types_in_the_code() -> set[str]:
    """Every ``type`` of an error that a module names in place."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "ErrorDetail":
                arguments = [*node.args[2:], *(k.value for k in node.keywords if k.arg == "type")]
                found |= {a.value for a in arguments if isinstance(a, ast.Constant)}
    return {str(name) for name in found}


def test_error_types_of_the_code_are_on_the_page() -> None:
    rows = (SOURCE / "models/inference/row_checks.py").read_text("utf-8")
    named = {
        *types_in_the_code(),
        *(name for _, _, name in STATUS_BY_ERROR),
        *predict_parser._MESSAGES,
        *fields._ERROR_TYPES.values(),
        *re.findall(r'"((?:date|as_of|unknown)_[a-z_]+)"', rows),
    }
    assert len(named) > 50
    assert named - set(ERROR_TYPES) == set()
    statuses = {name: status for _, status, name in STATUS_BY_ERROR if name != "refused"}
    assert {name: ERROR_TYPES[name].status for name in statuses} == statuses
    for name, error in ERROR_TYPES.items():
        assert line_of(page("error-types"), f"| `{name}` |").startswith(
            f"| `{name}` | {error.status} |"
        )


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (PromoteRequest, {"force": "yes"}),
        (PromoteRequest, {"reason": "x" * 501}),
        (PromoteRequest, {"reason": 1}),
        (PromoteRequest, []),
        (LoadRequest, {"model_stage": 1.5}),
        (LoadRequest, {"stage": "Production"}),
        (predict_parser.PredictOptions, {"intervals": [0.8] * 11, "totals": "store"}),
        (predict_parser.PredictOptions, {"quantiles": [0.1] * 21}),
        (predict_parser.PredictOptions, {"intervals": [0, 1, float("nan"), "0.8"], "as_of": 1}),
        (predict_parser.PredictOptions, {"objective": "best", "totals": ["x"]}),
    ],
)
def test_error_types_of_bodies_are_on_the_page(model: Any, body: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(body)
    for error in to_error_details(caught.value, ROW_FIELDS):
        assert error.type in ERROR_TYPES


def test_warning_types_of_the_code_are_on_the_page() -> None:
    source = (SOURCE / "models/inference/row_warnings.py").read_text("utf-8")
    constants = (row_warnings._WEEKDAY_MISMATCH, row_warnings._OPEN_MISSING)
    named = {
        *re.findall(r'warnings\.append\(\("(\w+)"', source),
        *(name for name, _ in (*constants, row_warnings._SINGLE_VERSION)),
    }
    assert named == set(row_warnings.WARNING_TYPES)
    assert all(line_of(page("errors"), f"| `{name}` |").count(" | ") == 2 for name in named)


def test_statuses_and_exit_codes_are_on_the_page() -> None:
    assert all(line_of(page("errors"), f"| {status} |") for status in STATUS_DESCRIPTIONS)
    codes = {str(int(outcome)) for outcome in RetrainOutcome} | {str(AlreadyRunningError.exit_code)}
    assert codes <= set(EXIT_CODES)
    assert Interrupted(2).exit_code == 130
    assert all(line_of(page("errors"), f"| `{code}` |") for code in EXIT_CODES)


def test_metrics_and_labels_are_on_the_page() -> None:
    metrics = all_metrics()
    assert len(metrics) >= 25
    for name, metric in metrics.items():
        assert metric._documentation
        assert line_of(page("metrics"), f"| `{name}` |")
    assert {label for metric in metrics.values() for label in metric._labelnames} == set(LABELS)


def test_log_columns_are_on_the_page_with_their_meaning() -> None:
    for name, definition in tables.metadata.tables.items():
        text = section_of(page("log-tables"), f"Table {name}")
        for column in definition.columns:
            assert column.doc
            assert line_of(text, f"| `{column.name}` |")
    view = section_of(page("log-tables"), "View predictions")
    assert re.findall(r"^\| `(\w+)` \|", view, re.MULTILINE) == [
        column.name for column in tables.predictions_query().selected_columns
    ]


@pytest.mark.parametrize("name", sorted(public_methods()))
def test_method_of_the_client_is_on_the_page_with_an_example(name: str) -> None:
    text = section_of(page("python-client"), f"`{name}`")
    meaning, example = split_example(public_methods()[name].__doc__ or "")
    assert meaning
    assert f"client.{name}(" in example
    assert example in text
    script = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert script
    compile(script[1], name, "exec")


def test_examples_of_calls_are_json() -> None:
    bodies = re.findall(r"<<'EOF'\n(.*?)\nEOF", page("http-api"), re.DOTALL)
    assert len(bodies) == 5
    assert all(json.loads(body) for body in bodies)


def test_attribute_texts_are_those_below_each_attribute() -> None:
    class Sample:
        first: int = 1
        """The first."""
        second: str = ""

        third: str = os.sep
        """The third,
        on two lines.
        """

    assert attribute_texts(Sample) == {"first": "The first.", "third": "The third,\non two lines."}
