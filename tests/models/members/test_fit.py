"""Members that are fitted side by side: same members, and an end for all when one ends."""

import numpy as np
import pytest

from rossmann.data.panel.panel import Panel
from rossmann.models.members.fit import first_training_day, fit_members, sample_training_rows
from rossmann.setting_groups import Profile
from rossmann.settings import Settings

HOURS = 10_000_000
"""So many rounds take hours: a test that ends has stopped them."""


def profile(settings: Settings, **rounds: int) -> Profile:
    """The quick profile with other numbers of rounds."""
    quick = settings.profile("quick")
    members = {
        name: {**params, "rounds": rounds.get(name, params["rounds"])}
        for name, params in quick.members.items()
    }
    return quick.model_copy(update={"members": members})


def test_members_do_not_depend_on_how_many_are_fitted_at_once(
    panel: Panel, chain_settings: Settings
) -> None:
    rows = sample_training_rows(panel, chain_settings.history_days, 1)
    fits = [
        fit_members(rows, chain_settings.profile("quick"), 1, threads, lambda line: None)
        for threads in (1, 2, 3)
    ]
    for fit in fits:
        assert list(fit) == list(chain_settings.profile("quick").members)
        for name, member in fit.items():
            expected = fits[0][name].log_factor(rows.matrix, 1)
            assert (member.log_factor(rows.matrix, 1) == expected).all()


@pytest.mark.parametrize("lasting", ["lightgbm", "xgboost", "catboost"])
def test_an_error_of_one_member_ends_the_others(
    panel: Panel, chain_settings: Settings, lasting: str
) -> None:
    rows = sample_training_rows(panel, chain_settings.history_days, 1)
    chosen = profile(chain_settings, **{lasting: HOURS})
    broken = "xgboost" if lasting != "xgboost" else "lightgbm"
    parameter = "max_depth" if broken == "xgboost" else "num_leaves"
    members = {
        name: {**params, parameter: -7} if name == broken else params
        for name, params in chosen.members.items()
    }
    with pytest.raises(Exception, match=parameter):
        fit_members(rows, chosen.model_copy(update={"members": members}), 1, 3, lambda line: None)


def test_an_interrupt_ends_all_members(panel: Panel, chain_settings: Settings) -> None:
    """A signal raises in the main thread, as this report does."""
    rows = sample_training_rows(panel, chain_settings.history_days, 1)

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_members(rows, profile(chain_settings, lightgbm=HOURS), 1, 2, interrupt)


def test_no_training_row_lies_before_the_first_training_day(
    panel: Panel, chain_settings: Settings
) -> None:
    rows = sample_training_rows(panel, chain_settings.history_days, 1)
    first = first_training_day(panel, chain_settings.history_days)
    assert first <= int(rows.day.min()) < first + 30
    assert np.isfinite(rows.sold).all()
