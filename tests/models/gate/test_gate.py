"""The gate: checks against the baseline, Production and the service, and the stored verdict."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from rossmann.data.panel.panel import Panel
from rossmann.errors import (
    CorruptModelError,
    DataError,
    GateRejectedError,
    ServiceError,
    VersionNotFoundError,
)
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.gate.accuracy_checks import (
    ProductionVersion,
    checks_against_baseline,
    checks_against_production,
    coverage_and_bias_checks,
)
from rossmann.models.gate.backtest_predictions import (
    PREDICTIONS_FILE,
    BacktestPredictions,
    WindowPredictions,
    read_predictions,
)
from rossmann.models.gate.gate import (
    _forecast_by_production,
    _GateContext,
    _production_checks,
    load_predictions,
    validate,
)
from rossmann.models.gate.sanity_checks import ServiceCheck, check_service, run_sanity_checks
from rossmann.models.gate.verdict import CheckResult, Verdict, at_least, at_most
from rossmann.models.inference.forecaster import Forecast, Forecaster, ForecastRequest
from rossmann.models.publishing.register import register
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.models.registry.model_version import ModelVersion
from rossmann.models.registry.registry import Registry
from rossmann.schema import Dataset, FeatureMatrix, FloatArray, StoreDays
from rossmann.settings import Settings, load_settings

LIMITS = load_settings(data_dir="nowhere")
NAME = "gate-test"


def window(
    sd: float, seed: int = 1, first_day: int = 16_000, naive: float = 0.2, stores: int = 50
) -> WindowPredictions:
    """Forecasts with an error of about ``sd``, of sales that do not depend on the seed."""
    store, day = np.repeat(np.arange(stores), 48), np.tile(first_day + np.arange(48), stores)
    sold = 4000.0 + 37 * (store % 11) + day % 7 * 100
    rng = np.random.default_rng([seed, first_day])
    forecast = sold * np.exp(rng.normal(0, sd, len(sold)))
    other = sold * np.exp(rng.normal(0, naive, len(sold)))
    return WindowPredictions(f"day {first_day}", 48, store, day, sold, forecast, other)


def predictions_of(*windows: WindowPredictions) -> BacktestPredictions:
    return BacktestPredictions(windows, {w.origin: {"0.80": 0.79, "0.95": 0.96} for w in windows})


def fail_if_called(rows: WindowPredictions) -> FloatArray:
    raise AssertionError("nothing to score")


def compare(
    candidate: BacktestPredictions,
    production: BacktestPredictions | None,
    last_day: int | None = 16_047,
) -> list[CheckResult]:
    version = ProductionVersion("version 1", production, last_day, fail_if_called)
    return checks_against_production(candidate, version, LIMITS)


def failed(verdict: Verdict) -> list[str]:
    return [line.check for line in verdict.results if not line.passed]


def passes(lines: list[CheckResult]) -> list[bool]:
    return [line.passed for line in lines]


def test_seasonal_naive_must_be_beaten_significantly() -> None:
    noisy = window(0.2, seed=5)
    same = replace(noisy, naive=noisy.forecast.copy())
    lines = checks_against_baseline([window(0.10), window(0.30), same], LIMITS)
    assert passes(lines) == [True, False, False]


def test_equally_good_versions_rarely_pass() -> None:
    """Versions as good as Production pass about as rarely as the limit says."""
    production = predictions_of(window(0.1, seed=0), window(0.1, seed=0, first_day=15_000))
    passed = 0
    for seed in range(1, 41):
        lines = compare(
            predictions_of(window(0.1, seed), window(0.1, seed, first_day=15_000)), production
        )
        passed += lines[-1].passed
    assert passed <= 8


def test_identical_forecasts_do_not_pass() -> None:
    predictions = predictions_of(window(0.1))
    *windows, all_windows = compare(predictions, predictions)
    assert passes(windows) == [True]
    assert not all_windows.passed
    assert "p = 1.0000" in all_windows.note


def test_a_better_version_passes_and_a_worse_one_fails() -> None:
    good, bad = predictions_of(window(0.1)), predictions_of(window(0.12, seed=2))
    assert all(passes(compare(good, bad)))
    assert not any(passes(compare(bad, good)))


def test_a_gain_in_one_window_does_not_offset_a_loss_in_another() -> None:
    production = predictions_of(window(0.2), window(0.1, first_day=15_000))
    candidate = predictions_of(window(0.1, 2), window(0.11, 2, first_day=15_000))
    assert passes(compare(candidate, production)) == [False, True, False]


def test_days_with_corrected_sales_are_excluded() -> None:
    production, candidate = window(0.12, seed=2), window(0.1)
    sold = candidate.sold.copy()
    sold[:300] *= 1.5  # corrected after Production was trained
    lines = compare(predictions_of(replace(candidate, sold=sold)), predictions_of(production))
    assert all(passes(lines))
    assert lines[0].value == pytest.approx(0.08, abs=0.005)


def test_versions_of_different_chains_are_not_compared() -> None:
    candidate = window(0.15)
    other = replace(window(0.1), sold=window(0.1).sold * 1.01)
    for replaceable in (True, False):
        production = ProductionVersion(
            "1", predictions_of(other), 16_047, fail_if_called, replaceable
        )
        (line,) = checks_against_production(predictions_of(candidate), production, LIMITS)
        assert line.passed is replaceable
        assert "another chain" in line.note


def test_production_is_scored_on_days_after_its_training_data() -> None:
    old = predictions_of(window(0.1, first_day=15_980))
    for error, passed in ((0.15, True), (0.1, True), (0.05, False)):
        scored: list[WindowPredictions] = []

        def score(
            rows: WindowPredictions, error: float = error, scored: list = scored
        ) -> FloatArray:
            scored.append(rows)
            return rows.sold * (1 + error)

        candidate = window(0.0)
        candidate = replace(candidate, forecast=candidate.sold * 1.1)
        production = ProductionVersion("version 1", old, 16_027, score)
        (line,) = checks_against_production(predictions_of(candidate), production, LIMITS)
        assert line.passed is passed
        assert scored[0].day.min() == 16_028
        assert len(scored[0].sold) == 20 * 50


@pytest.mark.parametrize(
    ("last_day", "note"), [(16_043, "4 days"), (99_999, "0 days"), (None, "not known")]
)
def test_too_few_days_after_the_training_data_fail(last_day: int | None, note: str) -> None:
    for production in (None, predictions_of(window(0.1, first_day=15_980))):
        (line,) = compare(predictions_of(window(0.01)), production, last_day)
        assert not line.passed
        assert note in line.note


def test_coverage_and_bias_have_limits() -> None:
    good = predictions_of(window(0.1))
    assert all(passes(coverage_and_bias_checks(good, LIMITS)))
    narrow = BacktestPredictions(good.windows, {good.windows[0].origin: {"0.80": 0.6, "0.95": 0.9}})
    assert passes(coverage_and_bias_checks(narrow, LIMITS)) == [False, True, True]
    assert passes(coverage_and_bias_checks(BacktestPredictions(good.windows, {}), LIMITS)) == [
        False,
        False,
        True,
    ]
    high = replace(good.windows[0], forecast=good.windows[0].forecast * 1.1)
    assert passes(coverage_and_bias_checks(predictions_of(high), LIMITS)) == [True, True, False]


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_non_finite_values_fail(value: float | None) -> None:
    assert not at_most("x", value, 1).passed
    assert not at_least("x", value, -1).passed
    bad = window(0.1)
    bad.forecast[3] = math.nan if value is None else value
    assert passes(checks_against_baseline([bad], LIMITS)) == [False]
    assert not any(passes(compare(predictions_of(bad), predictions_of(window(0.2)))))


def test_verdict_without_checks_fails() -> None:
    assert not Verdict(1, None, []).passed


def test_verdict_table_has_values_limits_and_results() -> None:
    verdict = Verdict(3, 1, [at_most("error", 0.0912, 0.1), at_least("rows", 1234, 2000, "slow")])
    first, second = verdict.table().splitlines()[1:]
    assert first.split() == ["error", "0.0912", "0.1000", "passed"]
    assert second.split() == ["rows", "1,234", "2,000", "FAILED", "(slow)"]
    with pytest.raises(GateRejectedError, match="version 3") as error:
        verdict.raise_if_failed()
    assert verdict.table() in str(error.value)


@pytest.fixture(scope="module")
def gate_settings(
    chain_settings: Settings, each_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    # A small chain and a few small trees: intervals are less accurate.
    changed = {"mlflow_tracking_uri": each_server, "gate_coverage": 0.2}
    return chain_settings.model_copy(update=changed)


@pytest.fixture(scope="module")
def registry(gate_settings: Settings, trained: TrainedModel) -> Iterator[Registry]:
    """Version 1: the small trained model."""
    register(trained, gate_settings, NAME)
    with Registry(gate_settings.tracking_uri, NAME) as registry:
        yield registry


def test_a_trained_version_passes_and_stores_the_verdict_as_tags(
    registry: Registry, gate_settings: Settings
) -> None:
    verdict = validate(registry, 1, gate_settings)
    assert verdict.passed, verdict.table()
    assert len(verdict.results) == 2 + 6 + 7
    tags = registry.find(1).tags
    assert tags["gate.passed"] == "true"
    assert [line["check"] for line in json.loads(tags["gate.table"])] == [
        line.check for line in verdict.results
    ]
    with pytest.raises(VersionNotFoundError):
        validate(registry, 9, gate_settings)


def test_a_copy_of_the_production_version_is_rejected(
    registry: Registry, gate_settings: Settings, trained: TrainedModel
) -> None:
    registry.promote(1, "first", "me")
    assert validate(registry, 1, gate_settings).compared_to is None  # not with itself
    again = register(trained, gate_settings, NAME).version
    verdict = validate(registry, again, gate_settings)
    assert verdict.compared_to == 1
    assert failed(verdict) == ["all windows: better than version 1"]
    assert registry.find(again).tags["gate.passed"] == "false"


def changed_tags(registry: Registry, version: int, **tags: object) -> ModelVersion:
    registered = registry.find(version)
    return replace(
        registered,
        tags={**registered.tags, **{k.replace("_", "."): str(v) for k, v in tags.items()}},
    )


@pytest.mark.parametrize(
    ("dataset", "production_dataset", "demo", "passed"),
    [
        (Dataset.REAL.value, "demo", False, True),  # the real chain follows the demo
        ("demo", Dataset.REAL.value, True, True),  # requested
        ("demo", Dataset.REAL.value, False, False),  # the real tables are missing
    ],
)
def test_a_demo_version_replaces_a_real_one_only_with_the_demo_setting(
    registry: Registry,
    gate_settings: Settings,
    dataset: str,
    production_dataset: str,
    demo: bool,
    passed: bool,
) -> None:
    settings = gate_settings.model_copy(update={"demo": demo})
    context = _GateContext(registry, settings, lambda chain: pytest.fail("nothing to open"))
    candidate = changed_tags(registry, 1, data_dataset=dataset)
    production = replace(changed_tags(registry, 1, data_dataset=production_dataset), version=7)
    (line,) = _production_checks(context, candidate, predictions_of(), production)
    assert line.check == "against version 7"
    assert line.passed is passed
    assert ("ROSSMANN_DEMO" in line.note) is not passed


def test_tables_that_end_before_the_windows_raise_an_error(
    registry: Registry, gate_settings: Settings, panel: Panel
) -> None:
    """Production must forecast days after the end of the local tables."""
    context = _GateContext(registry, gate_settings, lambda chain: panel)
    later = replace(window(0.1, stores=3), origin="2031-01-01")
    later.store[:] = panel.store_numbers[0]
    with pytest.raises(DataError, match="do not reach"):
        _forecast_by_production(context, registry.find(1), "demo", later)


class _ChangedForecaster(Forecaster):
    """The serving forecaster with changed sales: ``change`` maps (rows, sales) to sales."""

    def __init__(
        self,
        panel: Panel,
        ensemble: Ensemble,
        change: Callable[[StoreDays, FloatArray], FloatArray],
    ) -> None:
        super().__init__(panel, ensemble)
        self._change = change

    def forecast(self, request: ForecastRequest) -> Forecast:
        forecast = super().forecast(request)
        return replace(forecast, sales=self._change(request.rows, forecast.sales))


def test_gate_detects_a_forecaster_that_differs_from_its_model(
    trained: TrainedModel, panel: Panel
) -> None:
    ensemble = Ensemble.load(trained.folder)
    stores = panel.store_numbers[:20]
    rows = panel.schedule(stores, np.full(len(stores), panel.last_day + 1, np.int32))
    rows = replace(rows, open=np.ones(len(rows), np.uint8))
    sales = ensemble.predict(panel.matrix(rows, panel.last_day))

    def check(change: Callable[[StoreDays, FloatArray], FloatArray]) -> ServiceCheck:
        return check_service(_ChangedForecaster(panel, ensemble, change), rows, sales)

    correct = check_service(Forecaster(panel, ensemble), rows, sales)
    assert correct.max_closed_sales == 0
    assert correct.max_difference < 1e-9
    always_open = check(
        lambda requested, _: ensemble.predict(panel.matrix(requested, panel.last_day))
    )
    assert always_open.max_closed_sales > 100
    shifted = check(lambda _, served: served * 1.001)
    assert shifted.max_closed_sales == 0
    assert shifted.max_difference == pytest.approx(0.001, rel=1e-3)
    assert math.isnan(check(lambda _, served: served[1:]).max_closed_sales)


def test_an_interrupted_validation_replaces_the_old_verdict(
    registry: Registry, gate_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.set_tags(1, {"gate.passed": "true"})

    def fail(*arguments: object) -> None:
        raise ServiceError("unreachable")

    monkeypatch.setattr("rossmann.models.gate.gate.load_predictions", fail)
    with pytest.raises(ServiceError):
        validate(registry, 1, gate_settings)
    assert registry.find(1).tags["gate.passed"] == "unfinished"


def test_missing_data_fails_the_sanity_checks(
    registry: Registry, gate_settings: Settings, tmp_path: Path
) -> None:
    without_data = gate_settings.model_copy(update={"data_dir": tmp_path})
    assert failed(validate(registry, 1, without_data)) == ["sanity probes"]


def test_sanity_checks_apply_their_limits(registry: Registry, gate_settings: Settings) -> None:
    strict = {"gate_rows_per_second": 1e12, "gate_size_mb": 1e-6, "gate_record": 0.01}
    strict_settings = gate_settings.model_copy(update={**strict, "gate_promotion": 9})
    assert failed(validate(registry, 1, strict_settings)) == [
        "a promotion raises the chain's sales by",
        "highest forecast over its store's record",
        "rows per second",
        "megabytes",
    ]


def test_missing_or_changed_predictions_fail(
    registry: Registry,
    gate_settings: Settings,
    trained: TrainedModel,
    stored_artifact: Callable[[str], Path],
) -> None:
    version = registry.find(1)
    assert len(load_predictions(registry, version).windows) == 2
    bare = replace(version, tags={k: v for k, v in version.tags.items() if "evidence" not in k})
    with pytest.raises(CorruptModelError, match="no record"):
        load_predictions(registry, bare)
    changed = register(trained, gate_settings, NAME)
    with httpx.Client(base_url=gate_settings.tracking_uri, timeout=30, trust_env=False) as client:
        run = client.get("/api/2.0/mlflow/runs/get", params={"run_id": changed.run_id}).json()
        root = run["run"]["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/")
    file = stored_artifact(f"{root}/{PREDICTIONS_FILE}")
    assert file.stat().st_size > 0
    file.write_bytes(b"better figures")
    lines = validate(registry, changed.version, gate_settings).results
    assert not lines[0].passed
    assert "was changed" in lines[0].note


def test_sanity_checks_detect_a_version_that_ignores_promotions(
    trained: TrainedModel, panel: Panel
) -> None:
    class ConstantEnsemble(Ensemble):
        def predict(self, matrix: FeatureMatrix, threads: int = 1) -> FloatArray:
            return np.full(len(matrix), 1e6)

    ensemble = Ensemble.load(trained.folder)
    result = run_sanity_checks(panel, ensemble, trained.folder, 1)
    assert result.promotion_uplift > 0.05
    assert 0 < result.max_record_ratio < 3
    constant = run_sanity_checks(
        panel, ConstantEnsemble(ensemble.members, ensemble.card), trained.folder, 1
    )
    assert constant.promotion_uplift < 0.01
    assert constant.max_record_ratio > 3


def test_predictions_are_downloaded_as_logged(registry: Registry, trained: TrainedModel) -> None:
    logged = load_predictions(registry, registry.find(1))
    local = read_predictions(trained.folder / PREDICTIONS_FILE)
    assert np.array_equal(logged.windows[0].forecast, local.windows[0].forecast)
