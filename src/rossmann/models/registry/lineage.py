"""Where a version comes from: tables, code, parameters, environment; and back, from these to it.

The card of a version holds it (written when it is trained), its tags in the registry repeat it.
"""

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import rossmann
from rossmann.models.registry.model_version import ModelVersion
from rossmann.settings import Settings, project_root

LIBRARIES: Final = ("lightgbm", "xgboost-cpu", "catboost", "numpy", "numba")
"""What the forecasts are computed with."""
_ENVIRONMENT: Final = (*LIBRARIES, "polars", "pandas", "scipy", "mlflow", "holidays")
_GIT_SECONDS: Final = 5.0
_OF_TRAINING: Final = {"seed", "history_days", "windows", "window_days", "later_windows"}
"""The settings beside the profile that decide what training makes."""
FINGERPRINT_TAG: Final = "recipe"
_FOR_PROGRAMS: Final = ("gate.table", "promotion", "windows")
_CODE_TAGS: Final = ("code.release", "code.commit", "code.digest")


def code_version() -> dict[str, str]:
    """The code that runs: ``release``, ``digest`` of the source, and ``commit`` in a checkout.

    A commit that the package's files differ from ends in ``+changes``.
    """
    found = {"release": rossmann.__version__, "digest": code_digest()}
    commit = _git("rev-parse", "HEAD")
    if commit:
        changed = _git("status", "--porcelain", "--", "src", "config")
        found["commit"] = f"{commit}+changes" if changed else commit
    return found


def code_digest() -> str:
    """Digest of the package's source, the same for a checkout and an installed wheel."""
    package = Path(rossmann.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def _git(*arguments: str) -> str:
    """What git says of the checkout; empty where there is no checkout, or no git."""
    root = project_root()
    if not (root / ".git").exists():
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def library_versions(names: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """The installed release of each distribution; those that are not installed are left out."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def environment() -> dict[str, str]:
    """Python, the platform, and every library that has a part in training."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **library_versions(_ENVIRONMENT),
    }


def training_fingerprint(settings: Settings, profile: str, data_version: str) -> str:
    """Digest of all that decides what training gives: data, parameters, code, libraries.

    Two trainings with the same one give the same version, so the second may be left out.
    """
    parts = {
        "data": data_version,
        "profile": settings.profile(profile).model_dump(mode="json"),
        "name": profile,
        "settings": _of_training(settings),
        "code": code_digest(),
        "libraries": library_versions(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _of_training(settings: Settings) -> dict[str, Any]:
    """All settings but those that services, the gate and this machine read."""
    return settings.model_dump(mode="json", include=_OF_TRAINING)


def lineage_fields(settings: Settings, profile: str, data_version: str) -> dict[str, Any]:
    """The part of a card that says where the version comes from, beside its data."""
    return {
        "release": rossmann.__version__,
        "code": code_version(),
        "environment": environment(),
        "libraries": library_versions(),
        "recipe": training_fingerprint(settings, profile, data_version),
    }


def lineage_tags(card: Mapping[str, Any]) -> dict[str, str]:
    """What a version was made from, as tags; what its card does not say is left out."""
    data, code = card.get("data", {}), card.get("code", {})
    named = {
        **{f"data.{k}": v for k, v in data.items() if k != "files"},
        "data.raw": _text(data.get("files")),
        "params": _text(card.get("params")),
        "libraries": _text(card.get("libraries")),
        "environment": _text(card.get("environment")),
        "features.fingerprint": card.get("fingerprint"),
        "profile": card.get("profile"),
        "trained": card.get("trained"),
        FINGERPRINT_TAG: card.get("recipe"),
        **{f"code.{name}": value for name, value in code.items()},
    }
    return {key: str(value) for key, value in named.items() if value is not None}


def _text(value: object) -> str | None:
    return json.dumps(value, sort_keys=True) if value else None


def filter_by_origin(
    versions: Iterable[ModelVersion], data: str = "", code: str = "", file: str = ""
) -> list[ModelVersion]:
    """Those versions that come from a data version, a code and a raw table; empty: from any.

    ``data``, ``code`` (release, commit or digest) and ``file`` (SHA-256 of a raw table's content)
    may be cut short.
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
    """Tags for people, by name: those that hold JSON opened, so that nothing is cut off."""
    flat: dict[str, str] = {}
    for key, text in tags.items():
        if key not in _FOR_PROGRAMS:
            flat.update(_opened(key, text))
    return dict(sorted(flat.items()))


def _opened(key: str, text: str) -> dict[str, str]:
    try:
        value = json.loads(text) if text.startswith("{") else None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        return {key: text}
    return {f"{key}.{k}": v if isinstance(v, str) else json.dumps(v) for k, v in value.items()}


def raw_table_digests(version: ModelVersion) -> dict[str, str]:
    """SHA-256 of each raw table that the version was made from; empty where it does not say."""
    try:
        found = json.loads(version.tags.get("data.raw", ""))
    except ValueError:
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}
