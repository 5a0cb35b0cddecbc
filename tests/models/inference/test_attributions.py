"""Attribution of forecasts to drivers: factors multiply to the forecast and are plausible."""

from typing import Any

import numpy as np
import pytest

from rossmann.data.panel.panel import Panel
from rossmann.errors import CorruptModelError
from rossmann.features import state_space
from rossmann.features.offset_components import MEAN_WEEKDAY
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.inference import attributions
from rossmann.models.inference.attributions import DRIVER_LABELS, Attribution, attribute
from rossmann.models.members import LEARNERS
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.schema import FEATURES, OFFSET_COLUMN, FeatureMatrix, FloatArray, StoreDays


@pytest.fixture(scope="module")
def ensemble(trained: TrainedModel) -> Ensemble:
    return Ensemble.load(trained.folder)


@pytest.fixture(scope="module")
def rows(panel: Panel) -> StoreDays:
    """The schedule of 12 stores for the next 48 days."""
    days = np.arange(panel.last_day + 1, panel.last_day + 49)
    stores = panel.store_numbers[:12]
    return panel.schedule(np.repeat(stores, 48), np.tile(days, 12))


@pytest.fixture(scope="module")
def matrix(panel: Panel, rows: StoreDays) -> FeatureMatrix:
    return panel.matrix(rows, panel.last_day)


@pytest.fixture(scope="module")
def attribution(
    panel: Panel, rows: StoreDays, matrix: FeatureMatrix, ensemble: Ensemble
) -> Attribution:
    parts = panel.offset_components(rows, panel.last_day)
    return attribute(ensemble, matrix, parts, ensemble.predict(matrix))


def test_every_feature_and_component_has_a_driver() -> None:
    assert len(attributions.FEATURE_DRIVERS) == len(FEATURES)
    assert {state_space.LEVEL, *attributions.COMPONENT_DRIVERS} == set(range(state_space.N_BASE))
    assert {*attributions.FEATURE_DRIVERS, *attributions.COMPONENT_DRIVERS.values()} == set(
        DRIVER_LABELS
    )


@pytest.mark.parametrize("name", LEARNERS)
def test_contributions_of_a_member_sum_to_its_log_factor(
    ensemble: Ensemble, matrix: FeatureMatrix, name: str
) -> None:
    with_nan = matrix.copy()
    with_nan[np.random.default_rng(1).random(with_nan.shape) < 0.2] = np.nan
    member = ensemble.members[name]
    for features in (matrix, with_nan):
        parts = member.contributions(features, 1)
        assert parts.shape == (len(features), len(FEATURES) + 1)
        assert np.abs(parts.sum(axis=1) - np.log(member.factor(features, 1))).max() < 2e-6
        assert (parts[:, OFFSET_COLUMN] == 0).all()
        assert np.ptp(parts[:, -1]) == 0


def test_drivers_multiply_to_the_served_forecast(
    attribution: Attribution, ensemble: Ensemble, matrix: FeatureMatrix
) -> None:
    assert list(attribution.factors) == list(DRIVER_LABELS)
    assert attribution.product() == pytest.approx(ensemble.predict(matrix), rel=1e-12)


def test_baseline_differs_from_the_components_by_rounding_only(
    attribution: Attribution,
    panel: Panel,
    rows: StoreDays,
    ensemble: Ensemble,
    matrix: FeatureMatrix,
) -> None:
    parts = panel.offset_components(rows, panel.last_day)
    start = ensemble.contributions(matrix)[:, -1]
    plain = parts[:, state_space.LEVEL] + parts[:, MEAN_WEEKDAY] + start
    assert np.abs(np.log(attribution.baseline) - plain).max() < 1e-5


def test_sales_amounts_sum_to_the_forecast(attribution: Attribution) -> None:
    amounts = attribution.sales_amounts()
    total = np.sum(list(amounts.values()), axis=0)
    assert attribution.baseline + total == pytest.approx(attribution.product(), rel=1e-9)
    for name, factor in attribution.factors.items():
        assert ((amounts[name] > 0) == (factor > 1)).all()


