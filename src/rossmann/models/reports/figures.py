"""Figures of a backtest report as SVG, drawn from the report's JSON; its summary in Markdown.

Figures are made without pyplot, so that no backend and no global state is needed.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rossmann.models.calibration.interval_coverage import TERCILES, TOTAL_LABELS
from rossmann.models.evaluation.backtest import WindowScore

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORECASTER_LABELS: Final = {
    "ensemble": "Ensemble",
    "without_schedule": "Ensemble, without a schedule",
    "lightgbm": "LightGBM",
    "xgboost": "XGBoost",
    "catboost": "CatBoost",
    "kalman": "Kalman filter alone",
    "median": "Median of the same kind, 52 weeks",
    "seasonal_naive": "Seasonal naive",
}
COMPARED_FORECASTERS: Final = ("ensemble", "without_schedule", "kalman", "median", "seasonal_naive")
"""Forecasters that the figures and tables of segments compare."""
FORECASTER_COLOURS: Final = {
    "ensemble": "#c3002f",
    "without_schedule": "#e8879b",
    "kalman": "#33658a",
    "median": "#86a8c4",
    "seasonal_naive": "#9a9a9a",
}
_ENSEMBLE_COLOUR: Final = FORECASTER_COLOURS["ensemble"]
_SALES_COLOUR: Final = "#333333"


_MEASURES: Final = (
    ("wape", "WAPE", ".4f"),
    ("bias", "bias", "+.2%"),
    ("capped_rmspe", "capped RMSPE", ".4f"),
    ("wape_error", "standard error of WAPE, by stores and weeks", ".4f"),
    ("rmspe_error", "standard error of RMSPE, by stores and weeks", ".4f"),
)
"""Metrics that no single row decides: key, label and format."""


def table_rows(scores: list[WindowScore]) -> list[list[str]]:
    """A header, then a row for each forecaster: RMSPE by window, and its mean."""
    header = ["RMSPE", *(f"from {s.origin}" for s in scores), "mean"]
    rows = [header]
    for name, label in FORECASTER_LABELS.items():
        values = [s.rmspe[name] for s in scores if name in s.rmspe]
        if len(values) == len(scores):
            cells = [f"{value:.4f}" for value in values]
            rows.append([label, *cells, f"{sum(values) / len(values):.4f}"])
    return rows


def measure_rows(scores: list[WindowScore]) -> list[list[str]]:
    """A header, then a row for each further metric of the ensemble, by window, and its mean."""
    rows = [["Ensemble", *(f"from {s.origin}" for s in scores), "mean"]]
    for name, label, spec in _MEASURES:
        values = [s.ensemble[name] for s in scores if name in s.ensemble]
        if len(values) == len(scores):  # earlier releases measured less
            rows.append([label, *(format(x, spec) for x in (*values, sum(values) / len(values)))])
    return rows


def markdown_table(rows: list[list[str]]) -> str:
    """Rows of cell texts, the header first, as a Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines) + "\n"


def format_store_count(data: Mapping[str, Any]) -> str:
    """The number of stores in words."""
    return "1 store" if data["stores"] == 1 else f"{data['stores']:,} stores"


