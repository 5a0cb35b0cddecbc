"""What the registry said last, as a value: which version is in which stage."""

from dataclasses import dataclass, field
from typing import Final

from rossmann.schema import Stage

_HIGHEST: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Seen:
    """Each version's run and stage."""

    runs: dict[int, str] = field(default_factory=dict)
    stages: dict[int, Stage] = field(default_factory=dict)

    def in_stage(self, stage: Stage) -> int | None:
        """The version in that stage, or None."""
        return next((v for v, s in self.stages.items() if s is stage), None)

    def number(self, wanted: str | int) -> int | None:
        """The version that ``wanted`` (a stage or a number) means, whether there is one or not.

        None for an empty stage, and for what is neither.
        """
        if wanted in (Stage.PRODUCTION, Stage.STAGING):
            return self.in_stage(Stage(wanted))
        if isinstance(wanted, str):
            if not (wanted.isascii() and wanted.isdigit() and len(wanted) < 10):
                return None
            wanted = int(wanted)
        return wanted if 1 <= wanted <= _HIGHEST else None

    def names(self, wanted: str | int) -> str:
        """That there is no such version, and which there are."""
        stages = [
            f"{stage} (version {version})"
            for stage in (Stage.PRODUCTION, Stage.STAGING)
            if (version := self.in_stage(stage)) is not None
        ]
        numbers = ", ".join(map(str, sorted(self.runs))) or "none"
        if wanted in (Stage.PRODUCTION, Stage.STAGING):
            what = f"no version is in {wanted}"
        else:
            # Not str() of any number: one of thousands of digits raises.
            huge = isinstance(wanted, int) and abs(wanted) > _HIGHEST
            what = f"there is no version {'of that number' if huge else str(wanted)[:40]}"
        return f"{what}; there are: {', '.join([*stages, f'versions {numbers}'])}"
