"""Reweighting with a real MLflow server: same members, new tables, judged by the gate."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rossmann.cli import main
from rossmann.data.demo.write_tables import write_demo
from rossmann.data.make_dataset import current_dataset, make_dataset
from rossmann.data.panel.panel import open_panel
from rossmann.data.tables.ingest import ingest
from rossmann.errors import DataError, ModelError, VersionNotFoundError
from rossmann.filesystem.process_identity import ProcessIdentity
from rossmann.models.ensemble.artifact_files import CARD_FILE, member_files, read_card, sha256
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.gate.backtest_predictions import (
    PREDICTIONS_FILE,
    read_predictions,
    write_predictions,
)
from rossmann.models.gate.gate import compare_versions, load_predictions, validate
from rossmann.models.inference.row_warnings import training_span
from rossmann.models.members import LEARNERS
from rossmann.models.publishing.register import register
from rossmann.models.publishing.trained_model import OWNER_FILE, read_trained
from rossmann.models.registry.model_version import ModelVersion
from rossmann.models.registry.registry import Registry
from rossmann.models.training.retrain import RetrainOutcome, RetrainRequest, retrain
from rossmann.models.training.reweight import Reweighting, reweight
from rossmann.models.training.train import train
from rossmann.schema import Stage
from rossmann.settings import Settings, load_settings
from tests.fixtures.models import LENIENT_SETTINGS

NEW_DAYS = 65
"""Days that arrive after the training: two windows."""


class Chain:
    """A data folder whose last days are not ingested yet, and a model name on the shared server."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder, self.name = folder, f"reweight-{time.time_ns()}"
        self.changes = {**LENIENT_SETTINGS, "data_dir": str(folder), "mlflow_tracking_uri": uri}
        self.settings: Settings = load_settings(**self.changes)
        write_demo(self.settings.demo_raw_dir, seed=5, stores=14, days=400)
        path = self.settings.demo_raw_dir / "train.csv"
        table = pl.read_csv(path, infer_schema=False)
        cut = str(pl.Series(table["Date"]).str.to_date().max() - timedelta(days=NEW_DAYS))
        table.filter(pl.col("Date") <= cut).write_csv(path)
        table.filter(pl.col("Date") > cut).write_csv(folder / "new-days.csv")
        (self.settings.demo_raw_dir / "test.csv").unlink()
        self.registry = Registry(uri, self.name, timeout=30)

    def retrain(self, **changes: Any) -> RetrainOutcome:
        request = replace(RetrainRequest("quick", "scheduler", name=self.name), **changes)
        return retrain(self.settings, request).outcome

    def reweight(self, version: int | str, **changes: Any) -> Reweighting:
        return reweight(self.settings.model_copy(update=changes), version, name=self.name)

    def register(self, done: Reweighting) -> ModelVersion:
        assert done.trained is not None
        return register(done.trained, self.settings, self.name)

    def ingest(self) -> None:
        ingest(self.settings, self.folder / "new-days.csv")
        make_dataset(self.settings)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, mlflow_server: str) -> Iterator[Chain]:
    """A chain whose version 1 is in Production; the tests of this module add to it in order."""
    chain = Chain(tmp_path_factory.mktemp("reweight"), mlflow_server)
    assert chain.retrain(promote=True) is RetrainOutcome.STAGED
    yield chain
    chain.registry.close()


def no_fit(*arguments: object) -> None:
    raise AssertionError("a member was fitted")


def test_nothing_is_made_where_nothing_changes(chain: Chain) -> None:
    done = chain.reweight("Production")
    assert (done.source.version, done.recent_windows) == (1, 0)
    assert done.trained is None and done.registered is None
    assert done.tables.keys() == {"filter_weights", "intervals", "totals", "unbiased"}
    assert len(list((chain.folder / "trained").iterdir())) == 1


def test_another_parameter_alone_changes_the_tables(chain: Chain) -> None:
    done = chain.reweight(1, chain_floor=0.2)
    assert done.recent_windows == 0
    assert done.trained is not None
    before, after = done.card, done.trained.card
    assert after["totals"]["chain"]["lasting"] == pytest.approx(0.04)
    for key in ("intervals", "filter_weights", "weights", "data", "params", "files"):
        assert after[key] == before[key], key
    # as the gate takes it: registered, in Staging, then Production in place of version 1
    chain.register(done)
    chain.registry.stage(2)
    assert chain.retrain() is RetrainOutcome.NOTHING_NEW
    chain.registry.promote(2, "wider", "me")
    assert chain.retrain() is RetrainOutcome.NOTHING_NEW
    chain.registry.stage(1)
    assert chain.retrain(promote=True) is RetrainOutcome.NOTHING_NEW
    assert chain.registry.find("Production").version == 2
    assert chain.registry.rollback("too wide", "me").version == 1


