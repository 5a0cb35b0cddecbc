"""LightGBM, XGBoost and CatBoost as ensemble members."""

from typing import Final

from rossmann.models.members.base import BaseLearner
from rossmann.models.members.catboost import CatBoost
from rossmann.models.members.lightgbm import LightGBM
from rossmann.models.members.xgboost import XGBoost

LEARNERS: Final[dict[str, type[BaseLearner]]] = {
    "lightgbm": LightGBM,
    "xgboost": XGBoost,
    "catboost": CatBoost,
}
