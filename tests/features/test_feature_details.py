"""The examples of the features are the values of that row."""

import math
from datetime import date

import numpy as np
import pytest

from rossmann.data.panel.panel import Panel
from rossmann.epoch_days import to_day
from rossmann.features import feature_details
from rossmann.features.feature_details import FEATURE_DETAILS
from rossmann.schema import FEATURES


def test_details_have_the_order_of_the_catalogue() -> None:
    assert tuple(FEATURE_DETAILS) == FEATURES


def test_examples_are_the_values_of_that_row(panel: Panel) -> None:
    """``panel`` is the chain that ``EXAMPLE_CHAIN`` writes."""
    day = to_day(date.fromisoformat(feature_details.EXAMPLE_DATE))
    origin = to_day(date.fromisoformat(feature_details.EXAMPLE_ORIGIN))
    rows = panel.store_schedule(feature_details.EXAMPLE_STORE, np.array([day], np.int32))
    (values,) = panel.matrix(rows, origin)
    for name, value in zip(FEATURES, values.tolist(), strict=True):
        assert math.isfinite(value)
        assert FEATURE_DETAILS[name].example == pytest.approx(value, abs=1e-3), name
