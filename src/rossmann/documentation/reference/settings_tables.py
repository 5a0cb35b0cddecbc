"""Pages of the settings: those of the services, and the parameters of training and gate."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml
from pydantic_settings import BaseSettings

from rossmann.documentation.reference.docstrings import attribute_texts, attributes_of
from rossmann.documentation.reference.markdown import code, page, section, sentence, table
from rossmann.documentation.reference.schema_types import type_name
from rossmann.installation import project_root
from rossmann.request_settings import AccessSettings, RequestLimits
from rossmann.settings import ExperimentSettings, PathSettings, ServiceSettings, Settings
from rossmann.training_settings import GateSettings, TrainingSettings

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
_HEADER: Final = ("setting", "type", "default", "meaning")


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
    return table(_HEADER, rows)


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
