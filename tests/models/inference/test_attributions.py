"""Drivers multiply to the forecast, and say what a planner would."""

from typing import Any

import numpy as np
import pytest

from rossmann.data.panel.panel import Panel
from rossmann.errors import CorruptModelError
from rossmann.features import state_space
from rossmann.features.offset_components import MEAN_WEEKDAY
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.inference import attributions as drivers
from rossmann.models.inference.attributions import DRIVER_LABELS, Attribution, attribute
from rossmann.models.members import LEARNERS
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.schema import FEATURES, OFFSET_COLUMN, FeatureMatrix, FloatArray, StoreDays


@pytest.fixture(scope="module")
def ensemble(trained: TrainedModel) -> Ensemble:
    return Ensemble.load(trained.folder)


@pytest.fixture(scope="module")
def rows(panel: Panel) -> StoreDays:
    """The next 48 days of 12 stores, as planned."""
    days = np.arange(panel.last_day + 1, panel.last_day + 49)
    stores = panel.store_numbers[:12]
    return panel.schedule(np.repeat(stores, 48), np.tile(days, 12))


@pytest.fixture(scope="module")
def matrix(panel: Panel, rows: StoreDays) -> FeatureMatrix:
    return panel.matrix(rows, panel.last_day)


@pytest.fixture(scope="module")
def found(panel: Panel, rows: StoreDays, matrix: FeatureMatrix, ensemble: Ensemble) -> Attribution:
    parts = panel.offset_components(rows, panel.last_day)
    return attribute(ensemble, matrix, parts, ensemble.predict(matrix))


def test_every_feature_and_component_has_a_driver() -> None:
    assert len(drivers.FEATURE_DRIVERS) == len(FEATURES)
    assert {state_space.LEVEL, *drivers.COMPONENT_DRIVERS} == set(range(state_space.N_BASE))
    assert {*drivers.FEATURE_DRIVERS, *drivers.COMPONENT_DRIVERS.values()} == set(DRIVER_LABELS)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_members_contributions_sum_to_its_log_factor(
    ensemble: Ensemble, matrix: FeatureMatrix, name: str
) -> None:
    holed = matrix.copy()
    holed[np.random.default_rng(1).random(holed.shape) < 0.2] = np.nan
    member = ensemble.members[name]
    for given in (matrix, holed):
        parts = member.contributions(given, 1)
        assert parts.shape == (len(given), len(FEATURES) + 1)
        assert np.abs(parts.sum(axis=1) - np.log(member.factor(given, 1))).max() < 2e-6
        assert (parts[:, OFFSET_COLUMN] == 0).all()
        assert np.ptp(parts[:, -1]) == 0


def test_drivers_multiply_to_the_served_forecast(
    found: Attribution, ensemble: Ensemble, matrix: FeatureMatrix
) -> None:
    assert list(found.factors) == list(DRIVER_LABELS)
    assert found.product() == pytest.approx(ensemble.predict(matrix), rel=1e-12)


def test_rounding_alone_goes_into_the_baseline(
    found: Attribution, panel: Panel, rows: StoreDays, ensemble: Ensemble, matrix: FeatureMatrix
) -> None:
    parts = panel.offset_components(rows, panel.last_day)
    start = ensemble.contributions(matrix)[:, -1]
    plain = parts[:, state_space.LEVEL] + parts[:, MEAN_WEEKDAY] + start
    assert np.abs(np.log(found.baseline) - plain).max() < 1e-5


def test_amounts_add_up(found: Attribution) -> None:
    amounts = found.sales_amounts()
    total = np.sum(list(amounts.values()), axis=0)
    assert found.baseline + total == pytest.approx(found.product(), rel=1e-9)
    for name, factor in found.factors.items():
        assert ((amounts[name] > 0) == (factor > 1)).all()


def test_what_a_planner_would_say(found: Attribution, rows: StoreDays) -> None:
    """The demo chain: promotions and Mondays sell more, all else moves a plain day less."""
    promotion = found.factors["promotion"]
    assert (promotion[rows.promo > 0] > 1.05).all()
    assert promotion[rows.promo > 0].min() > promotion[rows.promo == 0].max()
    assert np.abs(np.log(found.factors["horizon"])).max() < 0.1
    for store in np.unique(rows.store):
        mine = found.baseline[rows.store == store]
        assert mine.max() / mine.min() == pytest.approx(1, abs=1e-4)


def test_the_weekday_is_told_from_the_plain_day(
    found: Attribution, rows: StoreDays, panel: Panel
) -> None:
    """Over a store's Mondays to Saturdays the filter's weekday effects cancel out."""
    parts = panel.offset_components(rows, panel.last_day)
    weekday = (rows.day + 3) % 7 + 1
    effects = parts[:, 1:8].sum(axis=1) - parts[:, -1]
    for store in np.unique(rows.store):
        mine = [effects[(rows.store == store) & (weekday == k)][0] for k in range(1, 7)]
        assert sum(mine) == pytest.approx(0, abs=1e-6)
    best = [np.mean(found.factors["weekday"][weekday == k]) for k in range(1, 7)]
    told = [np.mean(np.exp(effects[weekday == k])) for k in range(1, 7)]
    assert int(np.argmax(best)) == int(np.argmax(told))


def test_a_new_store_is_driven_by_the_filter_alone(
    panel: Panel, rows: StoreDays, matrix: FeatureMatrix, ensemble: Ensemble
) -> None:
    """Where members are not heard, their contributions are nothing."""
    young = matrix.copy()
    young[:, FEATURES.index("open_days_365")] = 3
    assert (ensemble.contributions(young) == 0).all()
    parts = panel.offset_components(rows, panel.last_day)
    told = attribute(ensemble, young, parts, ensemble.predict(young))
    assert told.product() == pytest.approx(np.exp(young[:, OFFSET_COLUMN].astype(float)), rel=1e-9)
    assert (told.factors["horizon"] == 1).all() and (told.factors["store"] == 1).all()


def test_a_row_is_split_the_same_in_any_company(
    found: Attribution, panel: Panel, rows: StoreDays, ensemble: Ensemble
) -> None:
    some = rows.take(np.random.default_rng(2).permutation(len(rows))[:7])
    where = [int(np.flatnonzero((rows.store == s) & (rows.day == d))[0])
             for s, d in zip(some.store, some.day, strict=True)]  # fmt: skip
    matrix = panel.matrix(some, panel.last_day)
    parts = panel.offset_components(some, panel.last_day)
    again = attribute(ensemble, matrix, parts, ensemble.predict(matrix))
    for name, factor in again.factors.items():
        assert factor == pytest.approx(found.factors[name][where], rel=1e-6)


def test_more_than_rounding_is_refused(
    panel: Panel, rows: StoreDays, matrix: FeatureMatrix, ensemble: Ensemble
) -> None:
    class Liar:
        def contributions(self, matrix: FeatureMatrix, threads: int = 1) -> FloatArray:
            return ensemble.contributions(matrix) * 1.01

    parts: Any = panel.offset_components(rows, panel.last_day)
    with pytest.raises(CorruptModelError, match="drivers miss"):
        attribute(Liar(), matrix, parts, ensemble.predict(matrix))


def test_no_rows_no_drivers(
    panel: Panel, rows: StoreDays, matrix: FeatureMatrix, ensemble: Ensemble
) -> None:
    none = rows.take(slice(0, 0))
    told = attribute(
        ensemble, matrix[:0], panel.offset_components(none, panel.last_day), np.empty(0)
    )
    assert told.baseline.shape == (0,)
