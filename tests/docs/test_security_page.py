"""The page on limits: its table of budgets holds every limit of a request, with its default."""

import re

import pytest

from rossmann.setting_groups import RequestLimits
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "deployment" / "limits.md").read_text("utf-8")


def budget_rows() -> list[list[str]]:
    """Cells of the table: what, setting, default, what happens beyond it."""
    section = PAGE.split("## The budget of a request")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows]


@pytest.mark.parametrize("name", RequestLimits.model_fields)
def test_each_limit_is_in_the_table_with_its_default(name: str) -> None:
    (row,) = (row for row in budget_rows() if f"`{name}`" in row[1])
    names = re.findall(r"`(\w+)`", row[1])
    value = f"{RequestLimits.model_fields[name].default:,.0f}"
    defaults = re.findall(r"\d[\d,]*", row[2].split(";")[0])
    # Settings and defaults of a row have the same order.
    assert defaults[names.index(name)].strip(",") == value


def test_the_table_names_only_settings_that_exist() -> None:
    for row in budget_rows():
        assert set(re.findall(r"`(\w+)`", row[1])) <= set(RequestLimits.model_fields), row
