"""Features depend only on the row, the origin and the data."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rossmann.data.panel.panel import Panel
from rossmann.schema import FEATURES, StoreDays

PROPERTY = settings(
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


@PROPERTY
@given(data=st.data())
def test_matrix_is_independent_of_order_split_and_repetition(
    data: st.DataObject, panel: Panel
) -> None:
    rows, origin = data.draw(requests(panel))
    whole = panel.matrix(rows, origin)
    order = np.random.default_rng(data.draw(st.integers(0, 99))).permutation(len(rows))
    assert panel.matrix(rows.take(order), origin).tobytes() == whole[order].tobytes()
    cut = data.draw(st.integers(0, len(rows)))
    halves = [panel.matrix(rows.take(part), origin) for part in (slice(cut), slice(cut, None))]
    assert np.concatenate(halves).tobytes() == whole.tobytes()
    twice = rows.take(np.repeat(np.arange(len(rows)), 2))
    assert panel.matrix(twice, origin).tobytes() == np.repeat(whole, 2, axis=0).tobytes()


@PROPERTY
@given(data=st.data())
def test_features_are_missing_only_where_allowed(data: st.DataObject, panel: Panel) -> None:
    rows, origin = data.draw(requests(panel))
    matrix = panel.matrix(rows, origin)
    assert not np.isinf(matrix).any()
    history = FEATURES[FEATURES.index("mean_weekday_91") : FEATURES.index("kfa")]
    errors = ("last_year_error", "last_year_error_chain")
    plan = FEATURES[FEATURES.index("days_since_promo") : FEATURES.index("promo2_phase")]
    school = FEATURES[FEATURES.index("days_since_school_holiday") :][:3]
    may_be_missing = {"months_since_competition", *history, *errors, *plan, *school}
    for i, name in enumerate(FEATURES):
        if name not in may_be_missing:
            assert not np.isnan(matrix[:, i]).any(), name
    assert (matrix[:, FEATURES.index("horizon")] == rows.day - origin).all()


def test_row_flags_override_the_schedule(panel: Panel) -> None:
    """For what-if forecasts the flags of the row take precedence over the schedule."""
    day = np.array([panel.last_day + 10])
    scheduled = panel.store_schedule(int(panel.store_numbers[0]), day)
    changed = StoreDays(
        scheduled.store, scheduled.day, scheduled.open, 1 - scheduled.promo,
        scheduled.state_holiday, scheduled.school_holiday,
    )  # fmt: skip
    first, second = (panel.matrix(rows, panel.last_day)[0] for rows in (scheduled, changed))
    assert first[FEATURES.index("promo")] != second[FEATURES.index("promo")]
    assert first[FEATURES.index("kfb")] != second[FEATURES.index("kfb")]


def test_rows_outside_the_panel_raise(panel: Panel) -> None:
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
        with pytest.raises(ValueError):
            panel.matrix(bad, origin)
