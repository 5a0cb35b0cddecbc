"""The warnings ``in_training`` and ``rare_season``: which rows they concern."""

from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import pytest

from rossmann.data.panel.panel import Panel
from rossmann.epoch_days import format_iso_day, to_day
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.inference.forecaster import Forecaster, ForecastRequest
from rossmann.models.inference.row_warnings import NO_TRAINING, RowWarning, training_span
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.schema import StoreDays
from rossmann.serving.prediction.micro_batching import ValidatedRequest, forecast_batch
from tests.fixtures.serving import PlainModel


def plain_forecaster(panel: Panel, first: int, last: int, dataset: str = "demo") -> Forecaster:
    """A version that learned from the days ``first`` to ``last``."""
    model = PlainModel(1, panel)
    days = {"first_day": format_iso_day(first), "last_day": format_iso_day(last)}
    model.card["data"] |= {"dataset": dataset, **days}
    return Forecaster(panel, model)  # type: ignore[arg-type]  # has what a forecast needs


def rows_of(panel: Panel, days: list[int], **fields: int) -> StoreDays:
    """Open rows of one store, but for ``fields``."""
    rows = panel.store_schedule(int(panel.store_numbers[3]), np.array(days, np.int32))
    values = {"open": 1, **fields}
    return replace(rows, **{k: np.full(len(days), v, np.uint8) for k, v in values.items()})


def in_training(forecaster: Forecaster, rows: StoreDays, **options: Any) -> RowWarning | None:
    warnings = forecaster.forecast(ForecastRequest(rows, **options)).warnings
    return next((warning for warning in warnings if warning.type == "in_training"), None)


def test_rows_of_days_that_the_version_learned_from_are_warned_of(panel: Panel) -> None:
    last = panel.last_day - 20
    forecaster = plain_forecaster(panel, panel.first_day, last)
    days = [last + 1, last, last - 1, panel.last_day, panel.last_day + 1]
    warning = in_training(forecaster, rows_of(panel, days))
    assert warning is not None
    assert (warning.count, warning.rows) == (2, (1, 2))
    for words in ("learned from", "no evidence of accuracy", "the backtest measures it"):
        assert words in warning.msg
    # The origin changes nothing: features before the day, but trees that saw it.
    assert in_training(forecaster, rows_of(panel, [last]), as_of=last - 30) is not None
    assert in_training(forecaster, rows_of(panel, days[3:])) is None


def test_days_before_those_it_learned_from_are_not(panel: Panel) -> None:
    first, last = panel.first_day + 200, panel.last_day
    warning = in_training(
        plain_forecaster(panel, first, last), rows_of(panel, [first - 1, first, last])
    )
    assert warning is not None and warning.rows == (1, 2)


def test_closed_rows_are_not(panel: Panel) -> None:
    forecaster = plain_forecaster(panel, panel.first_day, panel.last_day)
    days = [panel.last_day - 1, panel.last_day]
    assert in_training(forecaster, rows_of(panel, days, open=0)) is None
    mixed = replace(rows_of(panel, days), open=np.array([0, 1], np.uint8))
    warning = in_training(forecaster, mixed)
    assert warning is not None and warning.rows == (1,)


def test_a_version_of_another_chain_learned_from_no_day_of_this_one(panel: Panel) -> None:
    forecaster = plain_forecaster(panel, panel.first_day, panel.last_day, "rossmann")
    assert forecaster.training_span == NO_TRAINING
    assert in_training(forecaster, rows_of(panel, [panel.last_day])) is None


def rare_season(panel: Panel, seasons: dict[str, int] | None, rows: StoreDays) -> tuple[int, ...]:
    """The rows that have the warning, by a version whose backtest saw ``seasons``."""
    model = PlainModel(1, panel)
    if seasons is not None:
        model.card["intervals"] = {**model.card["intervals"], "seasons": seasons}
    forecaster = Forecaster(panel, model)  # type: ignore[arg-type]  # has what a forecast needs
    warnings = forecaster.forecast(ForecastRequest(rows, int(rows.day.min()) - 1)).warnings
    return next((w.rows for w in warnings if w.type == "rare_season"), ())


def test_days_of_a_season_that_was_seen_once_are_warned_of(panel: Panel) -> None:
    days = [to_day(date(2014, 12, d)) for d in (1, 24, 31)] + [to_day(date(2015, 1, 6))]
    days += [to_day(date(2015, 4, d)) for d in (4, 7)]  # Easter is on 5 April
    rows = rows_of(panel, days)
    assert rare_season(panel, {"Christmas": 1, "Easter": 1}, rows) == (0, 1, 2, 4)
    assert rare_season(panel, {"Christmas": 2, "Easter": 1}, rows) == (4,)
    assert rare_season(panel, {"Christmas": 0, "Easter": 3}, rows) == (0, 1, 2)
    assert rare_season(panel, {"Christmas": 2, "Easter": 2}, rows) == ()
    assert rare_season(panel, None, rows) == ()  # a version of an earlier release
    closed = replace(rows, open=np.array([1, 0, 0, 1, 1, 1], np.uint8))
    assert rare_season(panel, {"Christmas": 1, "Easter": 2}, closed) == (0,)


@pytest.mark.parametrize("card", [{}, {"data": {"dataset": "demo", "last_day": "soon"}}])
def test_a_card_without_days_gives_no_span(card: dict[str, Any]) -> None:
    assert training_span(card, "demo") == NO_TRAINING


def test_a_trained_version_over_a_newer_panel_keeps_its_own_span(
    panel: Panel, trained: TrainedModel
) -> None:
    """Training writes the span into the card; another panel does not change it."""
    ensemble = Ensemble.load(trained.folder)
    assert Forecaster(panel, ensemble).training_span == (panel.first_day, panel.last_day)
    data = ensemble.card["data"] | {"last_day": format_iso_day(panel.last_day - 9)}
    older = Forecaster(panel, Ensemble(ensemble.members, ensemble.card | {"data": data}))
    for forecaster in (older, older.with_panel(panel), older.single_threaded()):
        assert in_training(forecaster, rows_of(panel, [panel.last_day - 8])) is None
        assert in_training(forecaster, rows_of(panel, [panel.last_day - 9])) is not None


def test_requests_of_one_batch_are_warned_of_as_if_alone(panel: Panel) -> None:
    forecaster = plain_forecaster(panel, panel.first_day, panel.last_day - 20)
    days = [[panel.last_day + 1], [panel.last_day - 30, panel.last_day - 10], [panel.last_day - 40]]
    requests = [rows_of(panel, part) for part in days]
    batch = forecast_batch(
        forecaster,
        [ValidatedRequest(rows, int(rows.day.min()) - 1) for rows in requests],
        (),
        "accuracy",
    )
    alone = [forecaster.forecast(ForecastRequest(rows)) for rows in requests]
    assert [forecast.warnings for forecast in batch] == [forecast.warnings for forecast in alone]
    counts = [{w.type: w.count for w in forecast.warnings} for forecast in batch]
    assert [count.get("in_training") for count in counts] == [None, 1, 1]


def test_masks_of_a_file_are_those_of_the_warnings(panel: Panel) -> None:
    forecaster = plain_forecaster(panel, panel.first_day, panel.last_day - 5)
    rows = rows_of(panel, list(range(panel.last_day - 10, panel.last_day + 1)))
    masks = forecaster.warning_masks(rows, panel.last_day - 11)
    (mask,) = (mask for name, _, mask in masks if name == "in_training")
    assert mask.tolist() == [True] * 6 + [False] * 5
