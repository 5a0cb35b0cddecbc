"""Pictures and tables of a backtest, for people."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rossmann.models.backtest import WindowScore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES: Final = {
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
    for key, name in NAMES.items():
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


def write_report(folder: Path, card: dict[str, Any], scores: list[WindowScore]) -> None:
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
    draw_windows(figure, [s.as_dict() for s in scores])
    figure.savefig(path, dpi=120)


def draw_windows(figure: "Figure", windows: Sequence[Mapping[str, Any]]) -> None:
    """RMSPE by forecaster, a bar for each window (as ``WindowScore.as_dict`` gives them)."""
    axes = figure.subplots()
    keys = [k for k in NAMES if all(w["rmspe"].get(k) is not None for w in windows)]
    height = 0.8 / len(windows)
    for i, window in enumerate(windows):
        at = [k + i * height for k in range(len(keys))]
        values = [window["rmspe"][k] for k in keys]
        bars = axes.barh(at, values, height, label=f"from {window['origin']}")
        axes.bar_label(bars, fmt="%.3f", padding=3, fontsize=8)
    axes.set_yticks([k + 0.4 - height / 2 for k in range(len(keys))], [NAMES[k] for k in keys])
    axes.invert_yaxis()
    axes.set_xlabel("RMSPE (lower is better)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper right", fontsize=8, ncols=4)
