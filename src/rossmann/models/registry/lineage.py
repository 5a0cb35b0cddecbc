"""Lineage of a version (tables, code, parameters, environment), and search for versions by it.

The version's card holds it from training on; its tags in the registry repeat it.
"""

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import rossmann
from rossmann.installation import project_root
from rossmann.models.registry.model_version import ModelVersion
from rossmann.settings import Settings

LIBRARIES: Final = ("lightgbm", "xgboost-cpu", "catboost", "numpy", "numba")
"""Libraries that compute the forecasts."""
_ENVIRONMENT: Final = (*LIBRARIES, "polars", "pandas", "scipy", "mlflow", "holidays")
_FIT_SOURCES: Final = ("data", "features", "models/members", "models/trees", "schema.py")
"""The source that decides the members' fit."""
_GIT_TIMEOUT: Final = 5.0
_SOURCE_SUFFIXES: Final = {".py", ".j2"}
_TRAINING_SETTINGS: Final = {
    "seed",
    "history_days",
    "windows",
    "window_days",
    "later_windows",
    "chain_floor",
}
"""Settings other than the profile that decide the result of training."""
_REWEIGHTING_SETTINGS: Final = {"window_days", "chain_floor"}
"""Settings that decide the result of reweighting a version."""
FINGERPRINT_TAG: Final = "recipe"
REWEIGHTED_KEY: Final = "reweighted"
"""The card's key of what a reweighted version comes from; its tags begin so."""
RECENT_WINDOWS_TAG: Final = f"{REWEIGHTED_KEY}.recent_windows"
_SOURCE_TAG: Final = f"{REWEIGHTED_KEY}.from_version"
_SOURCE_RECIPE_TAG: Final = f"{REWEIGHTED_KEY}.recipe"
_HIDDEN_TAGS: Final = ("gate.table", "promotion", "windows")
_CODE_TAGS: Final = ("code.release", "code.commit", "code.digest")


def code_version() -> dict[str, str]:
    """The running code: ``release``, ``digest`` of the source, and ``commit`` in a checkout.

    A commit that the package's files differ from ends in ``+changes``.
    """
    version = {"release": rossmann.__version__, "digest": code_digest()}
    commit = _git("rev-parse", "HEAD")
    if commit:
        changed = _git("status", "--porcelain", "--", "src", "config")
        version["commit"] = f"{commit}+changes" if changed else commit
    return version


def code_digest(parts: Sequence[str] = (".",)) -> str:
    """Digest of the package's source, the same for a checkout and an installed wheel.

    ``parts``: the modules and folders of the package that count, as paths.
    """
    package = Path(rossmann.__file__).parent
    digest = hashlib.sha256()
    roots = [package / part for part in parts]
    paths = (path for root in roots for path in (root, *root.rglob("*")))
    for file in sorted({path for path in paths if path.suffix in _SOURCE_SUFFIXES}):
        digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def _git(*arguments: str) -> str:
    """Output of a git command in the checkout; empty where there is no checkout or no git."""
    root = project_root()
    if not (root / ".git").exists():
        return ""
    try:
        process = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return process.stdout.strip()


