"""Comparison of two versions: lineage differences and shared windows."""

import pytest

from rossmann.cli import main
from rossmann.models.gate.gate import compare_versions
from rossmann.models.publishing.register import register
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.models.registry.registry import Registry
from rossmann.settings import Settings


def test_comparison_has_lineage_and_shared_windows(
    trained: TrainedModel,
    chain_settings: Settings,
    mlflow_server: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = chain_settings.model_copy(update={"mlflow_tracking_uri": mlflow_server})
    name = "comparison-test"
    for _ in range(2):
        register(trained, settings, name)
    with Registry(mlflow_server, name) as registry:
        registry.promote(1, "the first", "anna")
        registry.set_tags(2, {"profile": "other"})
        one, two = registry.find(1), registry.find(2)
        comparison = compare_versions(registry, one, two)
        assert comparison.lineage == [("profile", "quick", "other")]
        *origins, together = [origin for origin, _ in comparison.windows]
        assert origins == sorted(origins) and together == "all windows"
        assert {str(w.origin) for w in trained.windows} <= set(origins)
        assert all(
            test.first_wape == test.second_wape and test.p_value == 1
            for _, test in comparison.windows
        )
        registry.set_tags(2, {"digest.evidence": "changed"})
        damaged = compare_versions(registry, one, registry.find(2))
        assert damaged.windows == []
        assert "was changed" in damaged.note
    for digest in trained.card["data"]["files"].values():
        assert digest in one.tags["data.raw"]
    monkeypatch.setenv("ROSSMANN_MLFLOW_TRACKING_URI", mlflow_server)
    monkeypatch.setattr(Registry.from_settings.__func__, "__defaults__", (name,))
    assert main(["models", "compare", "1", "2"]) == 0
    assert "not compared" in capsys.readouterr().out
    assert main(["models", "show", "1"]) == 0
    out = capsys.readouterr().out
    assert "promote 1, by anna: the first" in out
    assert "data.raw" in out