@pytest.fixture(scope="module")
def done(chain: Chain) -> Reweighting:
    """Version 1 reweighted after new days arrived."""
    chain.ingest()
    with pytest.MonkeyPatch.context() as patch:
        for learner in LEARNERS.values():
            patch.setattr(learner, "fit", no_fit)
        return chain.reweight(1)


def test_members_are_the_same_and_tables_come_from_new_days(
    chain: Chain, done: Reweighting
) -> None:
    assert done.recent_windows == 2
    assert done.trained is not None
    source = chain.registry.fetch(1, chain.settings.model_cache_dir)
    assert member_files(done.trained.folder) == member_files(source)
    for file in member_files(source):
        assert (done.trained.folder / file).read_bytes() == (source / file).read_bytes()
    before, card = read_card(source), read_card(done.trained.folder)
    assert card == done.trained.card
    kept = set(before) - {"filter_weights", "intervals", "totals", "unbiased", "metrics", "recipe"}
    assert {key: card[key] for key in kept} == {key: before[key] for key in kept}
    for key in ("filter_weights", "intervals", "totals", "unbiased", "metrics", "recipe"):
        assert card[key] != before[key], key
    assert (
        card["filter_weights"]["windows"]["ordinary"]
        > (before["filter_weights"]["windows"]["ordinary"])
    )
    info = current_dataset(chain.settings)
    assert card["reweighted"]["from_version"] == 1
    assert card["reweighted"]["data_version"] == info.version != before["data"]["version"]
    assert card["reweighted"]["last_day"] == str(info.last_day)
    assert card["reweighted"]["recent_windows"] == 2
    assert card["metrics"]["age"] == before["metrics"]["age"]
    assert len(card["metrics"]["windows"]) == len(before["metrics"]["windows"]) + 2
    span = training_span(card, "demo")
    assert span == training_span(before, "demo")
    ages = [past["age_days"] for past in card["totals"]["past"]][-2:]
    assert ages == [5, 35]
    assert read_trained(done.trained.folder) == done.trained


def test_evidence_has_the_stored_windows_and_honest_recent_ones(
    chain: Chain, done: Reweighting
) -> None:
    assert done.trained is not None
    old = load_predictions(chain.registry, chain.registry.find(1), with_log_factors=True)
    new = read_predictions(done.trained.folder / PREDICTIONS_FILE, with_log_factors=True)
    *same, first, second = new.windows
    assert [w.origin for w in same] == [w.origin for w in old.windows]
    assert [w.origin for w in new.later] == [w.origin for w in old.later]
    for before, after in zip((*old.windows, *old.later), (*same, *new.later), strict=True):
        assert (before.log_factors["ensemble"] == after.log_factors["ensemble"]).all()
        assert (before.sold == after.sold).all()
    panel = open_panel(current_dataset(chain.settings))
    ensemble = Ensemble.load(done.trained.folder)
    trained_to = training_span(ensemble.card, "demo").last
    for window in (first, second):
        assert window.fit_day == trained_to < window.day.min()
        matrix = panel.matrix(panel.schedule(window.store, window.day), window.origin_day)
        factors = ensemble.log_factors(matrix)
        for number, name in enumerate(new.members):
            assert window.log_factors["ensemble"][number] == pytest.approx(factors[name], abs=1e-6)


