"""The base filter's forecast is the sum of its components for any rows."""

import numpy as np
import pytest

from rossmann.data.panel.panel import Panel
from rossmann.features import state_space
from rossmann.features.offset_components import MEAN_WEEKDAY, N_COMPONENTS
from rossmann.schema import OFFSET_COLUMN, StoreDays


def random_rows(panel: Panel, count: int, origin: int) -> StoreDays:
    rng = np.random.default_rng(4)
    stores = rng.choice(panel.store_numbers, count).astype(np.int32)
    days = origin + rng.integers(1, 120, count).astype(np.int32)
    flags = [rng.integers(0, 2, count).astype(np.uint8) for _ in range(3)]
    holidays = rng.integers(0, 4, count).astype(np.uint8)
    return StoreDays(stores, days, flags[0], flags[1], holidays, flags[2])


@pytest.mark.parametrize("days_back", [0, 100, 400])
def test_components_sum_to_the_offset(panel: Panel, days_back: int) -> None:
    origin = panel.last_day - days_back
    rows = random_rows(panel, 2000, origin)
    components = panel.offset_components(rows, origin)
    assert components.shape == (2000, N_COMPONENTS)
    total = components[:, : state_space.N_BASE].sum(axis=1)
    assert np.abs(total - panel.matrix(rows, origin)[:, OFFSET_COLUMN]).max() < 1e-6


def test_components_are_zero_on_other_days(panel: Panel) -> None:
    rows = random_rows(panel, 500, panel.last_day)
    components = panel.offset_components(rows, panel.last_day)
    weekday = (rows.day + 3) % 7 + 1
    state = panel.arrays.states[-1][panel.store_indices(rows.store)]
    for k in range(1, 8):
        assert ((components[:, k] != 0) == ((weekday == k) & (state[:, k] != 0))).all()
    assert ((components[:, state_space.PROMOTION] != 0) == (rows.promo > 0)).all()
    assert ((components[:, state_space.SCHOOL_DAY] != 0) == (rows.school_holiday > 0)).all()
    usual = state[:, 1:7].astype(np.float64).mean(axis=1)
    assert components[:, MEAN_WEEKDAY] == pytest.approx(usual, abs=1e-6)


def test_origin_after_history_raises(panel: Panel) -> None:
    rows = random_rows(panel, 5, panel.last_day)
    with pytest.raises(ValueError, match="does not have"):
        panel.offset_components(rows, panel.last_day + 1)
