"""Reading what MLflow has of one model: the model itself, its versions, the one in Production.

A private part of the registry; it changes nothing.
"""

from typing import Final

from rossmann.models.mlflow_rest import Json, MlflowRest
from rossmann.models.model_versions import PRODUCTION, ModelVersion, aliases_of, read_version

_PAGE: Final = 1000


class Shelf:
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
        aliases = aliases_of(model)
        found: list[ModelVersion] = []
        token: dict[str, str] = {}
        while True:
            quoted = self._name.replace("'", "\\'")
            fields = {"filter": f"name='{quoted}'", "max_results": _PAGE, **token}
            answer = self._rest.call("GET", "model-versions/search", **fields) or {}
            found += [read_version(raw, aliases) for raw in answer.get("model_versions", [])]
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
        return read_version(raw, {PRODUCTION: int(raw["version"])})
