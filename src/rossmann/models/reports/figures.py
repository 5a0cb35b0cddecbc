"""Pictures of a backtest as SVG texts, drawn from the report's JSON.

MERGED: Pictures and tables of a backtest, for people.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rossmann.models.calibration.interval_coverage import TOTAL_LABELS
from rossmann.models.evaluation.windows import WindowScore

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


def table_rows(scores: list[WindowScore]) -> list[list[str]]:
    """A header, then a row for each forecaster: RMSPE by window, and their mean."""
    header = ["RMSPE", *(f"from {s.origin}" for s in scores), "mean"]
    rows = [header]
    for key, name in FORECASTER_LABELS.items():
        values = [s.rmspe[key] for s in scores if key in s.rmspe]
        if len(values) == len(scores):
            cells = [f"{v:.4f}" for v in values]
            rows.append([name, *cells, f"{sum(values) / len(values):.4f}"])
    return rows


def markdown(rows: list[list[str]]) -> str:
    """A table of texts in Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines) + "\n"


def stores_of(data: Mapping[str, Any]) -> str:
    """How many stores, in words."""
    return "1 store" if data["stores"] == 1 else f"{data['stores']:,} stores"


def write_summary(folder: Path, card: dict[str, Any], scores: list[WindowScore]) -> None:
    """Write ``pictures/windows.png`` and ``report.md`` beside the ensemble."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    _bars(pictures / "windows.png", scores)
    data = card["data"]
    text = (
        f"# Backtest of profile {card['profile']}\n\n"
        f"Data: {data['dataset']}, version {data['version']}, {data['rows']:,} rows of "
        f"{stores_of(data)}, {data['first_day']} to {data['last_day']}.\n\n"
        "Every window is forecast from its origin, by members that saw no day after it.\n\n"
        + markdown(table_rows(scores))
    )
    (folder / "report.md").write_text(text, "utf-8")


def _bars(path: Path, scores: list[WindowScore]) -> None:
    """The picture of ``draw_windows`` as a file."""
    from matplotlib.figure import Figure  # a figure of its own: no backend, no global state

    figure = Figure(figsize=(8, 5), layout="constrained")
    plot_windows(figure, [s.as_dict() for s in scores])
    figure.savefig(path, dpi=120)


def plot_windows(figure: "Figure", windows: Sequence[Mapping[str, Any]]) -> None:
    """RMSPE by forecaster, a bar for each window (as ``WindowScore.as_dict`` gives them)."""
    axes = figure.subplots()
    keys = [k for k in FORECASTER_LABELS if all(w["rmspe"].get(k) is not None for w in windows)]
    height = 0.8 / len(windows)
    for i, window in enumerate(windows):
        at = [k + i * height for k in range(len(keys))]
        values = [window["rmspe"][k] for k in keys]
        bars = axes.barh(at, values, height, label=f"from {window['origin']}")
        axes.bar_label(bars, fmt="%.3f", padding=3, fontsize=8)
    axes.set_yticks(
        [k + 0.4 - height / 2 for k in range(len(keys))], [FORECASTER_LABELS[k] for k in keys]
    )
    axes.invert_yaxis()
    axes.set_xlabel("RMSPE (lower is better)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper right", fontsize=8, ncols=4)


COMPARED_FORECASTERS: Final = ("ensemble", "without_schedule", "kalman", "median", "seasonal_naive")
"""Forecasters that slices compare."""
FORECASTER_COLOURS: Final = {
    "ensemble": "#c3002f",
    "without_schedule": "#e8879b",
    "kalman": "#33658a",
    "median": "#86a8c4",
    "seasonal_naive": "#9a9a9a",
}
_SOLD: Final = "#333333"


def figures(report: Mapping[str, Any]) -> dict[str, str]:
    """SVG texts by name: windows, chain, each slice and, where measured, coverage."""
    drawn = {"windows": _windows(report["windows"]), "chain": _chain(report["days"])}
    for name, groups in report["slices"].items():
        drawn[name] = _groups(groups)
    if report["coverage"]:
        drawn["coverage"] = _coverage(report["coverage"]["levels"])
    if report.get("totals"):
        drawn["totals"] = _totals(report["totals"]["kinds"])
    return drawn


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure  # a figure of its own: no backend, no global state

    return Figure(figsize=(width, height), layout="constrained")


def _plain(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _svg(figure: "Figure") -> str:
    import matplotlib as mpl

    out = io.StringIO()
    # text stays text, and the same report gives the same file
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rossmann"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _windows(windows: Sequence[Mapping[str, Any]]) -> str:
    figure = _figure(9, 1.3 + 0.22 * len(FORECASTER_LABELS) * max(len(windows), 2))
    plot_windows(figure, windows)
    return _svg(figure)


def _chain(days: Sequence[Mapping[str, Any]]) -> str:
    """What the chain sold each day and what was forecast, a picture for each window."""
    origins = list(dict.fromkeys(day["origin"] for day in days))
    unit, name = (1e6, "millions") if max(d["sold"] for d in days) >= 1e6 else (1e3, "thousands")
    figure = _figure(9, 2.4 * len(origins))
    for place, origin in enumerate(origins):
        axes = figure.add_subplot(len(origins), 1, place + 1)
        mine = [day for day in days if day["origin"] == origin]
        when = np.array([day["date"] for day in mine], "datetime64[D]")
        axes.plot(when, [d["sold"] / unit for d in mine], color=_SOLD, lw=1.4, label="sold")
        axes.plot(
            when, [d["forecast"] / unit for d in mine], color=FORECASTER_COLOURS["ensemble"], lw=1.4, ls="--",
            label="forecast",
        )  # fmt: skip
        axes.set_title(f"from {origin}", loc="left", fontsize=10)
        axes.set_ylabel(f"chain, {name} a day")
        axes.set_ylim(bottom=0)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=8, loc="lower left", ncols=2)
        _plain(axes)
    return _svg(figure)


def _groups(groups: Sequence[Mapping[str, Any]]) -> str:
    """RMSPE of the forecasters in each group, and the ensemble's bias."""
    figure = _figure(9, 3.2)
    left, right = figure.subplots(1, 2, width_ratios=(3, 1.4))
    keys = [
        k for k in COMPARED_FORECASTERS if all(g["forecasters"].get(k) is not None for g in groups)
    ]
    width = 0.84 / max(len(keys), 1)
    for i, name in enumerate(keys):
        at = [g + (i - (len(keys) - 1) / 2) * width for g in range(len(groups))]
        left.bar(
            at, [g["forecasters"][name] for g in groups], width, color=FORECASTER_COLOURS[name],
            label=FORECASTER_LABELS[name],
        )  # fmt: skip
    right.bar(
        range(len(groups)),
        [100 * g["bias"] for g in groups],
        0.6,
        color=FORECASTER_COLOURS["ensemble"],
    )
    right.axhline(0, color=_SOLD, lw=0.8)
    left.set_ylabel("RMSPE")
    right.set_ylabel("bias of the ensemble, %")
    turned = sum(len(g["label"]) for g in groups) > 40
    for axes in (left, right):
        labels = [str(g["label"]) for g in groups]
        axes.set_xticks(range(len(groups)), labels, fontsize=8, rotation=90 if turned else 0)
        _plain(axes)
    if not turned:
        right.tick_params(axis="x", rotation=30)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", fontsize=8, ncols=5)
    return _svg(figure)


