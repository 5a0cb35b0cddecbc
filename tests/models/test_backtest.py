"""Baselines against plain readings of their definitions; windows hold what they say."""

import numpy as np
import pytest

from rossmann.data.panel import Panel
from rossmann.errors import DataError
from rossmann.features import plan
from rossmann.models.backtest import baselines, open_windows, score
from rossmann.models.metrics import bias, mae, mape, rmspe


def test_windows_follow_their_origins(panel: Panel) -> None:
    windows = open_windows(panel, (48, 200), 48, 31)
    assert [w.origin for w in windows] == [panel.last_day - 200, panel.last_day - 48]
    for window in windows:
        assert window.rows.day.min() == window.origin + 1
        assert window.rows.day.max() <= window.origin + 48
        assert (window.sold > 0).all()
        assert (window.rows.open == 1).all()
        assert len(window.matrix) == len(window.rows) == len(window.sold)


def test_seasonal_naive_is_the_last_of_its_kind(panel: Panel) -> None:
    (window,) = open_windows(panel, (48,), 48, 31)
    naive = baselines(panel, window)["seasonal_naive"]
    checked = 0
    for i in range(0, len(naive), 37):
        s = int(panel.locate(window.rows.store[i : i + 1])[0])
        for day in range(window.origin, panel.first_day - 1, -1):
            t = day - panel.first_day
            y = panel.arrays.log_sales[s, t]
            same = (day - window.rows.day[i]) % 7 == 0
            if same and panel.arrays.cube[t, s, plan.PROMO] == window.rows.promo[i] and y > 0:
                assert naive[i] == pytest.approx(np.exp(y), rel=1e-5)
                checked += 1
                break
    assert checked > 10


def test_too_short_a_history_is_said(panel: Panel) -> None:
    with pytest.raises(DataError, match="needs more history"):
        open_windows(panel, (610,), 48, 31)


def test_measures() -> None:
    sold, forecast = np.array([100.0, 200.0, 0.0]), np.array([110.0, 180.0, 5.0])
    assert rmspe(sold, forecast) == pytest.approx(0.1)
    assert mape(sold, forecast) == pytest.approx(0.1)
    assert mae(sold, forecast) == pytest.approx(35 / 3)
    assert bias(sold, forecast) == pytest.approx(295 / 300 - 1)
    assert np.isnan(rmspe(np.zeros(2), np.ones(2)))


def test_a_score_tells_all_forecasters(panel: Panel) -> None:
    (window,) = open_windows(panel, (48,), 48, 31)
    found = score(window, {"ensemble": window.sold, **baselines(panel, window)})
    assert found.rmspe["ensemble"] == 0.0
    assert found.rmspe["kalman"] > 0.0
    assert found.as_dict()["origin"] == window.origin_date.isoformat()
