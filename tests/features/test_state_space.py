"""The compiled Kalman filters compared with the textbook equations in matrix form."""

from datetime import date, timedelta

import numpy as np
import pytest

from rossmann.data.panel.panel import Panel
from rossmann.epoch_days import to_day
from rossmann.features import calendars, kalman, state_space
from rossmann.features.schedule_counts import HOLIDAY, N_PLAN, OPEN, DayFlags, fill_schedule_counts
from rossmann.schema import FEATURES


def design(panel: Panel, s: int, t: int, size: int) -> np.ndarray:
    mask, terms = int(panel.arrays.masks[s, t]), panel.arrays.terms[t]
    x = np.zeros(state_space.N_FULL)
    x[: state_space.N_MASK] = [(mask >> k) & 1 for k in range(state_space.N_MASK)]
    x[state_space.DECEMBER] = terms[0]
    x[state_space.N_BASE :] = terms[1:]
    return x[:size]


@pytest.mark.parametrize("index", range(4))
def test_filter_matches_the_textbook_equations(panel: Panel, index: int) -> None:
    spec = state_space.FILTERS[index]
    at, size = spec.offset, spec.size
    s = 3
    y = panel.arrays.log_sales[s].astype(np.float64)
    chain = kalman.chain_mean_level(panel.arrays.log_sales)
    mean = np.zeros(size)
    mean[state_space.PROMOTION] = state_space.PROMO_PRIOR_MEAN
    cov = np.diag(state_space.prior_variances()[:size])
    noise = np.diag(state_space.process_variances(spec))
    sales_days = 0
    for t in range(len(y)):
        cov = cov + noise
        if sales_days == 0:
            mean[0] = chain[t]
        if not np.isnan(y[t]):
            x = design(panel, s, t, size)
            variance = x @ cov @ x + kalman.OBSERVATION_VARIANCE
            error = y[t] - x @ mean
            if sales_days >= kalman.CLIP_AFTER:
                error = np.clip(error, -3 * variance**0.5, 3 * variance**0.5)
            gain = cov @ x / variance
            mean, cov = mean + gain * error, cov - np.outer(gain, gain) * variance
            sales_days += 1
        if t % 50 == 0 or t == len(y) - 1:
            state = panel.arrays.states[t, s, at : at + size]
            assert state == pytest.approx(mean, abs=1e-4)


def test_forecast_is_state_times_design(panel: Panel) -> None:
    origin = panel.last_day
    rows = panel.store_schedule(int(panel.store_numbers[3]), np.arange(origin + 1, origin + 40))
    matrix = panel.matrix(rows, origin)
    state = panel.arrays.states[origin - panel.first_day, 3].astype(np.float64)
    for i, day in enumerate(rows.day):
        t = int(day) - panel.first_day
        kfb = design(panel, 3, t, state_space.N_BASE) @ state[: state_space.N_BASE]
        assert matrix[i, FEATURES.index("kfb")] == pytest.approx(kfb, abs=1e-5)
        lift = state[state_space.KFB + state_space.PROMOTION]
        assert matrix[i, FEATURES.index("promo_lift")] == pytest.approx(lift, abs=1e-6)
        at, size = state_space.KFD, state_space.N_FULL
        kfd = design(panel, 3, t, size) @ state[at : at + size]
        assert matrix[i, FEATURES.index("kfd")] == pytest.approx(kfd - kfb, abs=1e-4)


def test_last_year_error_uses_the_origin_a_year_before(panel: Panel) -> None:
    origin = panel.last_day - 5
    for ahead in (1, 20, 48):
        day = origin + ahead
        rows = panel.store_schedule(int(panel.store_numbers[5]), np.array([day]))
        value = panel.matrix(rows, origin)[0, FEATURES.index("last_year_error")]
        past_origin = origin - 364 - panel.first_day
        state = panel.arrays.states[past_origin, 5].astype(np.float64)[: state_space.N_BASE]
        errors = []
        for t in range(day - 364 - 7 - panel.first_day, day - 364 + 8 - panel.first_day):
            y = panel.arrays.log_sales[5, t]
            if t >= 1 and not np.isnan(y):
                errors.append(y - design(panel, 5, t, state_space.N_BASE) @ state)
        assert value == pytest.approx(np.mean(errors), abs=1e-4)


SPECIAL_DAYS = {
    # a Friday, then Sunday the 31st: wages are paid on the Friday
    "2014-08-28": {state_space.BEFORE_MONTH_END},
    "2014-08-29": {state_space.MONTH_END},
    "2014-08-30": {state_space.MONTH_END},
    "2015-04-04": {state_space.EASTER_WEEK},
    "2015-04-07": set(),
    "2015-05-09": {state_space.MOTHERS_DAY},
    "2015-05-16": set(),
    "2014-12-19": set(),
    "2014-12-22": {state_space.BEFORE_CHRISTMAS},
    "2014-12-24": {state_space.CHRISTMAS_EVE},
    "2014-12-27": {state_space.AFTER_CHRISTMAS},
    "2014-12-30": {state_space.AFTER_CHRISTMAS, state_space.YEAR_END, state_space.BEFORE_MONTH_END},
    "2014-12-31": {state_space.NEW_YEARS_EVE, state_space.MONTH_END},
}


def special_components(when: date, cube: np.ndarray, holiday: int = 0) -> set[int]:
    """Components of ``when``, the cube's middle day, without level, weekday, days of month."""
    middle = len(cube) // 2
    days = np.arange(-middle, len(cube) - middle) + to_day(when)
    table = calendars.date_table(days.astype(np.int32))
    fill_schedule_counts(cube, int(table[0, calendars.WEEKDAY]) - 1, 0, 1)
    mask = state_space.design_mask(table, cube, middle, 0, DayFlags(0, holiday, 0))
    usual = {0, *range(1, 8), state_space.MONTH_START, state_space.MID_MONTH}
    return {k for k in range(state_space.N_MASK) if (mask >> k) & 1} - usual


def open_days() -> np.ndarray:
    cube = np.zeros((31, 1, N_PLAN), np.uint8)
    cube[:, 0, OPEN] = 1
    return cube


@pytest.mark.parametrize(("when", "expected"), SPECIAL_DAYS.items())
def test_special_days_have_their_components(when: str, expected: set[int]) -> None:
    assert special_components(date.fromisoformat(when), open_days()) == expected


def test_days_around_a_holiday_have_components_where_it_closes_the_store() -> None:
    holiday = date(2015, 6, 4)
    for closed in (True, False):
        for offset, component in ((-1, state_space.BEFORE_HOLIDAY), (1, state_space.AFTER_HOLIDAY)):
            cube = open_days()
            cube[15 - offset, 0, HOLIDAY] = 1
            cube[15 - offset, 0, OPEN] = 0 if closed else 1
            around = {component, state_space.HOLIDAY_IN_WEEK} if closed else set()
            assert special_components(holiday + timedelta(offset), cube) == around
    cube = open_days()
    cube[15, 0, HOLIDAY] = 1
    assert special_components(holiday, cube, holiday=1) == {state_space.OPEN_HOLIDAY}


def test_christmas_eve_is_not_a_day_before_a_holiday() -> None:
    cube = open_days()
    cube[16, 0, HOLIDAY], cube[16, 0, OPEN] = 3, 0
    assert state_space.BEFORE_HOLIDAY not in special_components(date(2014, 12, 24), cube)