def _coverage(levels: Mapping[str, Mapping[str, Any]]) -> str:
    """What bands of each level really held, over all rows and by tercile of volatility."""
    figure = _figure(5, 4.2)
    axes = figure.subplots()
    asked = [100 * float(level) for level in levels]
    axes.plot(asked, asked, color="#bbbbbb", lw=1, label="as promised")
    found = [100 * one["coverage"] for one in levels.values()]
    axes.plot(
        asked, found, color=FORECASTER_COLOURS["ensemble"], marker="o", ms=4, label="all stores"
    )
    for name, style in zip(("steady", "medium", "volatile"), (":", "--", "-."), strict=True):
        values = [one["volatility"][name] for one in levels.values()]
        if all(v is not None for v in values):
            axes.plot(
                asked, [100 * v for v in values], color=FORECASTER_COLOURS["kalman"], lw=1, ls=style,
                label=f"{name} stores",
            )  # fmt: skip
    axes.set_xlabel("level of the band, %")
    axes.set_ylabel("days whose sales lay in it, %")
    axes.legend(fontsize=8)
    _plain(axes)
    return _svg(figure)


def _totals(kinds: Mapping[str, Mapping[str, Any]]) -> str:
    """What bands of each kind of total held, and their width beside what not to do."""
    figure = _figure(9, 3.4)
    left, right = figure.subplots(1, 2, sharey=True)
    place = np.arange(len(kinds))
    levels = list(next(iter(kinds.values()))["levels"])
    for level, marker in zip(levels, ("o", "s"), strict=True):
        asked = 100 * float(level)
        left.axvline(asked, color="#bbbbbb", lw=1)
        found = [100 * one["levels"][level]["coverage"] for one in kinds.values()]
        left.plot(
            found, place, marker, color=FORECASTER_COLOURS["ensemble"], ms=5, label=f"{asked:.0f} % band",
            mfc="none" if marker == "s" else None,
        )  # fmt: skip
    styles = (
        ("added", "bounds added up", FORECASTER_COLOURS["kalman"], "|"),
        ("width", "as given", FORECASTER_COLOURS["ensemble"], "o"),
        ("independent", "rows as independent", FORECASTER_COLOURS["seasonal_naive"], "|"),
    )
    for name, label, colour, marker in styles:
        widths = [100 * one["levels"][levels[0]][name] for one in kinds.values()]
        right.plot(widths, place, marker, color=colour, ms=6, mew=2, label=label)
    left.set_yticks(place, [TOTAL_LABELS[name] for name in kinds], fontsize=8)
    left.invert_yaxis()
    left.set_xlabel("totals that lay in their band, %")
    right.set_xlabel(f"width of the {100 * float(levels[0]):.0f} % band, % of the forecast")
    right.set_xlim(left=0)
    for axes in (left, right):
        axes.legend(fontsize=8)
        _plain(axes)
    return _svg(figure)
