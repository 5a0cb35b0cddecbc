"""Backtest report: segments, days, figures, and a self-contained HTML page."""

import json
import re
from datetime import date
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from rossmann.data.panel.panel import Panel
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.evaluation.backtest import WindowForecasts, build_windows, forecast_window
from rossmann.models.evaluation.metrics import rmspe
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.models.reports.figures import report_figures
from rossmann.models.reports.html_report import render_html, write_html_report
from rossmann.models.reports.segments import build_report_data
from rossmann.models.training.train import data_summary

Report = dict[str, Any]


@pytest.fixture(scope="module")
def outcomes(panel: Panel, trained: TrainedModel) -> list[WindowForecasts]:
    ensemble = Ensemble.load(trained.folder)
    windows = build_windows(panel, (48, 200), 30, 31)
    return [forecast_window(panel, w, ensemble, 1) for w in windows]


@pytest.fixture(scope="module")
def report(panel: Panel, outcomes: list[WindowForecasts]) -> Report:
    return build_report_data(panel, outcomes, data_summary("quick", panel))


def test_segments_add_up_to_the_total(report: Report) -> None:
    assert set(report["slices"]) == {"horizon", "weekday", "promotion", "store_type", "volatility"}
    for groups in report["slices"].values():
        assert sum(g["rows"] for g in groups) == report["rows"]
        for name in ("ensemble", "without_schedule", "kalman", "median", "seasonal_naive"):
            squares = sum(g["rows"] * g["forecasters"][name] ** 2 for g in groups)
            total = report["forecasters"][name]["rmspe"]
            assert np.sqrt(squares / report["rows"]) == pytest.approx(total, rel=1e-9)
        for level in ("0.80", "0.95"):
            coverage = sum(g["rows"] * g["coverage"][level] for g in groups) / report["rows"]
            assert coverage == pytest.approx(report["coverage"]["levels"][level]["coverage"])
    assert report["slices"]["horizon"][0]["label"] == "1-7 days"


def test_weekday_segment_holds_the_rows_of_its_label(
    report: Report, panel: Panel, outcomes: list[WindowForecasts]
) -> None:
    sold, forecast = [], []
    for outcome in outcomes:
        days = outcome.window.rows.day
        mondays = [date.fromordinal(int(d) + 719_163).weekday() == 0 for d in days]
        sold.append(outcome.window.sold[mondays])
        forecast.append(outcome.forecasts["ensemble"][mondays])
    monday = next(g for g in report["slices"]["weekday"] if g["label"] == "Monday")
    assert monday["rows"] == sum(map(len, sold))
    assert monday["rmspe"] == pytest.approx(rmspe(np.concatenate(sold), np.concatenate(forecast)))


def test_days_add_up_and_the_worst_are_first(report: Report) -> None:
    days = report["days"]
    assert len(days) == len({(d["origin"], d["date"]) for d in days})
    assert sum(d["stores"] for d in days) == report["rows"]
    assert sum(d["share"] for d in days) == pytest.approx(1.0)
    worst = report["worst_days"]
    assert worst[0]["share"] == max(d["share"] for d in days)
    for ranked in (worst, report["worst_stores"]):
        shares = [entry["share"] for entry in ranked]
        assert shares == sorted(shares, reverse=True)


def test_worst_store_is_ranked_first(panel: Panel, outcomes: list[WindowForecasts]) -> None:
    store = int(panel.store_numbers[5])
    biased = []
    for outcome in outcomes:
        factor = np.where(outcome.window.rows.store == store, 4.0, 1.0)
        forecasts = {**outcome.forecasts, "ensemble": outcome.forecasts["ensemble"] * factor}
        biased.append(WindowForecasts(outcome.window, forecasts))
    worst = build_report_data(panel, biased, data_summary("quick", panel))["worst_stores"][0]
    assert worst["store"] == store
    assert worst["bias"] > 1.5
    assert worst["share"] > 0.9


def test_page_is_complete_in_one_file(report: Report, tmp_path: Path) -> None:
    write_html_report(tmp_path / "new", report)
    page = (tmp_path / "new" / "report.html").read_text()
    assert not re.search(r"<script|<link|<img|src=|@import|href=\"http", page)
    assert page.count("<svg") == len(report_figures(report)) == 9
    assert "Seasonal naive" in page
    assert "a store&#39;s week" in page
    assert "Ensemble, without a schedule" in page
    total = report["forecasters"]["ensemble"]
    assert f"{total['rmspe']:.4f}" in page
    assert str(report["worst_stores"][0]["store"]) in page
    assert json.loads((tmp_path / "new" / "report.json").read_text()) == report


def test_figures_are_well_formed_and_reproducible(report: Report) -> None:
    figures = report_figures(report)
    for svg in figures.values():
        assert ET.fromstring(svg).tag.endswith("svg")
    assert report_figures(report) == figures


def test_report_of_one_window_has_no_coverage(
    panel: Panel, outcomes: list[WindowForecasts]
) -> None:
    report = build_report_data(panel, outcomes[:1], data_summary("quick", panel))
    assert report["coverage"] is None
    assert report["totals"] is None
    page = render_html(report)
    assert "that takes two windows or more" in page
    assert "In 80 % band" not in page


def test_nan_is_null_in_the_report(panel: Panel, outcomes: list[WindowForecasts]) -> None:
    forecasts = {**outcomes[0].forecasts, "median": np.full(len(outcomes[0].window.sold), np.nan)}
    report = build_report_data(
        panel, [WindowForecasts(outcomes[0].window, forecasts)], data_summary("quick", panel)
    )
    assert report["forecasters"]["median"]["rmspe"] is None
    assert "NaN" not in json.dumps(report)
    assert "nan" not in render_html(report)


def test_training_writes_the_report(trained: TrainedModel) -> None:
    report = json.loads((trained.folder / "report.json").read_text())
    assert report["windows"] == trained.card["metrics"]["windows"]
    assert report["coverage"] == trained.card["metrics"]["coverage"]
    assert (trained.folder / "report.html").read_text().startswith("<!DOCTYPE html>")
