"""Running counts compared with a brute-force computation."""

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from rossmann.features import schedule_counts
from rossmann.features.build_features import promo2_phase

Flags = npt.NDArray[np.uint8]


def random_cube(draw: st.DataObject, days: int) -> Flags:
    rng = np.random.default_rng(draw.draw(st.integers(0, 2**32 - 1)))
    share = draw.draw(st.sampled_from([0.02, 0.2, 0.8]))
    cube = np.zeros((days, 2, schedule_counts.N_PLAN), np.uint8)
    for column in (
        schedule_counts.OPEN,
        schedule_counts.PROMO,
        schedule_counts.HOLIDAY,
        schedule_counts.SCHOOL,
    ):
        cube[:, :, column] = rng.random((days, 2)) < share
    return cube


@settings(max_examples=40, deadline=None)
@given(draw=st.data(), weekday=st.integers(0, 6))
def test_counts_match_their_definitions(draw: st.DataObject, weekday: int) -> None:
    days = draw.draw(st.integers(15, 120))
    cube = random_cube(draw, days)
    schedule_counts.fill_schedule_counts(cube, weekday, 0, 2)
    promo, closed = cube[:, 1, schedule_counts.PROMO], 1 - cube[:, 1, schedule_counts.OPEN]
    holiday = (cube[:, 1, schedule_counts.HOLIDAY] > 0) & (closed > 0)
    school = cube[:, 1, schedule_counts.SCHOOL]
    week = (np.arange(days) + weekday) // 7
    for t in range(days):
        counts = cube[t, 1]
        since = [k for k in range(t + 1) if promo[t - k]]
        until = [k for k in range(days - t) if promo[t + k]]
        assert counts[schedule_counts.PROMO_SINCE] == min([*since, schedule_counts.PROMO_CAP])
        assert counts[schedule_counts.PROMO_UNTIL] == min([*until, schedule_counts.PROMO_CAP])
        ahead = promo[t:].tolist()
        assert counts[schedule_counts.PROMO_RUN] == min(
            ahead.index(0) if 0 in ahead else len(ahead), schedule_counts.RUN_CAP
        )
        assert counts[schedule_counts.HOLIDAY_NEXT_7] == holiday[t + 1 : t + 8].sum()
        assert counts[schedule_counts.HOLIDAY_WEEK] == holiday[week == week[t]].sum()
        assert counts[schedule_counts.SCHOOL_WEEK] == school[week == week[t]].sum()
        assert counts[schedule_counts.PROMO_LAST_WEEK] == promo[week == week[t] - 1].sum()
        assert counts[schedule_counts.OPEN_14] == (1 - closed[max(t - 13, 0) : t + 1]).sum()
        back = closed[: t + 1][::-1].tolist()
        assert counts[schedule_counts.CLOSED_BACK] == min(
            back.index(0) if 0 in back else len(back), schedule_counts.CLOSED_CAP
        )


def test_days_since_a_long_closure() -> None:
    cube = np.zeros((300, 1, schedule_counts.N_PLAN), np.uint8)
    cube[:, 0, schedule_counts.OPEN] = 1
    cube[20:26, 0, schedule_counts.OPEN] = 0  # six days: long
    cube[50:55, 0, schedule_counts.OPEN] = 0  # five: not
    schedule_counts.fill_schedule_counts(cube, 0, 0, 1)
    since = cube[:, 0, schedule_counts.SINCE_LONG_CLOSURE]
    assert since[19] == schedule_counts.LONG_CLOSURE_CAP
    assert since[25] == 0
    assert since[60] == 35
    assert since[299] == schedule_counts.LONG_CLOSURE_CAP


def test_promo2_phase_counts_from_the_sending_month() -> None:
    quarterly = sum(1 << (m - 1) for m in (2, 5, 8, 11))
    assert [promo2_phase(month, quarterly, 100, 50.0) for month in (2, 3, 4, 5, 1)] == [
        0,
        1,
        2,
        0,
        2,
    ]
    assert promo2_phase(2, quarterly, 49, 50.0) == -1  # not yet
    assert promo2_phase(2, 0, 100, 50.0) == -1  # never
    assert promo2_phase(2, quarterly, 100, float("nan")) == -1