def library_versions(names: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """The installed release of each distribution, without those that are not installed."""
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def environment() -> dict[str, str]:
    """Python, the platform, and every library that takes part in training."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **library_versions(_ENVIRONMENT),
    }


def training_fingerprint(settings: Settings, profile: str, data_version: str) -> str:
    """Digest of all that decides the result of training: data, parameters, code, libraries.

    Two trainings with the same fingerprint give the same version, so the second can be skipped.
    """
    parts = {
        "data": data_version,
        "profile": settings.profile(profile).model_dump(mode="json"),
        "name": profile,
        "settings": settings.model_dump(mode="json", include=_TRAINING_SETTINGS),
        "code": code_digest(),
        "libraries": library_versions(),
    }
    return _digest(parts)


def reweighting_fingerprint(settings: Settings, card_digest: str, data_version: str) -> str:
    """Digest of all that decides the result of reweighting: version, data, parameters, code.

    ``card_digest``: of the version's card. No training has the same fingerprint.
    """
    parts = {
        "version": card_digest,
        "data": data_version,
        "settings": settings.model_dump(mode="json", include=_REWEIGHTING_SETTINGS),
        "code": code_digest(),
    }
    return _digest({REWEIGHTED_KEY: parts})


def _digest(parts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def fit_fingerprint(settings: Settings, profile: str, data_version: str) -> str:
    """Digest of all that decides the fit of a profile's members, other than its origin."""
    params = settings.profile(profile)
    parts = {
        "data": data_version,
        "members": params.model_dump(mode="json", exclude={"weights"}),
        "settings": settings.model_dump(mode="json", include={"seed", "history_days"}),
        "code": code_digest(_FIT_SOURCES),
        "libraries": library_versions(),
    }
    return _digest(parts)


def is_reweighted(version: ModelVersion) -> bool:
    """Whether the version's members come from another version."""
    return _SOURCE_TAG in version.tags


def profile_label(tags: Mapping[str, str]) -> str:
    """A version's profile; for a reweighted one also the version that its members come from."""
    profile, source = tags.get("profile", "?"), tags.get(_SOURCE_TAG)
    return profile if source is None else f"{profile}, reweighted {source}"


def members_recipe(tags: Mapping[str, str]) -> str | None:
    """Training fingerprint of a version's members, by its tags; None where it is unknown."""
    return tags.get(_SOURCE_RECIPE_TAG, tags.get(FINGERPRINT_TAG))


def lineage_fields(settings: Settings, profile: str, data_version: str) -> dict[str, Any]:
    """The lineage fields of a card, apart from its data."""
    return {
        "release": rossmann.__version__,
        "code": code_version(),
        "environment": environment(),
        "libraries": library_versions(),
        "recipe": training_fingerprint(settings, profile, data_version),
    }


def lineage_tags(card: Mapping[str, Any]) -> dict[str, str]:
    """Lineage of a version as tags, without the fields that its card lacks."""
    data, code = card.get("data", {}), card.get("code", {})
    fields = {
        **{f"data.{k}": v for k, v in data.items() if k != "files"},
        "data.raw": _text(data.get("files")),
        "params": _text(card.get("params")),
        "libraries": _text(card.get("libraries")),
        "environment": _text(card.get("environment")),
        "features.fingerprint": card.get("fingerprint"),
        "profile": card.get("profile"),
        "trained": card.get("trained"),
        FINGERPRINT_TAG: card.get("recipe"),
        **{f"{REWEIGHTED_KEY}.{k}": v for k, v in card.get(REWEIGHTED_KEY, {}).items()},
        **{f"code.{name}": value for name, value in code.items()},
    }
    return {key: str(value) for key, value in fields.items() if value is not None}


def _text(value: object) -> str | None:
    return json.dumps(value, sort_keys=True) if value else None


def filter_by_origin(
    versions: Iterable[ModelVersion], data: str = "", code: str = "", file: str = ""
) -> list[ModelVersion]:
    """The versions that were made from a data version, a code and a raw table; empty: from any.

    ``data``, ``code`` (release, commit or digest) and ``file`` (SHA-256 of a raw table's content)
    are prefixes.
    """
    return [
        version
        for version in versions
        if version.tags.get("data.version", "").startswith(data)
        and (not code or any(version.tags.get(t, "").startswith(code) for t in _CODE_TAGS))
        and (
            not file or any(d.startswith(file.lower()) for d in raw_table_digests(version).values())
        )
    ]


def flatten_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags to show, by name: a tag of JSON becomes a tag of each key, so that none is cut off."""
    flat: dict[str, str] = {}
    for key, text in tags.items():
        if key not in _HIDDEN_TAGS:
            flat.update(_flatten_json(key, text))
    return dict(sorted(flat.items()))


def _flatten_json(key: str, text: str) -> dict[str, str]:
    try:
        value = json.loads(text) if text.startswith("{") else None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        return {key: text}
    return {f"{key}.{k}": v if isinstance(v, str) else json.dumps(v) for k, v in value.items()}


def raw_table_digests(version: ModelVersion) -> dict[str, str]:
    """SHA-256 of each raw table that the version was made from; empty where that is unknown."""
    try:
        digests = json.loads(version.tags.get("data.raw", ""))
    except ValueError:
        return {}
    return {str(k): str(v) for k, v in digests.items()} if isinstance(digests, dict) else {}
