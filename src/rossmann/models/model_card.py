"""The model card: one page in Markdown that says what a version is, and how good."""

from collections.abc import Mapping
from typing import Any

from rossmann.models.backtest import WindowScore
from rossmann.models.report import NAMES, markdown, table_rows
from rossmann.schema import Dataset

_FILES = 6
"""Tables that are named one by one."""
_CHAINS = {
    Dataset.REAL.value: "the Rossmann chain (real tables)",
    Dataset.DEMO.value: "the demo chain (synthetic tables)",
}


def render(card: Mapping[str, Any], scores: list[WindowScore], name: str) -> str:
    """The page for ``card`` (what ``ensemble.json`` holds), registered under ``name``."""
    parts = [
        f"# {name}",
        "Forecasts the daily sales of each store of a drugstore chain, up to 48 days ahead, from"
        " what is known on the day of the forecast.",
        _data(card.get("data", {})),
        "## Backtest\nRMSPE over open days with sales, each window forecast from its origin by"
        " models that saw nothing after it. Lower is better.\n\n"
        + (markdown(table_rows(scores)) if scores else "No window was evaluated."),
        _members(card),
        _origin(card),
        _limits(card),
        _loading(name),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _data(data: Mapping[str, Any]) -> str:
    return (
        "## Data\n"
        f"- Learned from {_CHAINS.get(str(data.get('dataset')), 'unknown tables')},"
        f" data version `{data.get('version')}`.\n"
        f"- {_count(data.get('rows'))} rows of {_count(data.get('stores'))} stores,"
        f" {data.get('first_day')} to {data.get('last_day')}."
    )


def _count(number: object) -> str:
    return f"{number:,}" if isinstance(number, int) else "an unknown number of"


def _members(card: Mapping[str, Any]) -> str:
    weights = card.get("weights", {})
    libraries = card.get("libraries", {})
    blend = ", ".join(f"{NAMES.get(k, k)} {100 * float(w):.0f} %" for k, w in weights.items())
    versions = ", ".join(f"{k} {v}" for k, v in libraries.items())
    return (
        "## Made of\n"
        f"- Blend: {blend}. Profile `{card.get('profile')}`,"
        f" release {card.get('release')}, trained {card.get('trained')}.\n"
        f"- {len(card.get('features', []))} features, fingerprint `{card.get('fingerprint')}`.\n"
        f"- Libraries: {versions}."
    )


def _origin(card: Mapping[str, Any]) -> str:
    code, environment = card.get("code", {}), card.get("environment", {})
    files = card.get("data", {}).get("files", {})
    parameters = {k: v for k, v in card.get("params", {}).items() if k != "members"}
    lines = [
        f"- Table `{name}`: SHA-256 `{digest}`" for name, digest in list(files.items())[:_FILES]
    ]
    if len(files) > _FILES:
        lines.append(f"- and {len(files) - _FILES} more, in the tag `data.raw`")
    lines += [f"- Code {name}: `{value}`" for name, value in code.items()]
    lines.append("- Parameters: " + ", ".join(f"{k} {_short(v)}" for k, v in parameters.items()))
    lines.append("- Environment: " + ", ".join(f"{k} {v}" for k, v in environment.items()))
    return "## Comes from\n" + "\n".join(lines)


def _short(value: object) -> str:
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{k} {v}" for k, v in value.items()) + ")"
    return str(value)


def _limits(card: Mapping[str, Any]) -> str:
    horizon = card.get("params", {}).get("horizon", 48)
    return (
        "## Limits\n"
        f"- Trained for 1 to {horizon} days ahead; a later day gets a warning.\n"
        "- The blend forecasts open days; the service answers 0 for closed ones.\n"
        "- Promotions and holidays must be planned ahead: without them the error grows."
    )


def _loading(name: str) -> str:
    return (
        "## Loading\n"
        "```python\n"
        f'mlflow.pyfunc.load_model("models:/{name}@production")\n'
        "```\n"
        "Input: the 46 features as doubles, in the signature's order. Output: sales. The version"
        " carries its own code; `requirements.txt` beside it names what else it needs."
    )
