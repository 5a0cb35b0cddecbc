"""The model card: what it says of calibration, and what it leaves out where that is unknown."""

import pytest

from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.models.reports.model_card import render_markdown

SINGLE_WINDOW = {"windows": 1, "standard_error": [None, None]}
TWO_WINDOWS = {"windows": 2, "standard_error": [0.0112, 0.0093]}


def render(trained: TrainedModel, unbiased: dict[str, object]) -> str:
    card = {**trained.card, "unbiased": {**trained.card["unbiased"], **unbiased}}
    return render_markdown(card, trained.windows, "a model")


def test_card_states_the_standard_error_of_the_unbiased_factors(trained: TrainedModel) -> None:
    card = render(trained, TWO_WINDOWS)
    factors = trained.card["unbiased"]["factors"]
    assert "of what 2 windows showed" in card
    assert f"without promotion {factors[0]:.4f} (± 0.0112)" in card
    assert f"with promotion {factors[1]:.4f} (± 0.0093)" in card


def test_card_of_a_single_window_states_none(trained: TrainedModel) -> None:
    assert "Factors of unbiased totals" not in render(trained, SINGLE_WINDOW)


@pytest.mark.parametrize(("years", "is_named"), [(0, True), (1, True), (2, False)])
def test_card_names_seasons_that_are_not_verified(
    trained: TrainedModel, years: int, is_named: bool
) -> None:
    intervals = {**trained.card["intervals"], "seasons": {"Christmas": years, "Easter": 2}}
    card = render_markdown({**trained.card, "intervals": intervals}, trained.windows, "a model")
    assert ("Not verified: days of Christmas." in card) == is_named


def test_card_has_the_chains_past_errors_beside_the_half_widths(trained: TrainedModel) -> None:
    card = render(trained, {})
    assert (
        "| chain total from | age of the fit | sold over forecast | 80% band | 95% band |" in card
    )
    for past in trained.card["totals"]["past"]:
        assert f"| {past['origin']} | {past['age_days']} days |" in card


def test_card_without_windows_renders(trained: TrainedModel) -> None:
    assert "No window" in render_markdown(trained.card, [], "a model")