def write_summary(folder: Path, card: dict[str, Any], scores: list[WindowScore]) -> None:
    """Write ``pictures/windows.png`` and ``report.md`` into a trained model's folder."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    figure = new_figure(8, 5)
    plot_windows(figure, [score.as_dict() for score in scores])
    figure.savefig(pictures / "windows.png", dpi=120)
    data = card["data"]
    text = (
        f"# Backtest of profile {card['profile']}\n\n"
        f"Data: {data['dataset']}, version {data['version']}, {data['rows']:,} rows of "
        f"{format_store_count(data)}, {data['first_day']} to {data['last_day']}.\n\n"
        "Every window is forecast from its origin, by members that saw no day after it.\n\n"
        + markdown_table(table_rows(scores))
        + "\n"
        + markdown_table(measure_rows(scores))
    )
    (folder / "report.md").write_text(text, "utf-8")


def plot_windows(figure: "Figure", windows: Sequence[Mapping[str, Any]]) -> None:
    """Bars of RMSPE by forecaster and window (JSON as of ``WindowScore.as_dict``)."""
    axes = figure.subplots()
    names = [n for n in FORECASTER_LABELS if all(w["rmspe"].get(n) is not None for w in windows)]
    height = 0.8 / len(windows)
    for i, window in enumerate(windows):
        positions = [k + i * height for k in range(len(names))]
        values = [window["rmspe"][name] for name in names]
        bars = axes.barh(positions, values, height, label=f"from {window['origin']}")
        axes.bar_label(bars, fmt="%.3f", padding=3, fontsize=8)
    axes.set_yticks(
        [k + 0.4 - height / 2 for k in range(len(names))],
        [FORECASTER_LABELS[name] for name in names],
    )
    axes.invert_yaxis()
    axes.set_xlabel("RMSPE (lower is better)")
    remove_frame(axes)
    figure.legend(loc="outside upper right", fontsize=8, ncols=4)


def report_figures(report: Mapping[str, Any]) -> dict[str, str]:
    """SVG by name: windows, chain, each segmentation and, where measured, coverage and totals."""
    figures = {
        "windows": _windows_figure(report["windows"]),
        "chain": _chain_figure(report["days"]),
        **{name: _segment_figure(groups) for name, groups in report["slices"].items()},
    }
    if report["coverage"]:
        figures["coverage"] = _coverage_figure(report["coverage"]["levels"])
    if report["totals"]:
        figures["totals"] = _totals_figure(report["totals"]["kinds"])
    return figures


def new_figure(width: float, height: float) -> "Figure":
    """A figure of that size in inches, without pyplot."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def remove_frame(axes: "Axes") -> None:
    """Hide the upper and the right border."""
    axes.spines[["top", "right"]].set_visible(False)


def to_svg(figure: "Figure") -> str:
    """The figure as SVG text, the same for the same content."""
    import matplotlib as mpl

    buffer = io.StringIO()
    # text stays text, and the same report gives the same file
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rossmann"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _windows_figure(windows: Sequence[Mapping[str, Any]]) -> str:
    figure = new_figure(9, 1.3 + 0.22 * len(FORECASTER_LABELS) * max(len(windows), 2))
    plot_windows(figure, windows)
    return to_svg(figure)


def _chain_figure(days: Sequence[Mapping[str, Any]]) -> str:
    """Sales and forecast of the chain by day, with axes for each window."""
    origins = list(dict.fromkeys(day["origin"] for day in days))
    is_large = max(day["sold"] for day in days) >= 1e6
    unit, unit_name = (1e6, "millions") if is_large else (1e3, "thousands")
    figure = new_figure(9, 2.4 * len(origins))
    for number, origin in enumerate(origins, 1):
        axes = figure.add_subplot(len(origins), 1, number)
        window = [day for day in days if day["origin"] == origin]
        dates = np.array([day["date"] for day in window], "datetime64[D]")
        sold = [day["sold"] / unit for day in window]
        forecast = [day["forecast"] / unit for day in window]
        axes.plot(dates, sold, color=_SALES_COLOUR, lw=1.4, label="sold")
        axes.plot(dates, forecast, color=_ENSEMBLE_COLOUR, lw=1.4, ls="--", label="forecast")
        axes.set_title(f"from {origin}", loc="left", fontsize=10)
        axes.set_ylabel(f"chain, {unit_name} a day")
        axes.set_ylim(bottom=0)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=8, loc="lower left", ncols=2)
        remove_frame(axes)
    return to_svg(figure)


