"""Compares the demo chain with the real one: sales statistics, and RMSPE of forecasts.

    python benchmarks/demo_vs_real.py                    tables and simple forecasts, a minute
    python benchmarks/demo_vs_real.py --profile quick    and the ensemble, two minutes a chain
    python benchmarks/demo_vs_real.py --profile full     and the ensemble as it is served

The real column is printed where ROSSMANN_DATA_DIR (or ``data/``) has the real tables in ``raw/``.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from rossmann.data.demo.write_tables import write_demo
from rossmann.data.make_dataset import make_dataset
from rossmann.data.panel.panel import build_panel, open_panel
from rossmann.data.tables.raw_tables import find_raw_tables
from rossmann.errors import DataNotFoundError
from rossmann.models.evaluation.backtest import backtest, baselines, build_windows
from rossmann.models.evaluation.metrics import rmspe
from rossmann.models.members.fit import sample_training_rows
from rossmann.schema import Dataset
from rossmann.settings import Settings, load_settings

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
Measures = dict[str, float]


def main() -> None:
    """Measure both chains and print a column for each."""
    parser = argparse.ArgumentParser(description="Compares the demo chain with the real one.")
    parser.add_argument("--profile", help="also backtest the ensemble with this training profile")
    profile = parser.parse_args().profile
    chains: dict[str, Measures] = {}
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(data_dir=Path(folder), demo=True)
        write_demo(settings.demo_raw_dir, settings.seed)
        chains["demo"] = measure(settings, profile)
        real = real_settings(Path(folder) / "real")
        if real:
            chains["real"] = measure(real, profile)
    print_table(chains)


def real_settings(folder: Path) -> Settings | None:
    """Settings that read the real tables and write to ``folder``; None without real tables."""
    try:
        raw = find_raw_tables(load_settings(demo=False))
    except DataNotFoundError:
        return None
    if raw.dataset is not Dataset.REAL:
        return None
    settings = load_settings(data_dir=folder, demo=False)
    settings.raw_dir.mkdir(parents=True)
    for path in raw.by_name().values():
        (settings.raw_dir / path.name).symlink_to(path.resolve())
    return settings


def measure(settings: Settings, profile: str | None) -> Measures:
    """All measures of the chain that ``settings`` names."""
    start = time.perf_counter()
    info = make_dataset(settings)
    measures: Measures = {"seconds to read, check and clean": time.perf_counter() - start}
    history = pl.read_parquet(info.folder / "history.parquet").with_columns(
        weekday=pl.col("Date").dt.weekday()
    )
    sold = history.filter((pl.col("Open") == 1) & (pl.col("Sales") > 0))
    measures |= dict(size_and_spread(history, sold))
    measures |= dict(promotion(sold))
    measures |= dict(weekday_profile(sold))
    measures |= dict(residual_correlation(sold))
    build_panel(info, settings.thread_count, lambda line: None)
    panel = open_panel(info)
    ends, days, min_history = settings.windows, settings.window_days, settings.history_days
    for window in build_windows(panel, ends, days, min_history):
        for name, forecast in baselines(panel, window).items():
            back = panel.last_day - window.origin
            measures[f"RMSPE {name}, {back} d before the end"] = rmspe(window.sold, forecast)
    if profile:
        examples = sample_training_rows(panel, min_history, settings.seed)
        outcomes = backtest(settings, panel, examples, settings.profile(profile), print)
        for back, outcome in zip(sorted(ends, reverse=True), outcomes, strict=True):
            error = rmspe(outcome.window.sold, outcome.forecasts["ensemble"])
            measures[f"RMSPE ensemble ({profile}), {back} d before the end"] = error
    return measures


def size_and_spread(history: pl.DataFrame, sold: pl.DataFrame) -> Iterator[tuple[str, float]]:
    """Size and spread of sales and customers, and the share of closed days."""
    yield "rows", history.height
    yield "stores", history["Store"].n_unique()
    yield "share closed", 1 - history.select(pl.mean("Open")).item()
    yield "open days without sales", history.filter(Open=1, Sales=0).height
    yield "rows with a state holiday", history.filter(pl.col("StateHoliday") > 0).height
    yield "share school holiday", history.select(pl.mean("SchoolHoliday")).item()
    yield "stores that open on Sundays", sold.filter(weekday=7)["Store"].n_unique()
    for name in ("Sales", "Customers"):
        column = pl.col(name)
        for label, value in (
            ("mean", column.mean()),
            ("sd", column.std()),
            ("1 %", column.quantile(0.01)),
            ("median", column.median()),
            ("99 %", column.quantile(0.99)),
        ):
            yield f"{name.lower()} {label}", sold.select(value).item()
    means = sold.group_by("Store").agg(pl.mean("Sales", "Customers"))
    yield "sd of store means, sales", means.select(pl.std("Sales")).item()
    yield "sd of store means, customers", means.select(pl.std("Customers")).item()
    within = sold.group_by("Store").agg(pl.col("Sales").log().std())
    yield "sd of log sales within a store", within.select(pl.median("Sales")).item()


def promotion(sold: pl.DataFrame) -> Iterator[tuple[str, float]]:
    """Sales with a promotion over those without, Monday to Friday, and on Mondays."""
    week = sold.filter(pl.col("weekday") <= 5)
    for label, days in (("Monday to Friday", week), ("Monday", week.filter(weekday=1))):
        mean = dict(days.group_by("Promo").agg(pl.mean("Sales")).rows())
        yield f"promotion uplift, {label}", mean[1] / mean[0] - 1
    log_means = week.group_by("Store", "Promo").agg(pl.col("Sales").log().mean()).sort("Promo")
    lift = log_means.group_by("Store").agg(pl.col("Sales").last() - pl.col("Sales").first())
    yield "promotion uplift, sd between stores (log)", lift.select(pl.std("Sales")).item()


def weekday_profile(sold: pl.DataFrame) -> Iterator[tuple[str, float]]:
    """Mean sales of each weekday without promotion over the mean of all days."""
    mean = sold.select(pl.mean("Sales")).item()
    for number, name in enumerate(WEEKDAYS, 1):
        day = sold.filter(weekday=number, Promo=0).select(pl.mean("Sales")).item()
        yield f"{name} without promotion / mean", day / mean
    for month in (1, 4, 7, 10, 12):
        part = sold.filter(pl.col("Date").dt.month() == month).select(pl.mean("Sales")).item()
        yield f"month {month} / mean", part / mean


def residual_correlation(sold: pl.DataFrame) -> Iterator[tuple[str, float]]:
    """Residuals of log sales, less the means of store, weekday, promotion and date."""
    group = ["Store", "weekday", "Promo"]
    log = sold.filter(pl.col("weekday") < 7).with_columns(residual=pl.col("Sales").log())
    log = log.with_columns(residual=pl.col("residual") - pl.col("residual").mean().over(group))
    common = log.group_by("Date").agg(pl.mean("residual"))
    yield "sd of what dates share (log)", common.select(pl.std("residual")).item()
    log = log.with_columns(residual=pl.col("residual") - pl.col("residual").mean().over("Date"))
    yield "sd of the rest (log)", log.select(pl.std("residual")).item()
    yield "kurtosis of the rest", log.select(pl.col("residual").kurtosis()).item()
    day = log["Date"].to_physical().to_numpy()
    dense = np.full((log.select(pl.max("Store")).item() + 1, int(np.ptp(day)) + 1), np.nan)
    dense[log["Store"].to_numpy(), day - day.min()] = log["residual"].to_numpy()
    for lag in (1, 7, 28, 91, 364, 728):
        later, earlier = dense[:, lag:], dense[:, :-lag]
        both = ~np.isnan(later) & ~np.isnan(earlier)
        yield f"its correlation after {lag} d", float(np.corrcoef(later[both], earlier[both])[0, 1])


def print_table(chains: dict[str, Measures]) -> None:
    """One row per measure, one column per chain."""
    print(f"{'':44}" + "".join(f"{name:>12}" for name in chains))
    for label in next(iter(chains.values())):
        values = (measures.get(label, float("nan")) for measures in chains.values())
        print(f"{label:44}" + "".join(f"{_format(value):>12}" for value in values))
    if "real" not in chains:
        print("\nno real tables in raw/: the real column is left out")


def _format(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.4f}"


if __name__ == "__main__":
    main()
