"""What MLflow says of a version, read into our words; a private part of the registry.

MERGED: Reading what MLflow has of one model: the model itself, its versions, the one in Production.

A private part of the registry; it changes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from rossmann.models.registry.mlflow_rest import Json, MlflowRest
from rossmann.models.registry.promotion import Promotion
from rossmann.schema import Stage

STAGE_TAG = "stage"
PROMOTION_TAG = "promotion"
CARD_DIGEST_TAG = "digest.card"
PRODUCTION = "production"
STAGING = "staging"
ExpectedProduction = int | None | Literal["any"]
"""The version that must serve for a promotion to go on; None: none may, ``any``: whichever does."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One registered version; ``tags`` hold its lineage, its windows and its gate's verdict."""

    version: int
    stage: Stage
    run_id: str
    created: datetime
    tags: dict[str, str]
    description: str = ""


def parse_tags(tags: Any) -> dict[str, str]:
    """MLflow's list of key and value as a mapping."""
    return {str(tag["key"]): str(tag.get("value", "")) for tag in tags or []}


def parse_aliases(model: Json) -> dict[str, int]:
    """The version that each alias of a registered model names."""
    return {str(a["alias"]): int(a["version"]) for a in model.get("aliases", [])}


def last_promotion(version: ModelVersion | None) -> Promotion | None:
    """The promotion or rollback that brought the version in last; None where there is none."""
    return None if version is None else Promotion.from_json(version.tags.get(PROMOTION_TAG))


def production_state(serving: ModelVersion | None) -> str:
    """Names what is Production since when, so that two reads tell whether it was moved between."""
    step = last_promotion(serving)
    number = "none" if serving is None else str(serving.version)
    return f"{number}.{'first' if step is None else step.id}"


def parse_version(raw: Json, aliases: Mapping[str, int]) -> ModelVersion:
    """A version as MLflow tells it; its number comes as text over REST."""
    number, tags = int(raw["version"]), parse_tags(raw.get("tags"))
    return ModelVersion(
        version=number,
        stage=stage_of(number, tags.get(STAGE_TAG), aliases),
        run_id=str(raw.get("run_id", "")),
        created=datetime.fromtimestamp(int(raw.get("creation_timestamp", 0)) / 1000, UTC),
        tags=tags,
        description=str(raw.get("description", "")),
    )


def stage_of(number: int, tag: str | None, aliases: Mapping[str, int]) -> Stage:
    """The stage: what the aliases say, and where they say nothing, what the tag says."""
    if aliases.get(PRODUCTION) == number:
        return Stage.PRODUCTION
    if aliases.get(STAGING) == number:
        return Stage.STAGING
    # Without its alias, a version that says Production or Staging has left: a move was cut short.
    return Stage.NONE if tag in {None, "", Stage.NONE.value} else Stage.ARCHIVED


def matches(version: ModelVersion, wanted: str) -> bool:
    """Whether a version is the one that a number or ``Production`` or ``Staging`` names."""
    if wanted.isdecimal():
        return version.version == int(wanted)
    live = version.stage in {Stage.PRODUCTION, Stage.STAGING}
    return live and wanted.lower() == version.stage.value.lower()


def not_found_message(name: str, wanted: str, versions: list[ModelVersion]) -> str:
    """Message for a stage or number that no version has, with those there are."""
    if not versions:
        return f"no version of {name} is registered; make one with: rossmann train"
    there = ", ".join(f"{v.version} ({v.stage.value})" for v in versions[:20])
    what = f"version {wanted}" if wanted.isdecimal() else f"version in {wanted}"
    return f"{name} has no {what}; there are: {there}"


def stale_verdict_message(
    version: int, expected: ExpectedProduction, serving: ModelVersion | None
) -> str:
    """Message for a promotion whose verdict is about another version than the one that serves."""
    before = "while no version served" if expected is None else f"against version {expected}"
    now = "none serves" if serving is None else f"version {serving.version} serves"
    return (
        f"version {version} was judged {before}, but now {now}: nothing was changed;"
        f" judge it again (rossmann validate {version})"
    )


def conflict_message(serving: ModelVersion | None) -> str:
    """Message for one who came second."""
    step = last_promotion(serving)
    if serving is None or step is None:
        return "Production was moved meanwhile by somebody else; look before you retry"
    return (
        f"version {serving.version} became Production meanwhile ({step.action} by"
        f" {step.who or 'somebody'}, {step.at}): look before you retry"
    )


_PAGE: Final = 1000


class ModelReader:
    """One model name on one server."""

    def __init__(self, rest: MlflowRest, name: str) -> None:
        self._rest = rest
        self._name = name

    def model(self) -> Json | None:
        """The registered model with its tags and aliases; None where there is none."""
        answer = self._rest.call("GET", "registered-models/get", name=self._name)
        return None if answer is None else dict(answer.get("registered_model", {}))

    def versions(self, model: Json) -> list[ModelVersion]:
        """All versions, newest first, with the stages that the model's aliases give them."""
        aliases = parse_aliases(model)
        found: list[ModelVersion] = []
        token: dict[str, str] = {}
        while True:
            quoted = self._name.replace("'", "\\'")
            fields = {"filter": f"name='{quoted}'", "max_results": _PAGE, **token}
            answer = self._rest.call("GET", "model-versions/search", **fields) or {}
            found += [parse_version(raw, aliases) for raw in answer.get("model_versions", [])]
            if not answer.get("next_page_token"):
                return sorted(found, key=lambda v: v.version, reverse=True)
            token = {"page_token": str(answer["next_page_token"])}

    def production(self) -> ModelVersion | None:
        """The version in Production; a single request."""
        fields = {"name": self._name, "alias": PRODUCTION}
        answer = self._rest.call("GET", "registered-models/alias", **fields)
        if answer is None:
            return None
        raw = answer["model_version"]
        return parse_version(raw, {PRODUCTION: int(raw["version"])})
