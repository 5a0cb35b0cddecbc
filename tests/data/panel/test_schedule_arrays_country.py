"""Chains of other countries: their holidays, working days and regions in data and features."""

from collections.abc import Callable
from datetime import date
from pathlib import Path

import holidays
import numpy as np
import polars as pl
import pytest

from rossmann.data.demo.write_tables import write_demo
from rossmann.data.make_dataset import make_dataset
from rossmann.data.panel.panel import Panel, build_panel, open_panel
from rossmann.epoch_days import to_date, to_day
from rossmann.errors import DataValidationError, SettingsError
from rossmann.features.calendars import country_regions
from rossmann.models.training.train import train
from rossmann.schema import FEATURES
from rossmann.settings import Settings, load_settings

STORES = 12
AHEAD = date(2016, 7, 31)
"""Holidays after the schedule are told from the country's calendar to this day."""
MakeChain = Callable[..., Settings]


@pytest.fixture
def make_chain(tmp_path: Path, chain_settings: Settings) -> MakeChain:
    """A demo chain in which all stores close on the country's holidays, and on no others."""

    def make(country: str, states: list[str | None] | None = None) -> Settings:
        settings = load_settings(
            data_dir=tmp_path, threads=1, country=country,
            profiles={n: p.model_dump() for n, p in chain_settings.profiles.items()},
        )  # fmt: skip
        write_demo(settings.raw_dir, seed=5, stores=STORES, days=620)
        public = holidays.country_holidays(country, years=range(2013, 2017))
        for name in ("train.csv", "test.csv"):
            path = settings.raw_dir / name
            table = pl.read_csv(path, schema_overrides={"StateHoliday": pl.String})
            day = pl.col("Date").str.to_date()
            closed = day.is_in(sorted(public)) | (day.dt.weekday() == 7)
            sold = [n for n in ("Sales", "Customers") if n in table.columns]
            table = table.with_columns(
                pl.when(day.is_in(sorted(public))).then(pl.lit("a")).otherwise(pl.lit("0"))
                .alias("StateHoliday"),
                pl.when(closed).then(0).otherwise(1).alias("Open"),
                *(pl.when(closed).then(0).otherwise(pl.max_horizontal(n, 500)).alias(n)
                  for n in sold),
            )  # fmt: skip
            table.write_csv(path)
        if states is not None:
            stores = pl.read_csv(settings.raw_dir / "store.csv", infer_schema=False)
            stores.with_columns(pl.Series("State", states, pl.String)).write_csv(
                settings.raw_dir / "store.csv"
            )
        return settings

    return make


def open_chain(settings: Settings) -> Panel:
    info = make_dataset(settings)
    build_panel(info, threads=1)
    return open_panel(info)


def closed_days(panel: Panel, store: int) -> set[date]:
    """Weekdays after the schedule on which a store without a plan counts as closed."""
    days = np.arange(panel.schedule_end + 1, to_day(AHEAD) + 1)
    rows = panel.store_schedule(store, days)
    found = {to_date(int(d)) for d, is_open in zip(days, rows.open, strict=True) if not is_open}
    return {day for day in found if day.weekday() < 6}


def expected_days(panel: Panel, country: str, region: str | None = None) -> set[date]:
    first = to_date(panel.schedule_end)
    public = holidays.country_holidays(country, subdiv=region, years=range(2015, 2017))
    return {day for day in public if first < day <= AHEAD and day.weekday() < 6}


@pytest.mark.parametrize("country", ["FR", "AT"])
def test_days_without_a_plan_close_on_the_countrys_holidays(
    make_chain: MakeChain, country: str
) -> None:
    panel = open_chain(make_chain(country))
    assert panel.info.country == country
    expected = expected_days(panel, country)
    assert len(expected) >= 7
    for store in panel.store_numbers:
        assert closed_days(panel, int(store)) == expected


def test_a_chain_of_another_country_is_trained_and_forecast(make_chain: MakeChain) -> None:
    settings = make_chain("FR")
    open_chain(settings)
    trained = train(settings, "quick")
    for window in trained.windows:
        assert window.rmspe["ensemble"] < window.rmspe["seasonal_naive"]


def test_regions_of_the_store_table_hold(make_chain: MakeChain) -> None:
    """Moselle keeps Good Friday and 26 December, which no holiday of the past has told."""
    states = ["57", None] * (STORES // 2)
    panel = open_chain(make_chain("FR", states))
    given, unknown = (int(n) for n in panel.store_numbers[:2])
    assert closed_days(panel, given) == expected_days(panel, "FR", "57")
    assert closed_days(panel, unknown) == expected_days(panel, "FR")
    rows = panel.schedule(panel.store_numbers[:2], np.full(2, panel.last_day + 1, np.int32))
    region = panel.matrix(rows, panel.last_day)[:, FEATURES.index("region")]
    assert region[0] == country_regions("FR").index("57")
    assert region[1] < 0  # several fit


def test_a_region_that_does_not_exist_is_an_error(make_chain: MakeChain) -> None:
    settings = make_chain("AT", ["9"] * (STORES - 1) + ["Wien"])
    with pytest.raises(DataValidationError, match="State is empty or one of 1, 2, 3"):
        make_dataset(settings)


def test_the_country_is_part_of_the_data_version(make_chain: MakeChain) -> None:
    settings = make_chain("AT")
    versions = [
        make_dataset(settings.model_copy(update={"country": country})).version
        for country in ("AT", "DE", "AT")
    ]
    assert versions[0] == versions[2] != versions[1]
    with pytest.raises(SettingsError, match="not known"):
        open_chain(settings.model_copy(update={"country": "XX"}))


def test_working_days_follow_the_country(make_chain: MakeChain) -> None:
    settings = make_chain("AT")
    austria = open_chain(settings).arrays.table
    germany = open_chain(settings.model_copy(update={"country": "DE"})).arrays.table
    assert (austria != germany).any()
