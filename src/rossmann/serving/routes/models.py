"""What the calls about models tell."""

from typing import TYPE_CHECKING

from rossmann.schema import FEATURES, MODEL_NAME, Stage
from rossmann.serving.runtime.service import Service, model_data, panel_data
from rossmann.serving.schemas.models import InfoData, ModelInfo, ModelVersionInfo

if TYPE_CHECKING:
    from rossmann.models.registry.model_version import ModelVersion


def model_info(service: Service) -> ModelInfo:
    """What ``GET /model/info`` tells."""
    now, seen = service.versions.production, service.versions.snapshot
    card = now.forecaster.ensemble.card if now else {}
    weights = {str(name): float(weight) for name, weight in card.get("weights", {}).items()}
    return ModelInfo(
        production_version=now.version if now else None,
        staging_version=seen.version_in_stage(Stage.STAGING),
        registered_models=[MODEL_NAME],
        loaded_versions=service.versions.loaded,
        profile=str(card.get("profile", "")),
        features=len(FEATURES),
        members=list(weights),
        weights=weights,
        levels=card.get("intervals", {}).get("levels", []),
        metrics=card.get("metrics", {}),
        data=InfoData(model=model_data(card), panel=panel_data(service.panel)),
    )


def version_info(found: "ModelVersion") -> ModelVersionInfo:
    """A version as the registry has it."""
    return ModelVersionInfo(
        version=found.version,
        stage=found.stage,
        run_id=found.run_id,
        created=found.created,
        tags=found.tags,
    )
