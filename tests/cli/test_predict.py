"""``rossmann predict``: forecasts, warnings, drivers, objectives and totals of a file."""

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
from rossmann.data.uploads import result_files
from rossmann.epoch_days import format_iso_day
from rossmann.logging_config import get_logger
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.inference.attributions import DRIVER_LABELS
from rossmann.models.inference.forecaster import Forecaster, ForecastRequest
from rossmann.models.inference.totals import TOTAL_LEVELS
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.settings import load_settings

FIELDS = ("Store", "DayOfWeek", "Date", "Open", "Promo", "StateHoliday", "SchoolHoliday")


class SingleVersionService:
    """A service with one loaded version, used for every requested stage or number."""

    degraded_reason = ""
    version, stage = 1, "Production"

    def __init__(self, forecaster: Forecaster) -> None:
        self.forecaster = forecaster
        self.versions = self.served = self

    def load(self, _: Any) -> "SingleVersionService":
        return self


@pytest.fixture
def ensemble(trained: TrainedModel) -> Ensemble:
    return Ensemble.load(trained.folder)


@pytest.fixture
def table(
    panel: Panel, ensemble: Ensemble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A file of the first days after history; the service has one version."""
    service = SingleVersionService(Forecaster(panel, ensemble))
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


def test_output_has_the_input_rows_and_the_forecast_columns(table: Path, panel: Panel) -> None:
    out = run(table, "--interval", "0.8")
    added = ["forecast", "lower_80", "upper_80", "model_version", "as_of", "warnings"]
    assert out.columns == [*FIELDS, *added]
    assert out[:, :7].equals(pl.read_csv(table))
    assert ((out["forecast"] > 0) == (out["Open"] == 1)).all()
    assert (out["lower_80"] <= out["forecast"]).all() and (out["forecast"] <= out["upper_80"]).all()
    assert set(out["model_version"]) == {1}
    assert set(out["as_of"]) == {format_iso_day(panel.last_day)}


def test_quantile_columns_follow_the_intervals_and_equal_the_forecaster(
    table: Path, panel: Panel, ensemble: Ensemble
) -> None:
    options = ("--quantile", "0.9", "--quantile", "0.025", "--quantile", "0.9")
    out = run(table, "--interval", "0.8", *options)
    added = ["forecast", "lower_80", "upper_80", "quantile_90", "quantile_2.5"]
    assert out.columns == [*FIELDS, *added, "model_version", "as_of", "warnings"]
    assert out["quantile_90"].equals(out["upper_80"].alias("quantile_90"))
    assert (out.filter(pl.col("Open") == 0).select(added) == 0).to_numpy().all()
    days = pl.read_csv(table, try_parse_dates=True)["Date"].cast(pl.Int32).to_numpy()
    rows = panel.schedule(out["Store"].to_numpy().astype(np.int32), days)
    request = ForecastRequest(rows, panel.last_day, quantiles=(0.9, 0.025))
    for one in Forecaster(panel, ensemble).forecast(request).quantiles:
        assert out[f"quantile_{one.quantile * 100:g}"].to_list() == one.sales.tolist()


def test_quantile_out_of_range_is_refused(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = table.with_name("out.csv")
    assert main(["predict", str(table), "-o", str(output), "--quantile", "0.995"]) == 1
    assert "a quantile must be from 0.01 to 0.99 (got 0.995)" in capsys.readouterr().err
    assert not output.exists()


def test_stdout_has_the_result_and_no_log_events(
    table: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    service = rossmann.serving.runtime.service.build_service(load_settings())

    def build_service(_: object) -> object:
        get_logger("versions").info("in service", version=1)
        return service

    monkeypatch.setattr(rossmann.serving.runtime.service, "build_service", build_service)
    run(table)
    written = capfd.readouterr()
    assert "in service" not in written.out + written.err
    assert written.out.splitlines() == [
        f"24 forecasts (accuracy of each day) written to {table.with_name('out.csv')}"
    ]


def test_warnings_column_has_the_warning_types_of_each_row(table: Path) -> None:
    frame = pl.read_csv(table, schema_overrides={"Open": pl.String})
    row = pl.int_range(pl.len())
    weekday = pl.when(row < 2).then(pl.col("DayOfWeek") % 7 + 1).otherwise("DayOfWeek")
    opening = pl.when(row.is_in([1, 3])).then(None).otherwise("Open")
    frame.with_columns(weekday.alias("DayOfWeek"), opening.alias("Open")).write_csv(table)
    warnings = run(table)["warnings"].fill_null("").str.split(" ").to_list()
    assert warnings[1][:2] == ["day_of_week", "open_unsaid"]
    assert [row for row, names in enumerate(warnings) if "day_of_week" in names] == [0, 1]
    assert [row for row, names in enumerate(warnings) if "open_unsaid" in names] == [1, 3]


def test_input_columns_named_like_output_columns_are_renamed_and_said(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = run(table)
    frame = pl.read_csv(table).with_columns(warnings=pl.lit("x"), forecast=pl.lit(-1.0))
    frame.select("forecast", *FIELDS, "warnings").write_csv(table)
    out = run(table)
    assert out.drop("input_forecast", "input_warnings").equals(expected)
    assert set(out["input_forecast"]) == {-1.0}
    assert "forecast of the file comes back as input_forecast" in capsys.readouterr().err


def test_product_of_driver_columns_is_the_forecast(
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


def test_unknown_objective_is_rejected(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(table), "-o", "out.csv", "--objective", "best"]) == 2
    assert "accuracy, unbiased" in capsys.readouterr().err


def test_unbiased_objective_multiplies_by_the_correction_factors(
    table: Path, ensemble: Ensemble
) -> None:
    accuracy, unbiased = run(table), run(table, "--objective", "unbiased", "--explain")
    without, with_promo = ensemble.card["unbiased"]["factors"]
    factor = np.where(accuracy["Promo"] > 0, with_promo, without)
    expected = accuracy["forecast"] * factor
    assert unbiased["forecast"].to_numpy() == pytest.approx(expected, rel=1e-9)
    open_rows = unbiased.filter(pl.col("Open") == 1)
    assert (1 + open_rows["Driver_totals"] / 100).to_numpy() == pytest.approx(
        factor[accuracy["Open"] == 1], rel=1e-9
    )


def test_objective_is_taken_from_the_settings(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unbiased = run(table, "--objective", "unbiased")
    monkeypatch.setenv("ROSSMANN_OBJECTIVE", "unbiased")
    assert run(table)["forecast"].equals(unbiased["forecast"])


def test_totals_are_written_to_a_separate_file(table: Path) -> None:
    output = table.with_name("totals.csv")
    quantiles = ("--quantile", "0.05", "--quantile", "0.625")
    rows = run(table, "--totals", str(output), "--interval", "0.9", *quantiles)
    totals = pl.read_csv(output)
    assert set(totals["Total"]) == set(TOTAL_LEVELS)
    for by in ("store", "store_week", "store_type", "store_type_week", "chain", "chain_week"):
        group = totals.filter(pl.col("Total") == by)
        assert group["Forecast"].sum() == pytest.approx(rows["forecast"].sum())
        assert group["Rows"].sum() == len(rows)
        assert (group["Low90"] <= group["Forecast"]).all()
        assert (group["Forecast"] <= group["High90"]).all()
        assert (group["Quantile5"] - group["Low90"]).abs().max() == 0
        assert (group["Forecast"] < group["Quantile62.5"]).all()
    chain = totals.filter(pl.col("Total") == "chain").row(0, named=True)
    assert chain["Store"] is None
    assert chain["First"] == rows["Date"].min()
    summed_width = (rows["upper_90"] - rows["lower_90"]).to_numpy().sum()
    assert chain["High90"] - chain["Low90"] < summed_width
    assert main(["predict", str(table), "-o", str(output), "--totals", "totals.txt"]) != 0


def test_totals_of_repeated_rows_are_rejected_before_the_forecast(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, lines[3], lines[1]]) + "\n")
    output, totals = table.with_name("out.csv"), table.with_name("totals.csv")
    command = ["predict", str(table), "-o", str(output)]
    assert main([*command, "--totals", str(totals), "--skip-faulty"]) == 1
    said = capsys.readouterr().err
    assert "line 26: store" in said and "is in line 4 already" in said
    assert "line 27: store" in said and "is in line 2 already" in said
    assert "2 rows that repeat a store's day: keep one row of each" in said
    assert not output.exists() and not totals.exists()
    assert main(command) == 0 and output.exists()


def test_interrupted_write_leaves_no_file(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = result_files.write_frame

    def write_then_signal(*arguments: Any) -> None:
        write(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(result_files, "write_frame", write_then_signal)
    output = table.with_name("out.csv")
    assert main(["predict", str(table), "-o", str(output)]) == 128 + signal.SIGTERM
    assert {path for path in table.parent.iterdir() if "out.csv" in path.name} == set()


def with_ids(table: Path, ids: list[object], name: str = "Id") -> Path:
    frame = pl.read_csv(table, infer_schema=False)
    path = table.with_name("with ids.csv")
    frame.insert_column(0, pl.Series(name, [str(one) for one in ids])).write_csv(path)
    return path


def test_submission_has_id_and_sales_of_every_row(table: Path) -> None:
    ids = list(range(100, 124))[::-1]
    expected = run(table)["forecast"]
    out = run(with_ids(table, ids), "--kaggle")
    assert out.columns == ["Id", "Sales"]
    assert out["Id"].to_list() == ids
    assert out["Sales"].equals(expected.alias("Sales"))


@pytest.mark.parametrize(
    ("ids", "name", "message"),
    [
        ([*range(23), 5], "Id", "there twice"),
        ([*range(23), "x7"], "Id", "no whole number"),
        ([*range(24)], "number", "must have one column Id"),
    ],
)
def test_submission_without_whole_ids_is_refused(
    table: Path, capsys: pytest.CaptureFixture[str], ids: list[object], name: str, message: str
) -> None:
    file = with_ids(table, ids, name)
    output = table.with_name("submission.csv")
    assert main(["predict", str(file), "-o", str(output), "--kaggle"]) == 1
    assert message in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--explain"],
        ["--interval", "0.8"],
        ["--quantile", "0.1"],
        ["--skip-faulty"],
        ["-o", "x.xlsx"],
    ],
)
def test_submission_excludes_what_it_has_no_place_for(
    table: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    output = [] if "-o" in options else ["-o", str(table.with_name("submission.csv"))]
    assert main(["predict", str(table), *output, "--kaggle", *options]) == 2
    assert "--kaggle" in capsys.readouterr().err
