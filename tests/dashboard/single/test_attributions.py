"""Steps from the plain day to the forecast: each begins where the last ended, none is lost."""

import pytest

from rossmann.dashboard.shared import charts
from rossmann.dashboard.single import attributions as drivers
from rossmann.serving.schemas.forecasts import Driver, Explanation


def told(*percents: float) -> Explanation:
    """A plain day of 1,000 and drivers one after the other."""
    sales, out = 1000.0, []
    for i, percent in enumerate(percents):
        step = sales * percent / 100
        factor = 1 + percent / 100
        label = f"driver {i}"
        out.append(Driver(name=label, label=label, factor=factor, percent=percent, sales=step))
        sales += step
    return Explanation(forecast=sales, baseline=1000.0, drivers=out)


def test_steps_lead_from_the_plain_day_to_the_forecast() -> None:
    split = told(3.0, -6.0, 0.2, 22.0, -0.1)
    plain, *middle, forecast = drivers.waterfall_steps(split)
    assert (plain.end, forecast.end) == (1000.0, split.forecast)
    ends = [plain.end, *(step.end for step in middle)]
    assert [step.start for step in middle] == ends[:-1]
    assert ends[-1] == pytest.approx(split.forecast)


def test_the_largest_comes_first_and_small_ones_are_gathered_last() -> None:
    steps = drivers.waterfall_steps(told(3.0, -6.0, 0.2, 22.0, -0.1))[1:-1]
    labels = [step.label for step in steps]
    assert labels == ["driver 3", "driver 1", "driver 0", "2 other, under 0.5 % each"]
    assert steps[-1].percent == pytest.approx(100 * (1.002 * 0.999 - 1))


def test_a_single_small_driver_keeps_its_name() -> None:
    assert [step.label for step in drivers.waterfall_steps(told(0.2, 5.0))[1:-1]] == [
        "driver 1",
        "driver 0",
    ]


def test_colours_tell_more_from_less() -> None:
    assert [step.kind for step in drivers.waterfall_steps(told(5.0, -4.0))[1:-1]] == [
        charts.MORE,
        charts.LESS,
    ]


def test_every_step_is_drawn_with_its_numbers() -> None:
    picture = charts.driver_chart(drivers.waterfall_steps(told(5.0, -4.0))).to_dict()
    [rows] = picture["datasets"].values()
    assert [row["words"] for row in rows] == ["1,000", "+5.0 % (+50)", "-4.0 % (-42)", "1,008"]
