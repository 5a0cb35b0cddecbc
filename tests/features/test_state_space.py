"""The compiled filters against the textbook's equations, written with matrices."""

import numpy as np
import pytest

from rossmann.data.panel import Panel
from rossmann.features import kalman, newcomers, state_space
from rossmann.schema import FEATURES


def design(panel: Panel, s: int, t: int, size: int) -> np.ndarray:
    mask, terms = int(panel.arrays.masks[s, t]), panel.arrays.terms[t]
    x = np.zeros(state_space.N_FULL)
    x[: state_space.N_MASK] = [(mask >> k) & 1 for k in range(state_space.N_MASK)]
    x[state_space.DECEMBER] = terms[0]
    x[state_space.N_BASE :] = terms[1:]
    return x[:size]


@pytest.mark.parametrize("which", range(4))
def test_a_filter_is_the_textbook_filter(panel: Panel, which: int) -> None:
    at, size, level, weekday = state_space.FILTERS[which]
    s = 3
    y = panel.arrays.log_sales[s].astype(np.float64)
    chain = kalman.chain_levels(panel.arrays.log_sales)
    mean = np.zeros(size)
    mean[state_space.PROMOTION] = newcomers.PROMO_PRIOR_MEAN
    cov = np.diag(state_space.prior_variances()[:size])
    noise = np.diag(state_space.process_variances(level, weekday)[:size])
    seen = 0
    for t in range(len(y)):
        cov = cov + noise
        if seen == 0:
            mean[0] = chain[t]
        if not np.isnan(y[t]):
            x = design(panel, s, t, size)
            variance = x @ cov @ x + kalman.OBSERVATION_VARIANCE
            error = y[t] - x @ mean
            if seen >= kalman.CLIP_AFTER:
                error = np.clip(error, -3 * variance**0.5, 3 * variance**0.5)
            gain = cov @ x / variance
            mean, cov = mean + gain * error, cov - np.outer(gain, gain) * variance
            seen += 1
        if t % 50 == 0 or t == len(y) - 1:
            kept = panel.arrays.states[t, s, at : at + size]
            assert kept == pytest.approx(mean, abs=1e-4)


def test_forecast_is_state_times_design(panel: Panel) -> None:
    origin = panel.last_day
    rows = panel.usual_rows(int(panel.store_numbers[3]), np.arange(origin + 1, origin + 40))
    matrix = panel.matrix(rows, origin)
    state = panel.arrays.states[origin - panel.first_day, 3].astype(np.float64)
    for i, day in enumerate(rows.day):
        t = int(day) - panel.first_day
        kfb = design(panel, 3, t, state_space.N_BASE) @ state[: state_space.N_BASE]
        assert matrix[i, FEATURES.index("kfb")] == pytest.approx(kfb, abs=1e-5)
        at, size = state_space.KFD, state_space.N_FULL
        kfd = design(panel, 3, t, size) @ state[at : at + size]
        assert matrix[i, FEATURES.index("kfd")] == pytest.approx(kfd - kfb, abs=1e-4)


def test_last_years_error_is_that_of_its_own_origin(panel: Panel) -> None:
    origin = panel.last_day - 5
    for ahead in (1, 20, 48):
        day = origin + ahead
        rows = panel.usual_rows(int(panel.store_numbers[5]), np.array([day]))
        found = panel.matrix(rows, origin)[0, FEATURES.index("last_year_error")]
        then = origin - 364 - panel.first_day
        state = panel.arrays.states[then, 5].astype(np.float64)[: state_space.N_BASE]
        errors = []
        for t in range(day - 364 - 7 - panel.first_day, day - 364 + 8 - panel.first_day):
            y = panel.arrays.log_sales[5, t]
            if t >= 1 and not np.isnan(y):
                errors.append(y - design(panel, 5, t, state_space.N_BASE) @ state)
        assert found == pytest.approx(np.mean(errors), abs=1e-4)
