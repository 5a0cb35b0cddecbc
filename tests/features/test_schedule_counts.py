"""Running counts against a brute-force reading of their definitions."""

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from rossmann.features import schedule_counts as plan
from rossmann.features.build_features import promo2_phase

Flags = npt.NDArray[np.uint8]


def cube_of(draw: st.DataObject, days: int) -> Flags:
    rng = np.random.default_rng(draw.draw(st.integers(0, 2**32 - 1)))
    share = draw.draw(st.sampled_from([0.02, 0.2, 0.8]))
    cube = np.zeros((days, 2, plan.N_PLAN), np.uint8)
    for column in (plan.OPEN, plan.PROMO, plan.HOLIDAY, plan.SCHOOL):
        cube[:, :, column] = rng.random((days, 2)) < share
    return cube


@settings(max_examples=40, deadline=None)
@given(draw=st.data(), weekday=st.integers(0, 6))
def test_counts_are_what_they_say(draw: st.DataObject, weekday: int) -> None:
    days = draw.draw(st.integers(15, 120))
    cube = cube_of(draw, days)
    plan.fill_schedule_counts(cube, weekday, 0, 2)
    promo, closed = cube[:, 1, plan.PROMO], 1 - cube[:, 1, plan.OPEN]
    holiday = (cube[:, 1, plan.HOLIDAY] > 0) & (closed > 0)
    school = cube[:, 1, plan.SCHOOL]
    week = (np.arange(days) + weekday) // 7
    for t in range(days):
        here = cube[t, 1]
        since = [k for k in range(t + 1) if promo[t - k]]
        until = [k for k in range(days - t) if promo[t + k]]
        assert here[plan.PROMO_SINCE] == min([*since, plan.PROMO_CAP])
        assert here[plan.PROMO_UNTIL] == min([*until, plan.PROMO_CAP])
        ahead = promo[t:].tolist()
        assert here[plan.PROMO_RUN] == min(
            ahead.index(0) if 0 in ahead else len(ahead), plan.RUN_CAP
        )
        assert here[plan.HOLIDAY_NEXT_7] == holiday[t + 1 : t + 8].sum()
        assert here[plan.HOLIDAY_WEEK] == holiday[week == week[t]].sum()
        assert here[plan.SCHOOL_WEEK] == school[week == week[t]].sum()
        assert here[plan.PROMO_LAST_WEEK] == promo[week == week[t] - 1].sum()
        assert here[plan.OPEN_14] == (1 - closed[max(t - 13, 0) : t + 1]).sum()
        back = closed[: t + 1][::-1].tolist()
        assert here[plan.CLOSED_BACK] == min(
            back.index(0) if 0 in back else len(back), plan.CLOSED_CAP
        )


def test_a_long_closure_is_remembered() -> None:
    cube = np.zeros((300, 1, plan.N_PLAN), np.uint8)
    cube[:, 0, plan.OPEN] = 1
    cube[20:26, 0, plan.OPEN] = 0  # six days: long
    cube[50:55, 0, plan.OPEN] = 0  # five: not
    plan.fill_schedule_counts(cube, 0, 0, 1)
    since = cube[:, 0, plan.SINCE_LONG_CLOSURE]
    assert since[19] == plan.LONG_CLOSURE_CAP
    assert since[25] == 0
    assert since[60] == 35
    assert since[299] == plan.LONG_CLOSURE_CAP


def test_promo2_counts_from_its_sending_month() -> None:
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
