"""Two versions side by side: what they were made from, and which errs less, beyond luck."""

from dataclasses import dataclass

from rossmann.errors import DamagedModel
from rossmann.models import paired
from rossmann.models.gate import evidence_of
from rossmann.models.gate_compare import same_windows
from rossmann.models.registry import ModelVersion, Registry

_TOLD_ELSEWHERE = ("gate.", "rmspe.", "windows", "promotion", "digest.", "stage", "trained")


@dataclass(frozen=True)
class Comparison:
    """``lineage``: what differs, as (name, first, second). ``windows``: the same days, forecast by
    both backtests, as (origin, test). ``note`` says why where there are none.
    """

    lineage: list[tuple[str, str, str]]
    windows: list[tuple[str, paired.Paired]]
    note: str = ""


def compare_versions(registry: Registry, first: ModelVersion, second: ModelVersion) -> Comparison:
    """Compare ``first`` with ``second``; ``p`` is the chance that the first is only luckier.

    Raises ``ServiceError`` when the registry is away.
    """
    lineage = _differences(first.tags, second.tags)
    try:
        pairs = same_windows(evidence_of(registry, first), evidence_of(registry, second))
    except DamagedModel as error:
        return Comparison(lineage, [], str(error))
    windows = [
        (
            rows.origin,
            paired.compare(rows.store, rows.day, rows.sold, rows.forecast, other),
        )
        for _, rows, other in pairs
        if len(other)
    ]
    note = "" if windows else "their backtests have no day of the same window in common"
    return Comparison(lineage, windows, note)


def _differences(first: dict[str, str], second: dict[str, str]) -> list[tuple[str, str, str]]:
    names = sorted(name for name in {*first, *second} if not name.startswith(_TOLD_ELSEWHERE))
    both = ((name, first.get(name, "-"), second.get(name, "-")) for name in names)
    return [(name, mine, other) for name, mine, other in both if mine != other]
