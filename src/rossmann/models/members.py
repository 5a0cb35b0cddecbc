"""The three members of the ensemble."""

from typing import Final

from rossmann.models.member import Member
from rossmann.models.member_catboost import CatBoost
from rossmann.models.member_lightgbm import LightGbm
from rossmann.models.member_xgboost import XGBoost

MEMBERS: Final[dict[str, type[Member]]] = {
    "lightgbm": LightGbm,
    "xgboost": XGBoost,
    "catboost": CatBoost,
}


def seeds(seed: int) -> dict[str, int]:
    """A seed for each member, so that they do not sample the same rows."""
    return {name: seed + i for i, name in enumerate(MEMBERS)}
