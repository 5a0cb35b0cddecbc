"""The model registry over MLflow's REST API: versions, stages, promotion, rollback, downloads.

A stage is an alias (``production``, ``staging``) first and a tag (``stage``) second: the alias
decides, the tag is for people who read MLflow's pages. Promotion is one change of the alias; the
writes before and after it may be cut short at any point, and still exactly one version is
Production.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Final

from rossmann.addresses import store_urls
from rossmann.errors import ModelError, PromotionConflictError, ServiceError, VersionNotFoundError
from rossmann.models.ensemble.artifact_files import verify_digests
from rossmann.models.registry.mlflow_rest import MlflowRest
from rossmann.models.registry.model_cache import (
    cached_version,
    download_run_file,
    download_version,
    write_version,
)
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
from rossmann.models.registry.promotion import Promotion, PromotionLock, new_promotion, new_rollback
from rossmann.schema import MODEL_NAME, Stage
from rossmann.settings import Settings

_HISTORY_PREFIX: Final = "history."


class Registry:
    """The versions of one model name on one MLflow server; safe to share between threads.

    Every method raises ``ServiceError``, with a message of one line, when the server is unreachable
    or rejects the request.
    """

    def __init__(
        self,
        tracking_uri: str,
        name: str = MODEL_NAME,
        timeout: float = 5.0,
        stores: Sequence[str] = (),
    ) -> None:
        """``stores``: URLs that files of versions may come from besides the server itself."""
        self.name = name
        self._stores = stores
        self._rest = MlflowRest(tracking_uri, timeout)
        self._reader = ModelReader(self._rest, name)
        self._promotion_lock = PromotionLock(self._rest, name)
        self._thread_lock = Lock()

    @classmethod
    def from_settings(cls, settings: Settings, name: str = MODEL_NAME) -> "Registry":
        """The registry that the settings name, with the stores that they allow."""
        return cls(settings.tracking_uri, name, stores=store_urls(settings.artifact_stores))

    def __enter__(self) -> "Registry":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def with_timeout(self, seconds: float) -> Iterator[None]:
        """Wait at most ``seconds`` for each response inside the block."""
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
        model = self._reader.model()
        return [] if model is None else self._reader.versions(model)

    def find(self, stage_or_version: str | int) -> ModelVersion:
        """The version of that number, or the one in Production or Staging.

        Raises ``VersionNotFoundError``, which names those that exist.
        """
        requested = str(stage_or_version).strip()
        if requested.lower() == PRODUCTION:
            # The service polls this one: a single request.
            production = self._reader.production()
            if production is not None:
                return production
        versions = self.versions()
        for version in versions:
            if matches(version, requested):
                return version
        raise VersionNotFoundError(not_found_message(self.name, requested, versions))

    def fetch(self, version: int | str, cache: Path) -> Path:
        """A local folder with the ensemble's files, digests verified; downloaded only once.

        Raises ``VersionNotFoundError``, or ``CorruptModelError`` when the downloaded files differ
        from those that were registered, or ``ServiceError`` for a place that is not allowed.
        """
        target = self.find(int(version))
        cached = cached_version(cache, target.version, target.run_id)
        if cached is not None:
            return cached
        with write_version(cache, target.version, target.run_id) as folder:
            download_version(self._rest, self.name, target.version, folder, self._stores)
            verify_digests(folder, target.tags.get(CARD_DIGEST_TAG))
        return cache / str(target.version)

    def run_file(self, version: ModelVersion, name: str, folder: Path) -> Path:
        """Download the file ``name`` that the version's run logged, into ``folder``.

        Raises ``ServiceError`` where there is none.
        """
        if not version.run_id:
            raise ServiceError(f"version {version.version} of {self.name} names no run")
        return download_run_file(self._rest, version.run_id, name, folder, self._stores)

    def stage(self, version: int | str) -> ModelVersion:
        """Make ``version`` the one in Staging; raises ``ModelError`` for the Production version."""
        target = self.find(int(version))
        if target.stage is Stage.PRODUCTION:
            raise ModelError(
                f"version {target.version} is Production; promote another one before it can be"
                " Staging"
            )
        self._set_alias(STAGING, target.version)
        self._reconcile()
        return self.find(target.version)

    def promote(
        self, version: int | str, reason: str, who: str, expected: ExpectedProduction = "any"
    ) -> ModelVersion:
        """Make ``version`` Production in one step; the replaced one is Archived and remembered.

        Whether a version *may* be promoted is for the gate to decide; ``expected`` is the version
        that the gate compared it with (``Verdict.compared_to``, None where nothing served).
        Promoting the Production version changes nothing. Raises ``PromotionConflictError`` where
        another version than ``expected`` is Production, or another process changes Production at
        the same time: one wins, the other call changes nothing.
        """
        production = self._reader.production()
        target = self.find(int(version))
        current = None if production is None else production.version
        if current != target.version:
            if expected not in {"any", current}:
                raise PromotionConflictError(
                    stale_verdict_message(target.version, expected, production)
                )
            previous = last_promotion(production)
            promotion = new_promotion(target.version, current, previous, who, reason)
            self._apply(promotion, production)
        self._reconcile()
        return self.find(target.version)

    def rollback(self, reason: str, who: str) -> ModelVersion:
        """Back to the version that served before; each further call goes one more back.

        Raises ``VersionNotFoundError`` when nothing serves, or nothing served before, and
        ``PromotionConflictError`` as ``promote`` does.
        """
        production = self._reader.production()
        if production is None:
            raise VersionNotFoundError(
                f"no version of {self.name} is Production: nothing to roll back"
            )
        existing = {version.version for version in self.versions()}
        previous = last_promotion(production)
        promotion = new_rollback(production.version, previous, existing, who, reason)
        if promotion is None:
            raise VersionNotFoundError(
                f"nothing served before version {production.version}; promote another version"
                " instead"
            )
        self._apply(promotion, production)
        self._reconcile()
        return self.find(promotion.version)

    def history(self) -> list[Promotion]:
        """Every promotion and rollback that happened, the latest first."""
        tags = parse_tags((self._reader.model() or {}).get("tags"))
        promotions = [
            promotion
            for key, text in tags.items()
            if key.startswith(_HISTORY_PREFIX)
            and (promotion := Promotion.from_json(text)) is not None
        ]
        return sorted(promotions, key=lambda promotion: promotion.id, reverse=True)

    def set_tags(self, version: int, tags: Mapping[str, str]) -> None:
        """Write tags on a version, one after the other."""
        for key, value in tags.items():
            fields = {"name": self.name, "version": str(version), "key": key, "value": value}
            self._rest.set_tag("model-versions", **fields)

    def _apply(self, promotion: Promotion, expected: ModelVersion | None) -> None:
        """Change Production if it is still ``expected`` and no other process changes it."""
        state = production_state(expected)
        with self._thread_lock, self._promotion_lock.acquire(state) as lease:
            production = self._reader.production()
            if production_state(production) != state:
                raise PromotionConflictError(conflict_message(production))
            self._reconcile()  # a promotion that was cut short enters the history before the next
            lease.raise_if_stale()
            self.set_tags(promotion.version, {PROMOTION_TAG: promotion.to_json()})
            lease.raise_if_stale()
            self._set_alias(PRODUCTION, promotion.version)

    def _set_alias(self, alias: str, version: int) -> None:
        fields = {"name": self.name, "alias": alias, "version": str(version)}
        self._rest.call("POST", "registered-models/alias", **fields)

    def _reconcile(self) -> None:
        """Write the tags and the history that follow from the aliases; may be cut short."""
        model = self._reader.model()
        if model is None:
            return
        aliases = parse_aliases(model)
        if STAGING in aliases and aliases[STAGING] == aliases.get(PRODUCTION):
            self._rest.call("DELETE", "registered-models/alias", name=self.name, alias=STAGING)
        for version in self._reader.versions(model):
            if version.tags.get(STAGE_TAG) != version.stage.value:
                self.set_tags(version.version, {STAGE_TAG: version.stage.value})
            promotion = last_promotion(version)
            if version.stage is Stage.PRODUCTION and promotion is not None:
                self._add_to_history(promotion, parse_tags(model.get("tags")))

    def _add_to_history(self, promotion: Promotion, model_tags: Mapping[str, str]) -> None:
        key = f"{_HISTORY_PREFIX}{promotion.id}"
        if key not in model_tags:
            text = promotion.to_json()
            self._rest.set_tag("registered-models", name=self.name, key=key, value=text)
