"""Totals that doors ask for: sums of the served forecasts, with bands from the version's card."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from rossmann.data.panel.panel import Panel
from rossmann.errors import CorruptModelError
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.inference.forecaster import Forecaster, ForecastRequest
from rossmann.models.inference.totals import TOTAL_LEVELS, Totals, forecast_totals
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.schema import STORE_TYPES, Objective, StoreDays


def _totals(
    panel: Panel,
    ensemble: Ensemble,
    rows: StoreDays,
    by: Sequence[str],
    levels: tuple[float, ...] = (),
    objective: Objective = "accuracy",
) -> list[Totals]:
    request = ForecastRequest(rows, None, levels, objective)
    return forecast_totals(Forecaster(panel, ensemble), request, panel.last_day, by)


@pytest.fixture(scope="module")
def ensemble(trained: TrainedModel) -> Ensemble:
    return Ensemble.load(trained.folder)


@pytest.fixture(scope="module")
def rows(panel: Panel) -> StoreDays:
    """Three weeks of every store, as planned."""
    stores = np.repeat(panel.store_numbers, 21)
    days = np.tile(np.arange(panel.last_day + 1, panel.last_day + 22), len(panel.store_numbers))
    return panel.schedule(stores, days)


def test_totals_are_sums_of_the_served_forecasts(
    panel: Panel, ensemble: Ensemble, rows: StoreDays
) -> None:
    served = Forecaster(panel, ensemble).forecast(ForecastRequest(rows)).sales
    for found in _totals(panel, ensemble, rows, TOTAL_LEVELS, (0.8, 0.95)):
        assert found.sales.sum() == pytest.approx(served.sum())
        assert found.rows.sum() == len(rows)
        (low, high), (lower, higher) = found.intervals
        assert (lower <= low).all()
        assert (low <= found.sales).all()
        assert (found.sales <= high).all()
        assert (high <= higher).all()
        for g in range(len(found.sales)):
            mine = (rows.day >= found.first[g]) & (rows.day <= found.last[g])
            if found.store[g] >= 0:
                mine &= rows.store == found.store[g]
                assert found.sales[g] == pytest.approx(served[mine].sum())
            elif found.by.startswith("chain"):
                assert found.store_type[g] == -1
                assert found.sales[g] == pytest.approx(served[mine].sum())
            else:
                assert 0 <= found.store_type[g] < len(STORE_TYPES)
            if found.by.endswith("_week"):
                assert (found.first[g] + 3) // 7 == (found.last[g] + 3) // 7


def test_a_larger_total_is_surer_than_its_parts(
    panel: Panel, ensemble: Ensemble, rows: StoreDays
) -> None:
    week, store, chain = (
        np.mean((t.intervals[0][1] - t.intervals[0][0]) / t.sales)
        for t in _totals(panel, ensemble, rows, ("store_week", "store", "chain"), (0.8,))
    )
    assert chain < store < week


def test_unbiased_totals_lie_in_their_bands(
    panel: Panel, ensemble: Ensemble, rows: StoreDays
) -> None:
    card = {**ensemble.card, "unbiased": {"factors": [1.5, 1.5]}}
    raised = Ensemble(ensemble.members, card)
    (plain,) = _totals(panel, raised, rows, ["chain"], (0.8,))
    (unbiased,) = _totals(panel, raised, rows, ["chain"], (0.8,), "unbiased")
    assert unbiased.sales == pytest.approx(1.5 * plain.sales)
    assert unbiased.intervals[0][1] >= unbiased.sales
    assert unbiased.intervals[0][0] == pytest.approx(plain.intervals[0][0])


def test_a_closed_store_sells_nothing_for_certain(
    panel: Panel, ensemble: Ensemble, rows: StoreDays
) -> None:
    shut = replace(rows, open=np.zeros_like(rows.open))
    for found in _totals(panel, ensemble, shut, TOTAL_LEVELS, (0.95,)):
        assert (found.sales == 0).all()
        assert all((bound == 0).all() for bound in found.intervals[0])


def test_what_cannot_be_answered_is_refused(
    panel: Panel, ensemble: Ensemble, rows: StoreDays
) -> None:
    with pytest.raises(ValueError, match="totals are by store_week"):
        _totals(panel, ensemble, rows, ["region"])
    old = {k: v for k, v in ensemble.card.items() if k != "totals"}
    with pytest.raises(CorruptModelError, match="train a new one"):
        _totals(panel, Ensemble(ensemble.members, old), rows, ["chain"])
