"""Lineage of a version in its card and tags, and the search for versions by it."""

import json
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import rossmann
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.models.registry import lineage
from rossmann.models.registry.lineage import (
    code_version,
    environment,
    filter_by_origin,
    flatten_tags,
    lineage_tags,
    training_fingerprint,
)
from rossmann.models.registry.model_version import ModelVersion
from rossmann.schema import Stage, feature_fingerprint
from rossmann.settings import Settings


def test_card_holds_code_environment_and_tables(trained: TrainedModel) -> None:
    card = trained.card
    assert card["code"]["release"] == card["release"] == rossmann.__version__
    assert len(card["code"]["digest"]) == 16
    assert card["environment"]["python"] == platform.python_version()
    assert set(card["environment"]) >= {"platform", "lightgbm", "catboost", "numpy", "polars"}
    assert set(card["data"]["files"]) == {"train.csv", "store.csv", "test.csv"}
    assert all(len(digest) == 64 for digest in card["data"]["files"].values())


def test_tags_repeat_the_card(trained: TrainedModel) -> None:
    tags = lineage_tags(trained.card)
    data = trained.card["data"]
    for name in ("dataset", "version", "rows", "stores", "first_day", "last_day"):
        assert tags[f"data.{name}"] == str(data[name])
    assert json.loads(tags["data.raw"]) == data["files"]
    assert json.loads(tags["params"]) == trained.card["params"]
    assert json.loads(tags["environment"]) == environment()
    assert tags["features.fingerprint"] == feature_fingerprint()
    assert tags["code.digest"] == trained.card["code"]["digest"]
    assert tags["recipe"] == trained.card["recipe"]


def test_missing_card_fields_give_no_tags() -> None:
    assert lineage_tags({}) == {}


def git(folder: Path, *arguments: str) -> str:
    author = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
    command = ["git", "-C", str(folder), *author, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_code_version_holds_commit_and_uncommitted_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lineage, "project_root", lambda: tmp_path)
    assert "commit" not in code_version()
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "module.py").write_text("one")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert code_version()["commit"] == commit
    (tmp_path / "notes.txt").write_text("no part of the package")
    assert code_version()["commit"] == commit
    (tmp_path / "src" / "module.py").write_text("two")
    assert code_version()["commit"] == f"{commit}+changes"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "commit" not in code_version()


def test_fingerprint_depends_on_all_inputs_of_training(
    chain_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fingerprint(data: str = "a", **changes: Any) -> str:
        return training_fingerprint(chain_settings.model_copy(update=changes), "quick", data)

    monkeypatch.setattr(lineage, "code_digest", lambda: "code")
    first = fingerprint()
    assert first == fingerprint()
    quick = chain_settings.profiles["quick"]
    fewer_rows = quick.model_copy(update={"rows": 100})
    others = [
        fingerprint("b"),
        fingerprint(seed=1),
        fingerprint(windows=(9,)),
        fingerprint(profiles={"quick": fewer_rows}),
    ]
    monkeypatch.setattr(lineage, "library_versions", lambda: {"lightgbm": "99"})
    others.append(fingerprint())
    monkeypatch.setattr(lineage, "code_digest", lambda: "other code")
    others.append(fingerprint())
    assert len({first, *others}) == 7
    irrelevant = {"api_port": 1, "gate_chance": 0.5, "threads": 7, "data_dir": Path("elsewhere")}
    for name, value in irrelevant.items():
        assert fingerprint(**{name: value}) == others[-1]


def version(number: int, **tags: str) -> ModelVersion:
    dotted = {key.replace("_", "."): value for key, value in tags.items()}
    return ModelVersion(number, Stage.NONE, "run", datetime.now(UTC), dotted)


VERSIONS = [
    version(3, data_version="aabb", code_commit="c0ffee", data_raw='{"train.csv": "12ab"}'),
    version(2, data_version="aacc", code_digest="c0de", data_raw='{"ingested/1": "12ff"}'),
    version(1, data_raw="nonsense"),
]


@pytest.mark.parametrize(
    ("filters", "numbers"),
    [
        ({}, [3, 2, 1]),
        ({"data": "aa"}, [3, 2]),
        ({"data": "aabb"}, [3]),
        ({"code": "c0"}, [3, 2]),
        ({"code": "c0ffee"}, [3]),
        ({"file": "12"}, [3, 2]),
        ({"file": "12FF"}, [2]),
        ({"file": "12", "data": "aabb"}, [3]),
        ({"file": "34"}, []),
    ],
)
def test_filter_by_data_code_or_table(filters: dict[str, str], numbers: list[int]) -> None:
    assert [v.version for v in filter_by_origin(VERSIONS, **filters)] == numbers


def test_flatten_tags_expands_json() -> None:
    tags = {"data.raw": '{"train.csv": "12ab", "n": 3}', "params": "{cut", "windows": "[]"}
    flat = flatten_tags(tags)
    assert flat == {"data.raw.n": "3", "data.raw.train.csv": "12ab", "params": "{cut"}