def test_drivers_of_the_demo_chain_are_plausible(attribution: Attribution, rows: StoreDays) -> None:
    """Promotions raise sales, the horizon has little effect, a store has one baseline."""
    promotion = attribution.factors["promotion"]
    assert (promotion[rows.promo > 0] > 1.05).all()
    assert promotion[rows.promo > 0].min() > promotion[rows.promo == 0].max()
    assert np.abs(np.log(attribution.factors["horizon"])).max() < 0.1
    for store in np.unique(rows.store):
        selected = attribution.baseline[rows.store == store]
        assert selected.max() / selected.min() == pytest.approx(1, abs=1e-4)


def test_weekday_effects_cancel_out_over_a_week(
    attribution: Attribution, rows: StoreDays, panel: Panel
) -> None:
    """The filter's effects of Monday to Saturday; the driver has its maximum on the same day."""
    parts = panel.offset_components(rows, panel.last_day)
    weekday = (rows.day + 3) % 7 + 1
    effects = parts[:, 1:8].sum(axis=1) - parts[:, -1]
    for store in np.unique(rows.store):
        selected = [effects[(rows.store == store) & (weekday == k)][0] for k in range(1, 7)]
        assert sum(selected) == pytest.approx(0, abs=1e-6)
    by_driver = [np.mean(attribution.factors["weekday"][weekday == k]) for k in range(1, 7)]
    by_filter = [np.mean(np.exp(effects[weekday == k])) for k in range(1, 7)]
    assert int(np.argmax(by_driver)) == int(np.argmax(by_filter))


def test_new_store_has_no_member_contributions(
    panel: Panel, rows: StoreDays, matrix: FeatureMatrix, ensemble: Ensemble
) -> None:
    """Its forecast is the filter's alone."""
    new_store = matrix.copy()
    new_store[:, FEATURES.index("open_days_365")] = 3
    assert (ensemble.contributions(new_store) == 0).all()
    parts = panel.offset_components(rows, panel.last_day)
    result = attribute(ensemble, new_store, parts, ensemble.predict(new_store))
    assert result.product() == pytest.approx(
        np.exp(new_store[:, OFFSET_COLUMN].astype(float)), rel=1e-9
    )
    assert (result.factors["horizon"] == 1).all() and (result.factors["store"] == 1).all()


def test_attribution_of_a_row_is_independent_of_other_rows(
    attribution: Attribution, panel: Panel, rows: StoreDays, ensemble: Ensemble
) -> None:
    sample = rows.take(np.random.default_rng(2).permutation(len(rows))[:7])
    indices = [int(np.flatnonzero((rows.store == s) & (rows.day == d))[0])
             for s, d in zip(sample.store, sample.day, strict=True)]  # fmt: skip
    matrix = panel.matrix(sample, panel.last_day)
    parts = panel.offset_components(sample, panel.last_day)
    again = attribute(ensemble, matrix, parts, ensemble.predict(matrix))
    for name, factor in again.factors.items():
        assert factor == pytest.approx(attribution.factors[name][indices], rel=1e-6)


def test_contributions_that_miss_the_forecast_raise(
    panel: Panel, rows: StoreDays, matrix: FeatureMatrix, ensemble: Ensemble
) -> None:
    class WrongEnsemble:
        def contributions(self, matrix: FeatureMatrix, *_: object) -> FloatArray:
            return ensemble.contributions(matrix) * 1.01

    parts: Any = panel.offset_components(rows, panel.last_day)
    with pytest.raises(CorruptModelError, match="drivers miss"):
        attribute(WrongEnsemble(), matrix, parts, ensemble.predict(matrix))


def test_no_rows_give_no_drivers(
    panel: Panel, rows: StoreDays, matrix: FeatureMatrix, ensemble: Ensemble
) -> None:
    none = rows.take(slice(0, 0))
    result = attribute(
        ensemble, matrix[:0], panel.offset_components(none, panel.last_day), np.empty(0)
    )
    assert result.baseline.shape == (0,)
