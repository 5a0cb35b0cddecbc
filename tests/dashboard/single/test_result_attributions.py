"""Waterfall of drivers: contiguous steps from the baseline to the forecast."""

import pytest

from rossmann.dashboard.shared import charts
from rossmann.dashboard.single.result import waterfall_steps
from rossmann.serving.schemas.forecasts import Driver, Explanation


def make_explanation(*percents: float) -> Explanation:
    """A baseline of 1,000 and one driver for each percentage."""
    sales, drivers = 1000.0, []
    for i, percent in enumerate(percents):
        step = sales * percent / 100
        factor = 1 + percent / 100
        label = f"driver {i}"
        drivers.append(Driver(name=label, label=label, factor=factor, percent=percent, sales=step))
        sales += step
    return Explanation(forecast=sales, baseline=1000.0, drivers=drivers)


def test_steps_lead_from_baseline_to_forecast() -> None:
    explanation = make_explanation(3.0, -6.0, 0.2, 22.0, -0.1)
    plain, *middle, forecast = waterfall_steps(explanation)
    assert (plain.end, forecast.end) == (1000.0, explanation.forecast)
    ends = [plain.end, *(step.end for step in middle)]
    assert [step.start for step in middle] == ends[:-1]
    assert ends[-1] == pytest.approx(explanation.forecast)


def test_largest_driver_is_first_and_small_ones_are_combined_last() -> None:
    steps = waterfall_steps(make_explanation(3.0, -6.0, 0.2, 22.0, -0.1))[1:-1]
    labels = [step.label for step in steps]
    assert labels == ["driver 3", "driver 1", "driver 0", "2 other, under 0.5 % each"]
    assert steps[-1].percent == pytest.approx(100 * (1.002 * 0.999 - 1))


def test_single_small_driver_keeps_its_name() -> None:
    assert [step.label for step in waterfall_steps(make_explanation(0.2, 5.0))[1:-1]] == [
        "driver 1",
        "driver 0",
    ]


def test_kind_of_a_step_follows_its_sign() -> None:
    assert [step.kind for step in waterfall_steps(make_explanation(5.0, -4.0))[1:-1]] == [
        charts.INCREASE,
        charts.DECREASE,
    ]


def test_driver_chart_labels_every_step() -> None:
    spec = charts.driver_chart(waterfall_steps(make_explanation(5.0, -4.0))).to_dict()
    [rows] = spec["datasets"].values()
    assert [row["Effect"] for row in rows] == ["1,000", "+5.0 % (+50)", "-4.0 % (-42)", "1,008"]
    assert list(rows[0]) == ["Driver", "Kind", "From", "To", "Effect"]


@pytest.mark.parametrize("percents", [(5.03, 2.47, -4.44, 1.11), (0.05, 0.05, 0.05, 0.07)])
def test_shown_effects_add_up_to_the_shown_forecast(percents: tuple[float, ...]) -> None:
    steps = waterfall_steps(make_explanation(*percents))
    effects = [int(step.words.split("(")[1].rstrip(")")) for step in steps[1:-1]]
    assert 1000 + sum(effects) == int(steps[-1].words.replace(",", ""))
