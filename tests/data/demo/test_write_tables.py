"""The demo chain: effects and irregularities of the real tables, valid at any size."""

import hashlib
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from rossmann.data.demo.write_tables import LAST_DAY, write_demo
from rossmann.data.make_dataset import DatasetInfo, make_dataset
from rossmann.data.tables.raw_tables import read_text
from rossmann.schema import Dataset
from rossmann.settings import load_settings


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatasetInfo]:
    """The chain at its full size, validated."""
    settings = load_settings(data_dir=tmp_path_factory.mktemp("demo"), demo=True)
    write_demo(settings.demo_raw_dir, settings.seed)
    yield make_dataset(settings)


@pytest.fixture(scope="module")
def history(chain: DatasetInfo) -> pl.DataFrame:
    frame = pl.read_parquet(chain.folder / "history.parquet")
    return frame.with_columns(weekday=pl.col("Date").dt.weekday())


@pytest.fixture(scope="module")
def open_days(history: pl.DataFrame) -> pl.DataFrame:
    """Open days with sales; ``residual``: log sales less the store's median of such days."""
    days = history.filter(pl.col("Sales") > 0).with_columns(log=pl.col("Sales").log())
    median = pl.col("log").median().over("Store", "weekday", "Promo")
    return days.with_columns(residual=pl.col("log") - median)


@pytest.fixture(scope="module")
def stores(chain: DatasetInfo) -> pl.DataFrame:
    return pl.read_parquet(chain.folder / "stores.parquet")


def mean_residual(open_days: pl.DataFrame, *filters: pl.Expr) -> float:
    return float(open_days.filter(*filters).select(pl.mean("residual")).item())


def test_default_size_is_that_of_the_real_chain(chain: DatasetInfo) -> None:
    assert chain.dataset is Dataset.DEMO
    assert (chain.rows, chain.stores) == (1_017_209, 1_115)
    assert (chain.first_day, chain.last_day) == (date(2013, 1, 1), date(2015, 7, 31))
    assert chain.schedule_end == date(2015, 9, 17)


def test_tables_depend_on_the_seed_alone(tmp_path: Path) -> None:
    def digest(name: str, seed: int) -> list[str]:
        write_demo(tmp_path / name, seed, stores=12, days=90)
        paths = sorted((tmp_path / name).iterdir())
        assert [p.name for p in paths] == ["store.csv", "test.csv", "train.csv"]
        return [hashlib.sha256(p.read_bytes()).hexdigest() for p in paths]

    first = digest("one", 3)
    assert digest("two", 3) == first
    assert all(one != other for one, other in zip(first, digest("three", 4), strict=True))


def test_files_have_kaggles_format(tmp_path: Path) -> None:
    write_demo(tmp_path, 1, stores=3, days=40)
    names, first, *_ = (tmp_path / "train.csv").read_text().splitlines()
    assert names == (
        '"Store","DayOfWeek","Date","Sales","Customers","Open","Promo",'
        '"StateHoliday","SchoolHoliday"'
    )
    assert first.startswith("1,5,2015-07-31,")
    assert first.endswith(',"0","1"')
    names, first, *_ = (tmp_path / "test.csv").read_text().splitlines()
    assert names.startswith('"Id","Store","DayOfWeek","Date","Open"')
    assert first.startswith("1,1,4,2015-09-17,")
    assert '""' in (tmp_path / "store.csv").read_text()


@pytest.mark.parametrize("name", ["train.csv", "test.csv"])
def test_rows_are_sorted_with_the_newest_day_first(tmp_path: Path, name: str) -> None:
    write_demo(tmp_path, 1, stores=5, days=60)
    frame = read_text(tmp_path / name)[0].with_columns(pl.col("Store").cast(pl.Int64))
    assert frame.equals(frame.sort("Date", "Store", descending=[True, False]))


@hypothesis(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    stores=st.integers(1, 25),
    days=st.integers(1, 1_000),
    ahead=st.integers(1, 60),
)
def test_every_size_passes_validation(
    tmp_path_factory: pytest.TempPathFactory, seed: int, stores: int, days: int, ahead: int
) -> None:
    settings = load_settings(data_dir=tmp_path_factory.mktemp("size"), demo=True)
    # The first row of one store is missing: a single one would leave nothing.
    days = max(days, 2) if stores == 1 else days
    write_demo(settings.demo_raw_dir, seed, stores, days, ahead)
    info = make_dataset(settings)
    assert info.stores == stores
    assert info.last_day == LAST_DAY
    assert info.schedule_end == LAST_DAY + timedelta(days=ahead)


