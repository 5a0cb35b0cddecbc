"""fev-bench tasks: windows, scored steps, and metrics against their definitions."""

from datetime import date, timedelta
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rossmann.data.panel.panel import Panel
from rossmann.epoch_days import to_date, to_day
from rossmann.models.benchmark.fev_task import (
    DAILY,
    METRICS,
    QUANTILES,
    WEEKLY,
    ScoredSteps,
    by_step,
    score,
    scored_steps,
    seasonal_naive,
    share_below,
    window_rows,
)
from rossmann.schema import Dataset


def real_panel(last_day: date) -> Panel:
    info = SimpleNamespace(dataset=Dataset.REAL)
    first = to_day(date(2013, 1, 1))
    return cast("Panel", SimpleNamespace(info=info, first_day=first, last_day=to_day(last_day)))


def test_daily_windows_are_those_of_the_board() -> None:
    origins = [to_date(o).isoformat() for o in DAILY.origins(real_panel(date(2015, 7, 31)))]
    assert origins == [
        *("2014-04-07", "2014-05-25", "2014-07-12", "2014-08-29", "2014-10-16", "2014-12-03"),
        *("2015-01-20", "2015-03-09", "2015-04-26", "2015-06-13"),
    ]


def test_weekly_windows_end_on_the_last_whole_week() -> None:
    origins = [to_date(o) for o in WEEKLY.origins(real_panel(date(2015, 7, 31)))]
    assert len(origins) == 8
    assert {origin.weekday() for origin in origins} == {6}
    assert origins[-1] + timedelta(days=91) == date(2015, 7, 26)


@pytest.mark.parametrize(("last_day", "held"), [(date(2015, 6, 13), 9), (date(2015, 6, 12), 8)])
def test_windows_that_the_tables_do_not_hold_are_left_out(last_day: date, held: int) -> None:
    assert len(DAILY.origins(real_panel(last_day))) == held


@given(seed=st.integers(0, 10_000), size=st.integers(1, 60))
def test_metrics_are_the_boards_formulas(seed: int, size: int) -> None:
    """Written once more as loops, from the protocol's words."""
    rng = np.random.default_rng(seed)
    sold = np.where(rng.random(size) < 0.2, 0.0, rng.lognormal(8, 1, size))
    steps = ScoredSteps(np.arange(size), np.arange(size), sold, rng.uniform(50, 500, size))
    forecast = sold * rng.uniform(0.5, 1.5, size) + 10
    quantiles = {q: forecast * (0.5 + q) for q in QUANTILES}
    found = score(steps, forecast, quantiles)
    mean = max(sum(sold) / size, 1.0)
    absolute = [abs(y - f) for y, f in zip(sold, forecast, strict=True)]
    loss, scaled_loss = 0.0, 0.0
    for q in QUANTILES:
        for y, f, s in zip(sold, quantiles[q], steps.scale, strict=True):
            one = 2 * abs((y - f) * ((1.0 if y <= f else 0.0) - q))
            loss += one / (9 * size)
            scaled_loss += one / s / (9 * size)
    scaled = [e / s for e, s in zip(absolute, steps.scale, strict=True)]
    assert found["WAPE"] == pytest.approx(sum(absolute) / size / mean)
    assert found["MASE"] == pytest.approx(sum(scaled) / size)
    assert found["WQL"] == pytest.approx(loss / mean)
    assert found["SQL"] == pytest.approx(scaled_loss)


def test_quantiles_equal_to_the_forecast_give_the_point_metrics() -> None:
    steps = ScoredSteps(np.arange(3), np.arange(3), np.array([0.0, 50, 90]), np.array([5.0, 7, 9]))
    forecast = np.array([1.0, 40, 100])
    found = score(steps, forecast, dict.fromkeys(QUANTILES, forecast))
    assert found["SQL"] == pytest.approx(found["MASE"])
    assert found["WQL"] == pytest.approx(found["WAPE"])
    assert set(found) == set(METRICS)


def test_share_below_leaves_closed_days_out() -> None:
    steps = ScoredSteps(np.zeros(4), np.arange(4), np.array([0.0, 10, 20, 30]), np.ones(4))
    below = share_below(steps, {0.25: np.full(4, 15.0), 0.5: np.full(4, 30.0)})
    assert below == {"0.25": pytest.approx(1 / 3), "0.5": pytest.approx(2 / 3)}


def test_perfect_forecasts_have_no_error(panel: Panel) -> None:
    (*_, origin) = DAILY.origins(panel)
    steps = scored_steps(panel, DAILY, origin)
    found = score(steps, steps.sold, dict.fromkeys(QUANTILES, steps.sold))
    assert set(found.values()) == {0.0}


def test_scored_days_are_the_rows_with_known_sales_closed_days_too(panel: Panel) -> None:
    (*_, origin) = DAILY.origins(panel)
    steps, rows = scored_steps(panel, DAILY, origin), window_rows(panel, DAILY, origin)
    assert len(steps.sold) == len(rows)
    assert (steps.sold[rows.open == 0] == 0).all()
    assert (rows.open == 0).any()
    history = panel.history(int(panel.store_numbers[3]), origin + 48, 48).sales
    assert (steps.sold[steps.store == 3] == history[np.isfinite(history)]).all()


def test_scale_is_the_mean_seasonal_difference_before_the_origin(panel: Panel) -> None:
    (*_, origin) = DAILY.origins(panel)
    past = panel.history(int(panel.store_numbers[3]), origin, 10_000).sales
    expected = np.nanmean(np.abs(past[7:] - past[:-7]))
    steps = scored_steps(panel, DAILY, origin)
    assert steps.scale[steps.store == 3] == pytest.approx(expected)


def test_weeks_are_sums_and_unknown_where_a_day_is() -> None:
    days = np.arange(28.0).reshape(1, 28)
    days[0, 10] = np.nan
    assert by_step(days, 7).tolist()[0][0] == sum(range(7))
    assert np.isnan(by_step(days, 7)[0]).tolist() == [False, True, False, False]


def test_seasonal_naive_repeats_the_last_week(panel: Panel) -> None:
    (*_, origin) = DAILY.origins(panel)
    steps = scored_steps(panel, DAILY, origin)
    naive = seasonal_naive(panel, DAILY, origin, steps)
    last = panel.history(int(panel.store_numbers[3]), origin, 7).sales
    own = steps.store == 3
    assert (naive[own] == last[steps.step[own] % 7]).all()
