"""Rule 2: a row's features depend on the row, the origin and the data, and on nothing else."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rossmann.data.panel.panel import Panel
from rossmann.schema import FEATURES, StoreDays

STILL = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def requests(draw: st.DrawFn, panel: Panel) -> tuple[StoreDays, int]:
    """Rows with any flags, in any order, as of any origin before them."""
    n = draw(st.integers(1, 40))
    origin = draw(st.integers(panel.first_day, panel.last_day))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    days = rng.integers(origin + 1, panel.furthest_day + 1, n).astype(np.int32)
    flag = lambda high: rng.integers(0, high, n).astype(np.uint8)  # noqa: E731
    stores = rng.choice(panel.store_numbers, n).astype(np.int32)
    return StoreDays(stores, days, flag(2), flag(2), flag(4), flag(2)), origin


@STILL
@given(data=st.data())
def test_shuffling_splitting_and_repeating_change_no_bit(data: st.DataObject, panel: Panel) -> None:
    rows, origin = data.draw(requests(panel))
    whole = panel.matrix(rows, origin)
    order = np.random.default_rng(data.draw(st.integers(0, 99))).permutation(len(rows))
    assert panel.matrix(rows.take(order), origin).tobytes() == whole[order].tobytes()
    cut = data.draw(st.integers(0, len(rows)))
    halves = [panel.matrix(rows.take(part), origin) for part in (slice(cut), slice(cut, None))]
    assert np.concatenate(halves).tobytes() == whole.tobytes()
    twice = rows.take(np.repeat(np.arange(len(rows)), 2))
    assert panel.matrix(twice, origin).tobytes() == np.repeat(whole, 2, axis=0).tobytes()


@STILL
@given(data=st.data())
def test_features_that_must_be_known_are_known(data: st.DataObject, panel: Panel) -> None:
    rows, origin = data.draw(requests(panel))
    matrix = panel.matrix(rows, origin)
    assert not np.isinf(matrix).any()
    history = FEATURES[FEATURES.index("mean_weekday_91") : FEATURES.index("kfa")]
    errors = ("last_year_error", "last_year_error_chain")
    plan = FEATURES[FEATURES.index("days_since_promo") : FEATURES.index("promo2_phase")]
    school = FEATURES[FEATURES.index("days_since_school_holiday") :][:3]
    may_lack = {"months_since_competition", *history, *errors, *plan, *school}
    for i, name in enumerate(FEATURES):
        if name not in may_lack:
            assert not np.isnan(matrix[:, i]).any(), name
    assert (matrix[:, FEATURES.index("horizon")] == rows.day - origin).all()


def test_a_row_says_more_than_the_plan(panel: Panel) -> None:
    """A planner may ask what a promotion would do: the row's own flags count, not the plan's."""
    day = np.array([panel.last_day + 10])
    as_planned = panel.store_schedule(int(panel.store_numbers[0]), day)
    other = StoreDays(
        as_planned.store, as_planned.day, as_planned.open, 1 - as_planned.promo,
        as_planned.state_holiday, as_planned.school_holiday,
    )  # fmt: skip
    one, two = (panel.matrix(rows, panel.last_day)[0] for rows in (as_planned, other))
    assert one[FEATURES.index("promo")] != two[FEATURES.index("promo")]
    assert one[FEATURES.index("kfb")] != two[FEATURES.index("kfb")]


def test_rows_out_of_reach_are_refused(panel: Panel) -> None:
    row = panel.store_schedule(int(panel.store_numbers[0]), np.array([panel.last_day + 1]))
    for store, day, origin in (
        (9999, panel.last_day + 1, panel.last_day),
        (1, panel.last_day, panel.last_day),
        (1, panel.furthest_day + 1, panel.last_day),
        (1, panel.last_day + 1, panel.last_day + 1),
        (1, panel.first_day, panel.first_day - 1),
    ):
        bad = StoreDays(
            np.array([store], np.int32), np.array([day], np.int32), row.open, row.promo,
            row.state_holiday, row.school_holiday,
        )  # fmt: skip
        try:
            panel.matrix(bad, origin)
        except ValueError:
            continue
        raise AssertionError(f"store {store}, day {day}, origin {origin} was not refused")
