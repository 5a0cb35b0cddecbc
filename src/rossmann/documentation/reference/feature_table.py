"""Page of the 46 features."""

from itertools import groupby
from typing import Final

from rossmann.documentation.reference.markdown import code, page, prose, section, sentence, table
from rossmann.features import feature_details
from rossmann.features.feature_details import FEATURE_DETAILS
from rossmann.schema import FEATURE_CATALOGUE, Feature

_TITLES: Final = {
    "calendar": "Calendar",
    "promo": "Promotions",
    "holiday": "State holidays",
    "school": "School holidays",
    "opening": "Opening days",
    "store": "Store",
    "horizon": "Forecast horizon",
    "history": "Sales history",
    "state_space": "Kalman filters",
}
"""Heading of each group."""
_HEADER: Final = ("feature", "meaning", "columns", "days", "unit", "example")


def feature_pages() -> dict[str, str]:
    """``features.md``."""
    introduction = (
        "Use this page to look up one of the 46 features that the members learn from. **O** is the"
        " [origin](../explanations/origin.md), the last day whose sales are used, and **D** the"
        " row's day. No feature uses sales after O; days after O come from the schedule."
    )
    notes = (
        "- *Same kind* means days with the weekday and the promotion of the row.\n"
        "- *If planned*: the value is missing (NaN) where no schedule covers the days.\n"
        "- History and filters are on the scale of log sales. *Less kfb* means the distance to"
        " `kfb`, the forecast of the [base filter](../explanations/kalman-filter.md), which every"
        " member corrects.\n"
        f"- The example is store {feature_details.EXAMPLE_STORE} on"
        f" {feature_details.EXAMPLE_DATE} as of {feature_details.EXAMPLE_ORIGIN}, in the chain that"
        f" `{feature_details.EXAMPLE_CHAIN}` writes."
    )
    groups = [
        section(_TITLES[group], table(_HEADER, [_row(feature) for feature in features]))
        for group, features in groupby(FEATURE_CATALOGUE, key=lambda feature: feature.group)
    ]
    return {"features.md": page("The 46 features", introduction, notes, *groups)}


def _row(feature: Feature) -> tuple[str, ...]:
    details = FEATURE_DETAILS[feature.name]
    cells = (prose(text) for text in (details.source, details.window, details.unit))
    return code(feature.name), sentence(feature.note), *cells, code(f"{details.example:g}")
