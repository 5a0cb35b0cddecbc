"""Versions, stages, promotion and rollback: the only module that knows MLflow's aliases and tags.

A stage is an alias (``production``, ``staging``) first and a tag (``stage``) second: the alias
decides, the tag is there for people who read MLflow's pages. Promotion is one move of the alias;
whatever is tidied before or after it may be cut short at any point without a moment in which no
version, or two, would be Production.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from types import TracebackType

from rossmann.errors import ModelError, PromotionConflictError, ServiceError, VersionNotFoundError
from rossmann.models.ensemble import artifact_files as model_files
from rossmann.models.registry import model_cache
from rossmann.models.registry import model_cache as artifacts
from rossmann.models.registry import promotion as promotions
from rossmann.models.registry.mlflow_rest import MlflowRest
from rossmann.models.registry.model_cache import cached_version
from rossmann.models.registry.model_version import (
    CARD_DIGEST_TAG,
    PRODUCTION,
    PROMOTION_TAG,
    STAGE_TAG,
    STAGING,
    ExpectedProduction,
    ModelReader,
    ModelVersion,
    conflict_message,
    last_promotion,
    matches,
    not_found_message,
    parse_aliases,
    parse_tags,
    production_state,
    stale_verdict_message,
)
from rossmann.models.registry.promotion import Promotion, PromotionLock
from rossmann.schema import MODEL_NAME, Stage

_HISTORY_PREFIX = "history."


class Registry:
    """The versions of one model name on one MLflow server; safe to share between threads.

    Every method raises ``ServiceError`` in one line when the server is away or refuses.
    """

    def __init__(self, tracking_uri: str, name: str = MODEL_NAME, timeout: float = 5.0) -> None:
        self.name = name
        self._rest = MlflowRest(tracking_uri, timeout)
        self._shelf = ModelReader(self._rest, name)
        self._claims = PromotionLock(self._rest, name)
        self._moving = Lock()

    def __enter__(self) -> "Registry":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def with_timeout(self, seconds: float) -> Iterator[None]:
        """Give each answer at most ``seconds`` meanwhile: for who can do without."""
        with self._rest.with_timeout(seconds):
            yield

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._rest.close()

    def ping(self) -> None:
        """Raise ``ServiceError`` unless an MLflow server answers."""
        self._rest.check_health()

    def versions(self) -> list[ModelVersion]:
        """All versions, newest first; empty when the model is not registered."""
        model = self._shelf.model()
        return [] if model is None else self._shelf.versions(model)

    def find(self, stage_or_version: str | int) -> ModelVersion:
        """The version of that number, or the one in Production or Staging.

        Raises ``UnknownVersion``, naming those there are.
        """
        wanted = str(stage_or_version).strip()
        if wanted.lower() == PRODUCTION:
            # The service polls this one: a single request.
            found = self._shelf.production()
            if found is not None:
                return found
        versions = self.versions()
        for version in versions:
            if matches(version, wanted):
                return version
        raise VersionNotFoundError(not_found_message(self.name, wanted, versions))

    def fetch(self, version: int | str, cache: Path) -> Path:
        """A local folder with the ensemble's files, every digest checked; used again when there.

        Raises ``UnknownVersion``, or ``DamagedModel`` when what the registry holds differs from
        what was registered.
        """
        found = self.find(int(version))
        ready = cached_version(cache, found.version, found.run_id)
        if ready is not None:
            return ready
        with model_cache.write_version(cache, found.version, found.run_id) as folder:
            artifacts.download_version(self._rest, self.name, found.version, folder)
            model_files.verify_digests(folder, found.tags.get(CARD_DIGEST_TAG))
        return cache / str(found.version)

    def run_file(self, version: ModelVersion, name: str, folder: Path) -> Path:
        """Download the file ``name`` that the version's run logged, into ``folder``.

        Raises ``ServiceError`` where there is none.
        """
        if not version.run_id:
            raise ServiceError(f"version {version.version} of {self.name} names no run")
        return artifacts.download_run_file(self._rest, version.run_id, name, folder)

    def stage(self, version: int | str) -> ModelVersion:
        """Make ``version`` the one in Staging; a Production version stays where it is, refused."""
        target = self.find(int(version))
        if target.stage is Stage.PRODUCTION:
            raise ModelError(
                f"version {target.version} is Production; promote another one before it can be"
                " Staging"
            )
        self._move(STAGING, target.version)
        self._tidy()
        return self.find(target.version)

    def promote(
        self, version: int | str, reason: str, who: str, expected: ExpectedProduction = "any"
    ) -> ModelVersion:
        """Make ``version`` Production in one step; the one that leaves is Archived and remembered.

        Whether a version *may* be promoted is the gate's business; ``expected`` is the version
        that the gate compared it with (``Verdict.against``, None where nothing served). Promoting
        the version that serves already changes nothing. Raises ``LostRace`` where another version
        than ``expected`` serves, or somebody else moves Production at the same time: one wins,
        the other's call changes nothing.
        """
        serving = self._shelf.production()
        target = self.find(int(version))
        if serving is None or serving.version != target.version:
            if expected not in {"any", None if serving is None else serving.version}:
                raise PromotionConflictError(
                    stale_verdict_message(target.version, expected, serving)
                )
            left = None if serving is None else serving.version
            step = promotions.new_promotion(
                target.version, left, last_promotion(serving), who, reason
            )
            self._make_step(step, serving)
        self._tidy()
        return self.find(target.version)

    def rollback(self, reason: str, who: str) -> ModelVersion:
        """Back to the version that served before; each further call goes one more back.

        Raises ``UnknownVersion`` when nothing serves, or nothing served before, and ``LostRace``
        as ``promote`` does.
        """
        serving = self._shelf.production()
        if serving is None:
            raise VersionNotFoundError(
                f"no version of {self.name} is Production: nothing to roll back"
            )
        there = {v.version: v for v in self.versions()}
        step = promotions.new_rollback(serving.version, last_promotion(serving), there, who, reason)
        if step is None:
            raise VersionNotFoundError(
                f"nothing served before version {serving.version}; promote another version instead"
            )
        self._make_step(step, serving)
        self._tidy()
        return self.find(step.version)

    def history(self) -> list[Promotion]:
        """Every promotion and rollback that happened, the latest first."""
        steps = [
            step
            for key, text in parse_tags((self._shelf.model() or {}).get("tags")).items()
            if key.startswith(_HISTORY_PREFIX) and (step := Promotion.from_json(text)) is not None
        ]
        return sorted(steps, key=lambda step: step.id, reverse=True)

    def set_tags(self, version: int, tags: Mapping[str, str]) -> None:
        """Write tags on a version, one after the other."""
        for key, value in tags.items():
            fields = {"name": self.name, "version": str(version), "key": key, "value": value}
            self._rest.set_tag("model-versions", **fields)

    def _make_step(self, step: Promotion, seen: ModelVersion | None) -> None:
        """Move Production from the state that the caller saw, if nobody else does."""
        with self._moving, self._claims.acquire(production_state(seen)) as claim:
            serving = self._shelf.production()
            if production_state(serving) != production_state(seen):
                raise PromotionConflictError(conflict_message(serving))
            self._tidy()  # what an earlier move left undone must be written before the next
            claim.raise_if_stale()
            self.set_tags(step.version, {PROMOTION_TAG: step.to_json()})
            claim.raise_if_stale()
            self._move(PRODUCTION, step.version)

    def _move(self, alias: str, version: int) -> None:
        fields = {"name": self.name, "alias": alias, "version": str(version)}
        self._rest.call("POST", "registered-models/alias", **fields)

    def _tidy(self) -> None:
        """Bring everything in line with the aliases; may be cut short, and be called again."""
        model = self._shelf.model()
        if model is None:
            return
        aliases = parse_aliases(model)
        if STAGING in aliases and aliases[STAGING] == aliases.get(PRODUCTION):
            self._rest.call("DELETE", "registered-models/alias", name=self.name, alias=STAGING)
        for version in self._shelf.versions(model):
            if version.tags.get(STAGE_TAG) != version.stage.value:
                self.set_tags(version.version, {STAGE_TAG: version.stage.value})
            step = last_promotion(version)
            if version.stage is Stage.PRODUCTION and step is not None:
                self._keep_in_history(step, parse_tags(model.get("tags")))

    def _keep_in_history(self, step: Promotion, known: Mapping[str, str]) -> None:
        key = f"{_HISTORY_PREFIX}{step.id}"
        if key not in known:
            self._rest.set_tag("registered-models", name=self.name, key=key, value=step.to_json())