def test_version_says_that_it_is_reweighted_and_the_gate_judges_it(
    chain: Chain, done: Reweighting, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    version = chain.register(done)
    assert version.tags["reweighted.from_version"] == "1"
    assert version.tags["reweighted.recent_windows"] == "2"
    assert version.tags["data.version"] == chain.registry.find(1).tags["data.version"]
    assert version.tags["recipe"] != chain.registry.find(1).tags["recipe"]
    assert version.tags["reweighted.recipe"] == chain.registry.find(1).tags["recipe"]
    assert "Reweighted: the members are those of version 1" in version.description
    verdict = validate(chain.registry, version.version, chain.settings)
    assert verdict.compared_to == 1
    checks = [result.check for result in verdict.results]
    windows = [w.origin for w in load_predictions(chain.registry, version).all_windows]
    assert {c for c in checks if "no worse than version 1" in c} == (
        {f"{origin}: no worse than version 1" for origin in windows}
    )
    compared = compare_versions(chain.registry, version, chain.registry.find(1))
    assert len(compared.windows) == len(windows) - 2 + 1  # and all of them together
    monkeypatch.setenv("ROSSMANN_MLFLOW_TRACKING_URI", chain.settings.tracking_uri)
    monkeypatch.setattr(Registry.from_settings.__func__, "__defaults__", (chain.name,))  # type: ignore[attr-defined]
    assert main(["models", "show", str(version.version)]) == 0
    assert "reweighted.from_version" in capsys.readouterr().out
    assert main(["models", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [re.split(r"  +", line.strip())[3] for line in (lines[1], lines[-1])] == [
        "quick, reweighted 1", "quick",
    ]  # fmt: skip


def test_the_same_reweighting_is_not_made_again(chain: Chain, done: Reweighting) -> None:
    latest = chain.registry.versions()[0].version
    again = chain.reweight(1)
    assert again.trained is None
    assert again.registered is not None and again.registered.version == latest
    assert again.recent_windows == 2
    of_itself = chain.reweight(latest)  # its recent windows are made anew, and are the same
    assert (of_itself.trained, of_itself.registered) == (None, None)
    assert of_itself.recent_windows == 2


def test_a_version_that_a_kill_left_unregistered_is_taken(chain: Chain) -> None:
    killed = chain.reweight(1, chain_floor=0.15)
    assert killed.trained is not None
    owner = json.loads(ProcessIdentity.current().to_json()) | {"started": "1"}
    (killed.trained.folder / OWNER_FILE).write_text(json.dumps(owner))
    again = chain.reweight(1, chain_floor=0.15)
    assert again.trained == killed.trained
    assert again.recent_windows == 2


def test_retraining_with_new_days_trains(chain: Chain, done: Reweighting) -> None:
    newest = chain.registry.versions()[0]
    assert "reweighted.from_version" in newest.tags
    chain.registry.promote(newest.version, "reweighted", "me")
    assert chain.retrain() in {RetrainOutcome.STAGED, RetrainOutcome.CANDIDATE_WORSE}
    latest = chain.registry.versions()[0]
    assert latest.version == newest.version + 1
    assert latest.tags["data.version"] == current_dataset(chain.settings).version
    assert "reweighted.from_version" not in latest.tags


def test_command_reports_what_was_learned(
    chain: Chain, done: Reweighting, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name, value in chain.changes.items():
        text = value if isinstance(value, str) else json.dumps(value)
        monkeypatch.setenv(f"ROSSMANN_{name.upper()}", text)
    monkeypatch.setenv("ROSSMANN_CHAIN_FLOOR", "0.2")
    settings = load_settings()
    version = register(read_trained(_first_folder(chain)), settings).version
    assert main(["reweight", str(version)]) == 0
    out = capsys.readouterr().out
    assert f"reweighted version {version} by its backtest and 2 recent windows" in out
    assert "weight of the filter, event days" in out
    assert f"next: rossmann validate {version + 1}" in out.splitlines()[-1]
    assert main(["reweight", str(version)]) == 0
    assert f"nothing new: version {version + 1} was made" in capsys.readouterr().out
    assert main(["reweight", str(version + 1)]) == 0
    assert "nothing changes" in capsys.readouterr().out
    assert main(["reweight", "99"]) == 1
    assert "no version 99" in capsys.readouterr().err


def _first_folder(chain: Chain) -> Path:
    return min((chain.folder / "trained").glob("2*"))


def test_errors_say_what_to_do(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(VersionNotFoundError):
        chain.reweight(99)
    folder = train(chain.settings, "quick").folder
    stored = read_predictions(folder / PREDICTIONS_FILE)  # without log factors
    write_predictions(folder, replace(stored, members=()))
    old = register(read_trained(folder), chain.settings, chain.name)
    assert old.stage is Stage.NONE
    with pytest.raises(ModelError, match=rf"version {old.version} was made by an earlier release"):
        chain.reweight(old.version)
    assert sha256(folder / CARD_FILE) == old.tags["digest.card"]
    other = chain.settings.model_copy(update={"data_dir": tmp_path})
    write_demo(other.demo_raw_dir, seed=9, stores=14, days=400)
    make_dataset(other)
    with pytest.raises(DataError, match="another chain"):
        reweight(other, 1, name=chain.name)
    assert not list(tmp_path.glob("trained/*"))