def test_sizes_below_one_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a store"):
        write_demo(tmp_path, 1, stores=0)


def test_a_sixth_of_days_is_closed_and_few_stores_open_on_sundays(history: pl.DataFrame) -> None:
    assert 0.15 < 1 - history.select(pl.mean("Open")).item() < 0.19
    sundays = history.filter(weekday=7).group_by("Store").agg(pl.sum("Open"))
    assert sundays.filter(pl.col("Open") > 0).height == 33


def test_promotions_are_chain_wide_weeks_mostly_every_other_week(history: pl.DataFrame) -> None:
    days = history.group_by("Date").agg(pl.col("Promo").n_unique().alias("values"), pl.max("Promo"))
    assert days.select(pl.max("values")).item() == 1
    running = sorted(days.filter(Promo=1)["Date"].to_list())
    mondays = [day for day in running if day.isoweekday() == 1]
    assert running == [m + timedelta(days=d) for m in mondays for d in range(5)]
    gaps = [(b - a).days for a, b in pairwise(mondays)]
    assert set(gaps) <= {7, 14, 21}
    assert 0.6 < gaps.count(14) / len(gaps) < 0.95
    assert gaps.count(7) > 2


def test_a_promotion_lifts_mondays_most(open_days: pl.DataFrame) -> None:
    means = open_days.group_by("weekday", "Promo").agg(pl.mean("Sales")).sort("Promo")
    lift = {day: means.filter(weekday=day)["Sales"].to_list() for day in range(1, 6)}
    uplift = [with_promo / without for without, with_promo in lift.values()]
    assert uplift == sorted(uplift, reverse=True)
    assert 1.5 < uplift[0] < 1.7
    assert 1.15 < uplift[4] < 1.3


def test_month_ends_december_and_easter_sell_more(open_days: pl.DataFrame) -> None:
    day, month = pl.col("Date").dt.day(), pl.col("Date").dt.month()
    ordinary = pl.col("weekday") < 7, ~month.is_in([12, 1])
    assert (
        mean_residual(open_days, day == 30, *ordinary)
        > mean_residual(open_days, day == 17, *ordinary) + 0.1
    )
    assert (
        mean_residual(open_days, day == 1, *ordinary)
        > mean_residual(open_days, day == 17, *ordinary) + 0.08
    )
    early = mean_residual(open_days, month == 12, day.is_between(1, 5))
    assert mean_residual(open_days, month == 12, day.is_between(18, 23)) > early + 0.15
    assert mean_residual(open_days, month == 12, day == 31) < -0.1
    easter_saturdays = pl.col("Date").is_in([date(2013, 3, 30), date(2014, 4, 19)])
    assert mean_residual(open_days, easter_saturdays) > 0.15


def test_holidays_differ_between_states(history: pl.DataFrame) -> None:
    holidays = history.filter(pl.col("StateHoliday") > 0)
    count = dict(holidays.group_by("Date").len().rows())
    assert count[date(2014, 5, 1)] == 1_115
    assert count[date(2014, 1, 6)] == 309  # Epiphany
    assert count[date(2014, 6, 19)] == 766  # Corpus Christi
    assert count[date(2013, 8, 15)] == 180  # Assumption
    assert count[date(2014, 11, 19)] == 75  # Repentance Day
    code = dict(holidays.select("Date", "StateHoliday").unique().rows())
    assert code[date(2014, 4, 18)] == code[date(2014, 4, 21)] == 2
    assert code[date(2014, 12, 25)] == code[date(2014, 12, 26)] == 3
    assert holidays.select(pl.mean("Open")).item() < 0.06


def test_school_holidays_differ_between_states_and_exclude_most_weekends(
    history: pl.DataFrame,
) -> None:
    share = history.group_by("Date").agg(pl.mean("SchoolHoliday"))
    by_day = dict(share.rows())
    assert by_day[date(2014, 12, 29)] == 1
    assert by_day[date(2014, 11, 12)] == 0
    assert 0.1 < by_day[date(2014, 7, 22)] < 1
    weekend = history.filter(pl.col("weekday") > 5).select(pl.mean("SchoolHoliday")).item()
    assert 0 < weekend < 0.05
    assert 0.15 < history.select(pl.mean("SchoolHoliday")).item() < 0.2


