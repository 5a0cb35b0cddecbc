"""Registered versions as values, parsed from MLflow's JSON, and the reader that requests them.

It only reads; ``Registry`` makes the changes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from rossmann.installation import shell_command
from rossmann.models.registry.mlflow_rest import Json, MlflowRest
from rossmann.models.registry.promotion import Promotion
from rossmann.schema import Stage

STAGE_TAG: Final = "stage"
PROMOTION_TAG: Final = "promotion"
CARD_DIGEST_TAG: Final = "digest.card"
PRODUCTION: Final = "production"
STAGING: Final = "staging"
ExpectedProduction = int | None | Literal["any"]
"""The version that must serve for a promotion to go on; None: none may, ``any``: whichever does."""
_PAGE_SIZE: Final = 1000


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
    """MLflow's list of keys and values as a mapping."""
    return {str(tag["key"]): str(tag.get("value", "")) for tag in tags or []}


def parse_aliases(model: Json) -> dict[str, int]:
    """The version number of each alias of a registered model."""
    return {str(alias["alias"]): int(alias["version"]) for alias in model.get("aliases", [])}


def parse_version(raw: Json, aliases: Mapping[str, int]) -> ModelVersion:
    """A version from MLflow's JSON, in which its number is a text."""
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
    """The stage by the aliases and, where none names the version, by its tag."""
    if aliases.get(PRODUCTION) == number:
        return Stage.PRODUCTION
    if aliases.get(STAGING) == number:
        return Stage.STAGING
    # Without its alias, a version tagged Production or Staging has left: a change was cut short.
    return Stage.NONE if tag in {None, "", Stage.NONE.value} else Stage.ARCHIVED


def last_promotion(version: ModelVersion | None) -> Promotion | None:
    """The promotion or rollback that brought the version in last; None where there is none."""
    return None if version is None else Promotion.from_json(version.tags.get(PROMOTION_TAG))


def production_state(production: ModelVersion | None) -> str:
    """The Production version and its promotion as one text: two reads differ if it was moved."""
    promotion = last_promotion(production)
    number = "none" if production is None else str(production.version)
    return f"{number}.{'first' if promotion is None else promotion.id}"


def matches(version: ModelVersion, requested: str) -> bool:
    """Whether a version is the one that a number, ``Production`` or ``Staging`` names."""
    if requested.isdecimal():
        return version.version == int(requested)
    has_alias = version.stage in {Stage.PRODUCTION, Stage.STAGING}
    return has_alias and requested.lower() == version.stage.value.lower()


def not_found_message(name: str, requested: str, versions: list[ModelVersion]) -> str:
    """Message for a stage or number that no version has, with the versions that exist."""
    if not versions:
        return f"no version of {name} is registered; make one with: {shell_command('train')}"
    existing = ", ".join(f"{v.version} ({v.stage.value})" for v in versions[:20])
    missing = f"version {requested}" if requested.isdecimal() else f"version in {requested}"
    return f"{name} has no {missing}; there are: {existing}"


def stale_verdict_message(
    version: int, expected: ExpectedProduction, production: ModelVersion | None
) -> str:
    """Message for a promotion whose verdict compares with another version than Production."""
    compared = "while no version served" if expected is None else f"against version {expected}"
    now = "none serves" if production is None else f"version {production.version} serves"
    return (
        f"version {version} was judged {compared}, but now {now}: nothing was changed;"
        f" judge it again (rossmann validate {version})"
    )


def conflict_message(production: ModelVersion | None) -> str:
    """Message for a promotion during which another one changed Production."""
    promotion = last_promotion(production)
    if production is None or promotion is None:
        return "Production was moved meanwhile by somebody else; look before you retry"
    return (
        f"version {production.version} became Production meanwhile ({promotion.action} by"
        f" {promotion.who or 'somebody'}, {promotion.at}): look before you retry"
    )


class ModelReader:
    """Reads one registered model of one MLflow server."""

    def __init__(self, rest: MlflowRest, name: str) -> None:
        self._rest = rest
        self._name = name

    def model(self) -> Json | None:
        """The registered model with its tags and aliases; None where there is none."""
        response = self._rest.call("GET", "registered-models/get", name=self._name)
        return None if response is None else dict(response.get("registered_model", {}))

    def versions(self, model: Json) -> list[ModelVersion]:
        """All versions, newest first, with the stages that the model's aliases give them."""
        aliases = parse_aliases(model)
        versions: list[ModelVersion] = []
        page: dict[str, str] = {}
        while True:
            quoted = self._name.replace("'", "\\'")
            fields = {"filter": f"name='{quoted}'", "max_results": _PAGE_SIZE, **page}
            response = self._rest.call("GET", "model-versions/search", **fields) or {}
            versions += [parse_version(raw, aliases) for raw in response.get("model_versions", [])]
            if not response.get("next_page_token"):
                return sorted(versions, key=lambda version: version.version, reverse=True)
            page = {"page_token": str(response["next_page_token"])}

    def production(self) -> ModelVersion | None:
        """The version in Production; a single request."""
        fields = {"name": self._name, "alias": PRODUCTION}
        response = self._rest.call("GET", "registered-models/alias", **fields)
        if response is None:
            return None
        raw = response["model_version"]
        return parse_version(raw, {PRODUCTION: int(raw["version"])})
