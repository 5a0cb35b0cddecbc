"""``rossmann predict``: a file in, the same rows with their forecasts out, and what drove them."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import rossmann.serving.runtime.service
from rossmann.cli import main, predict
from rossmann.data.panel.panel import Panel
from rossmann.epoch_days import format_iso_day
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.inference.attributions import DRIVER_LABELS
from rossmann.models.inference.forecaster import Forecaster
from rossmann.models.inference.totals import TOTAL_LEVELS
from rossmann.models.publishing.trained_model import TrainedModel

FIELDS = ("Store", "DayOfWeek", "Date", "Open", "Promo", "StateHoliday", "SchoolHoliday")


class OneVersion:
    """A service that has one version, whatever is asked for."""

    degraded_reason = ""
    version, stage = 1, "Production"

    def __init__(self, forecaster: Forecaster) -> None:
        self.forecaster = forecaster
        self.versions = self.served = self

    def load(self, _: Any) -> "OneVersion":
        return self


@pytest.fixture
def ensemble(trained: TrainedModel) -> Ensemble:
    return Ensemble.load(trained.folder)


@pytest.fixture
def table(
    panel: Panel,
    ensemble: Ensemble,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A file of the first days after history, and a service beside it."""
    service = OneVersion(Forecaster(panel, ensemble))
    monkeypatch.setattr(rossmann.serving.runtime.service, "build_service", lambda _: service)
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(tmp_path))
    days = np.arange(panel.last_day + 1, panel.last_day + 9, dtype=np.int32)
    rows = panel.schedule(np.repeat(panel.store_numbers[:3], 8), np.tile(days, 3))
    dates = pl.Series(rows.day).cast(pl.Date)
    frame = pl.DataFrame(
        [rows.store, dates.dt.weekday(), dates, rows.open, rows.promo,
         ["0abc"[code] for code in rows.state_holiday], rows.school_holiday],
        schema=list(FIELDS),
    )  # fmt: skip
    frame.write_csv(tmp_path / "rows.csv")
    return tmp_path / "rows.csv"


def run(table: Path, *options: str) -> pl.DataFrame:
    output = table.with_name("out.csv")
    assert main(["predict", str(table), "-o", str(output), *options]) == 0
    return pl.read_csv(output)


def test_result_has_the_rows_and_the_columns_of_the_file_route(table: Path, panel: Panel) -> None:
    out = run(table, "--interval", "0.8")
    added = ["forecast", "lower_80", "upper_80", "model_version", "as_of", "warnings"]
    assert out.columns == [*FIELDS, *added]
    assert out[:, :7].equals(pl.read_csv(table))
    assert ((out["forecast"] > 0) == (out["Open"] == 1)).all()
    assert (out["lower_80"] <= out["forecast"]).all() and (out["forecast"] <= out["upper_80"]).all()
    assert set(out["model_version"]) == {1}
    assert set(out["as_of"]) == {format_iso_day(panel.last_day)}


def test_warnings_column_names_the_types_of_each_row(table: Path) -> None:
    frame = pl.read_csv(table, schema_overrides={"Open": pl.String})
    row = pl.int_range(pl.len())
    weekday = pl.when(row < 2).then(pl.col("DayOfWeek") % 7 + 1).otherwise("DayOfWeek")
    opening = pl.when(row.is_in([1, 3])).then(None).otherwise("Open")
    frame.with_columns(weekday.alias("DayOfWeek"), opening.alias("Open")).write_csv(table)
    warnings = run(table)["warnings"].fill_null("").str.split(" ").to_list()
    assert warnings[1][:2] == ["day_of_week", "open_unsaid"]
    assert [row for row, names in enumerate(warnings) if "day_of_week" in names] == [0, 1]
    assert [row for row, names in enumerate(warnings) if "open_unsaid" in names] == [1, 3]


def test_own_columns_of_the_result_names_are_replaced(table: Path) -> None:
    expected = run(table)
    own = pl.read_csv(table).with_columns(warnings=pl.lit("mine"), forecast=pl.lit(-1.0))
    own.select("forecast", *FIELDS, "warnings").write_csv(table)
    assert run(table).equals(expected)


def test_drivers_are_columns_that_multiply_to_the_forecast(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "EXPLAIN_CHUNK_ROWS", 7)  # several chunks
    out = run(table, "--explain")
    names = [name for name in out.columns if name.startswith("Driver_")]
    assert names == [f"Driver_{name}" for name in (*DRIVER_LABELS, "closed")]
    product = out["Baseline"].to_numpy().copy()
    for name in names:
        product *= 1 + out[name].to_numpy() / 100
    assert product == pytest.approx(out["forecast"].to_numpy(), rel=1e-9, abs=1e-9)
    closed = out.filter(pl.col("Open") == 0)
    assert len(closed) and (closed["Driver_closed"] == -100).all()
    assert (closed["Driver_promotion"] == 0).all()
    assert out["forecast"].equals(run(table)["forecast"])


def test_an_unknown_objective(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(table), "-o", "out.csv", "--objective", "best"]) == 2
    assert "accuracy, unbiased" in capsys.readouterr().err


def test_either_objective(table: Path, ensemble: Ensemble) -> None:
    plain, raised = run(table), run(table, "--objective", "unbiased", "--explain")
    without, with_promo = ensemble.card["unbiased"]["factors"]
    factor = np.where(plain["Promo"] > 0, with_promo, without)
    assert raised["forecast"].to_numpy() == pytest.approx(plain["forecast"] * factor, rel=1e-9)
    opened = raised.filter(pl.col("Open") == 1)
    assert (1 + opened["Driver_totals"] / 100).to_numpy() == pytest.approx(
        factor[plain["Open"] == 1], rel=1e-9
    )


def test_the_setting_names_the_objective(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raised = run(table, "--objective", "unbiased")
    monkeypatch.setenv("ROSSMANN_OBJECTIVE", "unbiased")
    assert run(table)["forecast"].equals(raised["forecast"])


def test_totals_are_a_table_of_their_own(table: Path) -> None:
    totals = table.with_name("totals.csv")
    rows = run(table, "--totals", str(totals), "--interval", "0.9")
    found = pl.read_csv(totals)
    assert set(found["Total"]) == set(TOTAL_LEVELS)
    for by in ("store", "store_week", "store_type", "store_type_week", "chain", "chain_week"):
        mine = found.filter(pl.col("Total") == by)
        assert mine["Forecast"].sum() == pytest.approx(rows["forecast"].sum())
        assert mine["Rows"].sum() == len(rows)
        assert (mine["Low90"] <= mine["Forecast"]).all()
        assert (mine["Forecast"] <= mine["High90"]).all()
    chain = found.filter(pl.col("Total") == "chain").row(0, named=True)
    assert chain["Store"] is None
    assert chain["First"] == rows["Date"].min()
    added = (rows["upper_90"] - rows["lower_90"]).to_numpy().sum()
    assert chain["High90"] - chain["Low90"] < added
    assert main(["predict", str(table), "-o", str(totals), "--totals", "totals.txt"]) != 0


def test_ended_while_it_writes_it_leaves_nothing(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = pl.DataFrame.write_csv

    def ended(frame: pl.DataFrame, file: Path) -> None:
        write(frame, file)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(pl.DataFrame, "write_csv", ended)
    output = table.with_name("out.csv")
    assert main(["predict", str(table), "-o", str(output)]) == 128 + signal.SIGTERM
    assert {path for path in table.parent.iterdir() if "out.csv" in path.name} == set()