def test_180_stores_have_no_rows_for_half_a_year(history: pl.DataFrame) -> None:
    inside = pl.col("Date").is_between(date(2014, 7, 1), date(2014, 12, 31))
    assert history["Store"].n_unique() == 1_115
    assert history.filter(inside)["Store"].n_unique() == 935
    rows = history.group_by("Store").len().filter(pl.col("len") < 900)
    assert rows["len"].unique().to_list() == [942 - 184]


def test_refurbished_stores_close_and_then_sell_more(
    history: pl.DataFrame, open_days: pl.DataFrame
) -> None:
    dense = history.sort("Store", "Date").with_columns(
        run=((pl.col("Open") == 1) | (pl.col("Store") != pl.col("Store").shift(1)))
        .fill_null(True)
        .cum_sum()
    )
    runs = dense.filter(Open=0).group_by("Store", "run").agg(pl.len(), pl.max("Date"))
    refurbished = runs.filter(pl.col("len") >= 6)
    assert 60 <= refurbished["Store"].n_unique() <= 110
    assert refurbished.select(pl.max("len")).item() > 80
    after = open_days.join(refurbished.select("Store", ended="Date"), on="Store").filter(
        (pl.col("Date") - pl.col("ended")).dt.total_days().is_between(1, 10)
    )
    assert after.select(pl.mean("residual")).item() > 0.08


def test_a_new_competitor_lowers_sales(open_days: pl.DataFrame, stores: pl.DataFrame) -> None:
    first, last = date(2013, 6, 1), date(2015, 2, 1)
    recent = stores.filter(pl.col("CompetitionSince").is_between(first, last))
    assert recent.height > 80
    days = open_days.join(recent.select("Store", "CompetitionSince"), on="Store").with_columns(
        distance=(pl.col("Date") - pl.col("CompetitionSince")).dt.total_days()
    )
    before = mean_residual(days, pl.col("distance").is_between(-90, -1))
    after = mean_residual(days, pl.col("distance").is_between(0, 90))
    assert after < before - 0.06


def test_store_table_has_promo2_and_its_months(stores: pl.DataFrame) -> None:
    runs = stores.filter(Promo2=1)
    assert 0.45 < runs.height / stores.height < 0.57
    assert runs["Promo2Since"].null_count() == 0
    masks = {1 << m | 1 << m + 3 | 1 << m + 6 | 1 << m + 9 for m in range(3)}
    assert set(runs["PromoMonths"].unique()) == masks
    assert stores.filter(Promo2=0)["PromoMonths"].unique().to_list() == [0]
    assert 250 < stores["CompetitionSince"].null_count() < 450
    assert stores["CompetitionDistance"].is_nan().sum() == 3


def test_levels_drift_and_noise_has_heavy_tails(open_days: pl.DataFrame) -> None:
    chain_day = pl.col("residual").mean().over("Date")
    rest = open_days.filter(pl.col("weekday") < 7).with_columns(rest=pl.col("residual") - chain_day)
    assert rest.select(pl.col("rest").kurtosis()).item() > 4
    years = rest.group_by("Store", pl.col("Date").dt.year()).agg(pl.mean("rest"))
    change = years.filter(Date=2015).join(years.filter(Date=2013), on="Store")
    spread = change.select((pl.col("rest") - pl.col("rest_right")).std()).item()
    assert 0.05 < spread < 0.25


def test_daily_shocks_are_shared_by_the_chain(open_days: pl.DataFrame) -> None:
    quiet = open_days.filter(
        pl.col("Date").dt.month().is_in([2, 3, 9]),
        pl.col("Date").dt.day().is_between(4, 13),
        pl.col("weekday") < 6,
    )
    days = quiet.group_by("Date").agg(pl.mean("residual"))
    assert 0.02 < np.std(days["residual"].to_numpy()) < 0.08


def test_some_open_days_have_no_sales(history: pl.DataFrame) -> None:
    assert 10 <= history.filter(Open=1, Sales=0).height <= 150


def test_schedule_is_complete_except_for_eleven_empty_openings(chain: DatasetInfo) -> None:
    raw = read_text(chain.folder.parents[1] / "demo" / "raw" / "test.csv")[0]
    assert raw.height == 1_115 * 48
    assert raw["Id"].to_list() == [str(n) for n in range(1, raw.height + 1)]
    open_missing = raw.filter(pl.col("Open").is_null())
    assert open_missing.height == 11
    assert open_missing["Store"].n_unique() == 1
    schedule = pl.read_parquet(chain.folder / "schedule.parquet")
    assert schedule.height == raw.height
    assert 10 <= schedule.filter(Promo=1)["Date"].n_unique() <= 30
