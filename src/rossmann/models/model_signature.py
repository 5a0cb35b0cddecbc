"""What a registered version promises its callers: columns in and out, an example, its needs."""

import importlib.metadata
from typing import TYPE_CHECKING, Final

from rossmann.schema import FEATURES

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import ModelSignature

PACKAGES: Final = ("mlflow", "numpy", "numba", "pandas", "lightgbm", "xgboost-cpu", "catboost")
"""What a version needs beside its own code."""
_EXAMPLE: Final = {
    # A Friday in a promotion week, eight days ahead, of a store that sells about 6,600 a day.
    **{"day_of_week": 5, "day_of_month": 19, "working_days_left_in_month": 7, "promo_lift": 0.3},
    **{"days_from_easter": 75, "days_to_christmas": 60, "promo": 1, "days_to_promo": 0},
    **{"promo_days_left": 1, "promo2_phase": -1, "days_since_holiday": 15, "days_to_holiday": 30},
    **{"days_since_school_holiday": 60, "days_to_school_holiday": 34, "closed_days_after": 0},
    **{"days_since_long_closure": 200, "open_days_before": 12, "log_competition_distance": 7.1},
    **{"months_since_competition": 58, "region": 5, "horizon": 8, "mean_weekday_91": -0.11},
    **{"mean_promo_28": 0.03, "mean_same_182": -0.01, "mean_same_364": -0.02},
    **{"median_same_364": -0.03, "sd_same_364": 0.12, "count_same_364": 24, "open_days_365": 300},
    **{"log_sales_per_customer_365": 2.2, "log_customers_same_364": 6.6, "last_year_day": -0.05},
    **{"last_year_same": -0.04, "last_year_change": 0.02, "kfa": 0.01, "kfc": -0.01},
    **{"kfd": -0.02, "last_year_error": 0.01, "last_year_error_chain": 0.01, "kfb": 8.8},
}


def requirements() -> list[str]:
    """The needs, pinned to what made the version: package names and versions, no hosts."""
    return [f"{name}=={importlib.metadata.version(name)}" for name in PACKAGES]


def signature() -> "ModelSignature":
    """46 doubles in feature order in, one double out.

    All are doubles because MLflow drops a signature whose integers may be missing.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    columns: list[ColSpec | TensorSpec] = [ColSpec(DataType.double, name) for name in FEATURES]
    return ModelSignature(inputs=Schema(columns), outputs=Schema([ColSpec(DataType.double)]))


def example() -> "pd.DataFrame":
    """One row of input, (1, 46): what is not named is 0."""
    import pandas as pd

    row = {name: float(_EXAMPLE.get(name, 0)) for name in FEATURES}
    return pd.DataFrame([row], columns=list(FEATURES), dtype="float64")
