"""Running statistics compared with their definitions in plain numpy."""

import numpy as np
import pytest

from rossmann.data.panel.panel import Panel
from rossmann.features.schedule_counts import PROMO
from rossmann.schema import FEATURES, StoreDays


@pytest.fixture(scope="module")
def case(panel: Panel) -> tuple[StoreDays, int, np.ndarray]:
    origin = panel.last_day - 30
    rng = np.random.default_rng(5)
    n = 200
    days = rng.integers(origin + 1, origin + 49, n).astype(np.int32)
    stores = rng.choice(panel.store_numbers, n).astype(np.int32)
    promo = rng.integers(0, 2, n).astype(np.uint8)
    zeros = np.zeros(n, np.uint8)
    rows = StoreDays(stores, days, zeros + 1, promo, zeros, zeros)
    return rows, origin, panel.matrix(rows, origin).astype(np.float64)


def column(matrix: np.ndarray, name: str, plus_offset: bool) -> np.ndarray:
    values = matrix[:, FEATURES.index(name)]
    return values + matrix[:, FEATURES.index("kfb")] if plus_offset else values


def matching_sales(
    panel: Panel, rows: StoreDays, i: int, low: int, high: int, same_promo: bool
) -> np.ndarray:
    """Known log sales of the row's store on its weekday (and promotion), low <= day <= high."""
    s = int(panel.store_indices(rows.store[i : i + 1])[0])
    out = []
    for day in range(max(low, panel.first_day), high + 1):
        t = day - panel.first_day
        y = panel.arrays.log_sales[s, t]
        if (day - rows.day[i]) % 7 == 0 and not np.isnan(y):
            if same_promo and panel.arrays.cube[t, s, PROMO] != rows.promo[i]:
                continue
            out.append(float(y))
    return np.array(out)


@pytest.mark.parametrize(
    ("name", "days", "same_promo", "statistic"),
    [
        ("mean_weekday_91", 91, False, np.mean),
        ("mean_same_182", 182, True, np.mean),
        ("mean_same_364", 364, True, np.mean),
        ("median_same_364", 364, True, np.median),
    ],
)
def test_statistics_of_the_same_weekday_match_plain_numpy(
    panel: Panel, case, name, days, same_promo, statistic
) -> None:
    rows, origin, matrix = case
    feature = column(matrix, name, plus_offset=True)
    for i in range(len(rows)):
        # weeks are counted from the last such weekday, which is at most six days before O
        last = origin - (origin - int(rows.day[i])) % 7
        values = matching_sales(panel, rows, i, last - days + 1, last, same_promo)
        assert len(values) == 0 or feature[i] == pytest.approx(statistic(values), abs=2e-5)
        assert (len(values) == 0) == np.isnan(feature[i])


def test_last_year_features_match_plain_numpy(panel: Panel, case) -> None:
    rows, _, matrix = case
    feature = column(matrix, "last_year_same", plus_offset=True)
    on_day = column(matrix, "last_year_day", plus_offset=True)
    for i in range(len(rows)):
        past = int(rows.day[i]) - 364
        values = matching_sales(panel, rows, i, past - 21, past + 21, same_promo=True)
        assert (
            np.isnan(feature[i])
            if len(values) == 0
            else feature[i] == pytest.approx(values.mean(), abs=2e-5)
        )
        s = int(panel.store_indices(rows.store[i : i + 1])[0])
        expected = (
            panel.arrays.log_sales[s, past - panel.first_day] if past >= panel.first_day else np.nan
        )
        assert on_day[i] == pytest.approx(float(expected), abs=2e-5, nan_ok=True)


def test_windows_beyond_the_origin_are_missing(panel: Panel) -> None:
    origin = panel.last_day - 100
    n = 30
    days = np.arange(origin + 340, origin + 340 + n, dtype=np.int32)
    flags = np.ones(n, np.uint8)
    rows = StoreDays(
        np.full(n, panel.store_numbers[0], np.int32), days, flags, flags, flags * 0, flags
    )
    matrix = panel.matrix(rows, origin)
    same = matrix[:, FEATURES.index("last_year_same")]
    horizon = days - origin
    assert np.isnan(same[horizon > 364 - 21]).all()
    assert np.isnan(matrix[horizon > 364, FEATURES.index("last_year_day")]).all()
