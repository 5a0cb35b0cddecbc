"""Totals: sums of the served forecasts, with intervals from the version's card."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from rossmann.data.panel.panel import Panel
from rossmann.errors import CorruptModelError
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.ensemble.prediction_intervals import CENTRAL
from rossmann.models.inference.forecaster import Forecaster, ForecastRequest
from rossmann.models.inference.totals import TOTAL_LEVELS, Totals, forecast_totals
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.schema import STORE_TYPES, FloatArray, Objective, StoreDays


def _totals(
    panel: Panel,
    ensemble: Ensemble,
    rows: StoreDays,
    by: Sequence[str],
    levels: tuple[float, ...] = (),
    objective: Objective = "accuracy",
    quantiles: tuple[float, ...] = (),
) -> list[Totals]:
    request = ForecastRequest(rows, None, levels, objective, quantiles)
    return forecast_totals(Forecaster(panel, ensemble), request, panel.last_day, by)


@pytest.fixture(scope="module")
def ensemble(trained: TrainedModel) -> Ensemble:
    return Ensemble.load(trained.folder)


@pytest.fixture(scope="module")
def rows(panel: Panel) -> StoreDays:
    """The schedule of every store for three weeks."""
    stores = np.repeat(panel.store_numbers, 21)
    days = np.tile(np.arange(panel.last_day + 1, panel.last_day + 22), len(panel.store_numbers))
    return panel.schedule(stores, days)


def test_totals_are_sums_of_the_served_forecasts(
    panel: Panel, ensemble: Ensemble, rows: StoreDays
) -> None:
    served = Forecaster(panel, ensemble).forecast(ForecastRequest(rows)).sales
    for totals in _totals(panel, ensemble, rows, TOTAL_LEVELS, (0.8, 0.95)):
        assert totals.sales.sum() == pytest.approx(served.sum())
        assert totals.rows.sum() == len(rows)
        (low, high), (lower, higher) = totals.intervals
        assert (lower <= low).all()
        assert (low <= totals.sales).all()
        assert (totals.sales <= high).all()
        assert (high <= higher).all()
        for g in range(len(totals.sales)):
            selected = (rows.day >= totals.first[g]) & (rows.day <= totals.last[g])
            if totals.store[g] >= 0:
                selected &= rows.store == totals.store[g]
                assert totals.sales[g] == pytest.approx(served[selected].sum())
            elif totals.by.startswith("chain"):
                assert totals.store_type[g] == -1
                assert totals.sales[g] == pytest.approx(served[selected].sum())
            else:
                assert 0 <= totals.store_type[g] < len(STORE_TYPES)
            if totals.by.endswith("_week"):
                assert (totals.first[g] + 3) // 7 == (totals.last[g] + 3) // 7


def test_larger_totals_have_relatively_narrower_intervals(
    panel: Panel, ensemble: Ensemble, rows: StoreDays
) -> None:
    week, store, chain = (
        np.mean((t.intervals[0][1] - t.intervals[0][0]) / t.sales)
        for t in _totals(panel, ensemble, rows, ("store_week", "store", "chain"), (0.8,))
    )
    assert chain < store < week


def test_unbiased_totals_lie_in_their_intervals(
    panel: Panel, ensemble: Ensemble, rows: StoreDays
) -> None:
    card = {**ensemble.card, "unbiased": {"factors": [1.5, 1.5]}}
    raised = Ensemble(ensemble.members, card)
    (plain,) = _totals(panel, raised, rows, ["chain"], (0.8,))
    (unbiased,) = _totals(panel, raised, rows, ["chain"], (0.8,), "unbiased")
    assert unbiased.sales == pytest.approx(1.5 * plain.sales)
    assert unbiased.intervals[0][1] >= unbiased.sales
    assert unbiased.intervals[0][0] == pytest.approx(plain.intervals[0][0])


def test_quantiles_of_totals_are_their_bounds_and_the_same_for_both_objectives(
    panel: Panel, ensemble: Ensemble, rows: StoreDays
) -> None:
    quantiles = (0.1, 0.3, 0.5, 0.6, 0.9)
    plain, unbiased = (
        _totals(panel, ensemble, rows, TOTAL_LEVELS, (0.8,), objective, quantiles)
        for objective in ("accuracy", "unbiased")
    )
    for totals, other in zip(plain, unbiased, strict=True):
        (lower, upper), values = totals.intervals[0], np.array(totals.quantiles)
        assert (values[0] == lower).all() and (values[-1] == upper).all()
        assert (values[2] == totals.sales).all()
        assert (np.diff(values, axis=0) > 0).all()
        assert (np.array(other.quantiles) == values).all()
        assert not (other.sales == totals.sales).all()


def test_versions_of_earlier_releases_have_quantiles(
    panel: Panel, ensemble: Ensemble, rows: StoreDays
) -> None:
    """Their tables have nothing below level .5."""
    card = dict(ensemble.card)
    for name in ("intervals", "totals"):
        card[name] = {key: value for key, value in card[name].items() if key != CENTRAL}
    old, quantiles = Ensemble(ensemble.members, card), (0.1, 0.4, 0.5, 0.75)

    def values_of(version: Ensemble) -> list[FloatArray]:
        request = ForecastRequest(rows, quantiles=quantiles)
        forecast = Forecaster(panel, version).forecast(request)
        totals = _totals(panel, version, rows, ["store", "chain"], quantiles=quantiles)
        return [np.array([q.sales for q in forecast.quantiles])[:, rows.open == 1]] + [
            np.array(one.quantiles) for one in totals
        ]

    for new, earlier in zip(values_of(ensemble), values_of(old), strict=True):
        assert (new[[0, 2, 3]] == earlier[[0, 2, 3]]).all()
        assert (np.diff(earlier, axis=0) > 0).all()


def test_totals_of_closed_days_are_zero_with_certainty(
    panel: Panel, ensemble: Ensemble, rows: StoreDays
) -> None:
    closed = replace(rows, open=np.zeros_like(rows.open))
    for totals in _totals(panel, ensemble, closed, TOTAL_LEVELS, (0.95,), quantiles=(0.1, 0.9)):
        assert (totals.sales == 0).all()
        assert all((sales == 0).all() for sales in totals.quantiles)
        assert all((bound == 0).all() for bound in totals.intervals[0])


def test_unknown_group_and_version_without_totals_table_raise(
    panel: Panel, ensemble: Ensemble, rows: StoreDays
) -> None:
    with pytest.raises(ValueError, match="totals are by store_week"):
        _totals(panel, ensemble, rows, ["region"])
    old = {k: v for k, v in ensemble.card.items() if k != "totals"}
    with pytest.raises(CorruptModelError, match="train a new one"):
        _totals(panel, Ensemble(ensemble.members, old), rows, ["chain"])