def _segment_figure(groups: Sequence[Mapping[str, Any]]) -> str:
    """RMSPE of the forecasters in each group, and the ensemble's bias."""
    figure = new_figure(9, 3.2)
    left, right = figure.subplots(1, 2, width_ratios=(3, 1.4))
    names = [
        name
        for name in COMPARED_FORECASTERS
        if all(group["forecasters"].get(name) is not None for group in groups)
    ]
    width = 0.84 / max(len(names), 1)
    for i, name in enumerate(names):
        positions = [g + (i - (len(names) - 1) / 2) * width for g in range(len(groups))]
        rmspe = [group["forecasters"][name] for group in groups]
        colour, label = FORECASTER_COLOURS[name], FORECASTER_LABELS[name]
        left.bar(positions, rmspe, width, color=colour, label=label)
    bias = [100 * group["bias"] for group in groups]
    right.bar(range(len(groups)), bias, 0.6, color=_ENSEMBLE_COLOUR)
    right.axhline(0, color=_SALES_COLOUR, lw=0.8)
    left.set_ylabel("RMSPE")
    right.set_ylabel("bias of the ensemble, %")
    labels = [str(group["label"]) for group in groups]
    is_vertical = sum(len(label) for label in labels) > 40
    for axes in (left, right):
        axes.set_xticks(range(len(groups)), labels, fontsize=8, rotation=90 if is_vertical else 0)
        remove_frame(axes)
    if not is_vertical:
        right.tick_params(axis="x", rotation=30)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", fontsize=8, ncols=5)
    return to_svg(figure)


def _coverage_figure(levels: Mapping[str, Mapping[str, Any]]) -> str:
    """Coverage of the intervals by level, over all rows and by tercile of volatility."""
    figure = new_figure(5, 4.2)
    axes = figure.subplots()
    nominal = [100 * float(level) for level in levels]
    axes.plot(nominal, nominal, color="#bbbbbb", lw=1, label="as promised")
    coverage = [100 * measured["coverage"] for measured in levels.values()]
    axes.plot(nominal, coverage, color=_ENSEMBLE_COLOUR, marker="o", ms=4, label="all stores")
    for name, style in zip(TERCILES, (":", "--", "-."), strict=True):
        shares = [measured["volatility"][name] for measured in levels.values()]
        if all(share is not None for share in shares):
            values, colour = [100 * share for share in shares], FORECASTER_COLOURS["kalman"]
            axes.plot(nominal, values, color=colour, lw=1, ls=style, label=f"{name} stores")
    axes.set_xlabel("level of the band, %")
    axes.set_ylabel("days whose sales lay in it, %")
    axes.legend(fontsize=8)
    remove_frame(axes)
    return to_svg(figure)


def _totals_figure(kinds: Mapping[str, Mapping[str, Any]]) -> str:
    """Coverage of each kind of total's interval, and its width compared with naive methods."""
    figure = new_figure(9, 3.4)
    left, right = figure.subplots(1, 2, sharey=True)
    positions = np.arange(len(kinds))
    levels = list(next(iter(kinds.values()))["levels"])
    for level, marker in zip(levels, ("o", "s"), strict=True):
        nominal = 100 * float(level)
        left.axvline(nominal, color="#bbbbbb", lw=1)
        coverage = [100 * kind["levels"][level]["coverage"] for kind in kinds.values()]
        left.plot(
            coverage, positions, marker, color=_ENSEMBLE_COLOUR, ms=5,
            label=f"{nominal:.0f} % band", mfc="none" if marker == "s" else None,
        )  # fmt: skip
    styles = (
        ("added", "bounds added up", FORECASTER_COLOURS["kalman"], "|"),
        ("width", "as given", _ENSEMBLE_COLOUR, "o"),
        ("independent", "rows as independent", FORECASTER_COLOURS["seasonal_naive"], "|"),
    )
    for name, label, colour, marker in styles:
        widths = [100 * kind["levels"][levels[0]][name] for kind in kinds.values()]
        right.plot(widths, positions, marker, color=colour, ms=6, mew=2, label=label)
    left.set_yticks(positions, [TOTAL_LABELS[name] for name in kinds], fontsize=8)
    left.invert_yaxis()
    left.set_xlabel("totals that lay in their band, %")
    right.set_xlabel(f"width of the {100 * float(levels[0]):.0f} % band, % of the forecast")
    right.set_xlim(left=0)
    for axes in (left, right):
        axes.legend(fontsize=8)
        remove_frame(axes)
    return to_svg(figure)
