"""Report of a fev-bench run: tables beside the published results, JSON, and a picture."""

import importlib.resources
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rossmann.models.benchmark.fev_task import METRICS, WEEKLY
from rossmann.models.reports.figures import FORECASTER_COLOURS, new_figure, remove_frame, to_svg

OURS: Final = "Rossmann Forecasting"
_PUBLISHED_FILE: Final = "published_results.json"
_SHOWN: Final = 12
"""Published forecasters of the printed table and the picture; JSON has all."""
_CONTROL: Final = "Seasonal Naive"

CAVEATS: Final = (
    "The features, the members' parameters and the rules of the blend were chosen on windows of"
    " these tables. The foundation models of the board saw none of them.",
    "The calendars of states, holidays and working days are knowledge that the board does not hand"
    " out.",
    "A window's filter weights and intervals are learned from the other windows, later ones too;"
    " 'forward' takes the earlier ones only.",
    "Days that the tables lack (180 stores, July to December 2014) are not scored. How the board"
    " fills them is not published; seasonal naive is computed here as a control.",
)
_WEEKLY_CAVEATS: Final = (
    "Weeks are Monday to Sunday and sums of days. How the board builds its weeks is not published.",
    "The members learn horizons up to 48 days; a window has 91. The forecasts of later days are"
    " the product's own, with the warning `horizon`.",
)


def published_results() -> dict[str, Any]:
    """The board's results of others, with their source and the day on which they were read."""
    text = importlib.resources.files(__package__).joinpath(_PUBLISHED_FILE).read_text("utf-8")
    results: dict[str, Any] = json.loads(text)
    return results


def caveats(task: str) -> tuple[str, ...]:
    """What must be said beside a table of that task."""
    return (*CAVEATS, *(_WEEKLY_CAVEATS if task == WEEKLY.name else ()))


def window_table(result: Mapping[str, Any]) -> list[list[str]]:
    """A header, then a row for each window, then their mean."""
    header = ["origin", *METRICS, "WAPE forward", "WAPE seasonal naive"]
    rows = [header]
    for window in (*result["windows"], {"origin": "mean", **result["mean"]}):
        cells = [f"{window['scores'][name]:.4f}" for name in METRICS]
        further = [f"{window[name]['WAPE']:.4f}" for name in ("forward", "seasonal_naive")]
        rows.append([window["origin"], *cells, *further])
    return rows


def quantile_table(result: Mapping[str, Any]) -> list[list[str]]:
    """A header of quantiles, then the share of steps with sales below each: by window, and mean."""
    rows = [
        [window["origin"], *(f"{share:.3f}" for share in window["below"].values())]
        for window in (*result["windows"], {"origin": "mean", **result["mean"]})
    ]
    return [["origin", *result["mean"]["below"]], *rows]


def board_table(result: Mapping[str, Any], shown: int = _SHOWN) -> list[list[str]]:
    """A header, then forecasters by WAPE: ours, the best ``shown`` published ones, the control."""
    task, held = result["task"], len(result["windows"])
    ours = f"{OURS} ({held} of {result['windows_of_task']} windows)"
    entries = [(ours, result["mean"]["scores"], "")]
    published = sorted(published_results()["results"], key=lambda entry: entry[task]["WAPE"])
    for rank, entry in enumerate(published):
        if rank < shown or entry["forecaster"] == _CONTROL:
            entries.append((entry["forecaster"], entry[task], entry["note"]))
    entries.sort(key=lambda entry: float(entry[1]["WAPE"]))
    rows = [["forecaster", *METRICS, "note"]]
    for name, scores, note in entries:
        rows.append([name, *(f"{scores[metric]:.4f}" for metric in METRICS), note])
    return rows


def competition_table(figures: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A header, then RMSPE by window as the competition's private part may have counted it."""
    rows = [
        [one["origin"], f"{one['stores']:,}", f"{one['rows']:,}", f"{one['rmspe']:.4f}"]
        for one in figures
    ]
    return [["origin", "stores", "rows", "RMSPE"], *rows]


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write ``fev.json`` and a picture for each task into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(
        {
            **report,
            "caveats": {task["task"]: caveats(task["task"]) for task in report["tasks"]},
            "published": published_results(),
        },
        indent=1,
    )
    (folder / "fev.json").write_text(text + "\n", "utf-8")
    for result in report["tasks"]:
        (folder / f"{result['task']}.svg").write_text(board_figure(result), "utf-8")


def board_figure(result: Mapping[str, Any]) -> str:
    """WAPE of ours and of the published forecasters as bars, and ours by window, as SVG."""
    figure = new_figure(11, 5)
    left, right = figure.subplots(1, 2, width_ratios=(1.4, 1))
    _, *board = board_table(result)
    column = 1 + METRICS.index("WAPE")
    values = [float(row[column]) for row in board]
    ours, others = FORECASTER_COLOURS["ensemble"], FORECASTER_COLOURS["seasonal_naive"]
    colours = [ours if row[0].startswith(OURS) else others for row in board]
    bars = left.barh([row[0] for row in board], values, color=colours)
    left.bar_label(bars, fmt="%.4f", padding=3, fontsize=8)
    left.invert_yaxis()
    left.set_title(f"{result['task']}: WAPE, mean of the windows", loc="left", fontsize=10)
    origins = [window["origin"] for window in result["windows"]]
    series = {
        "weights of the other windows": ("scores", ours, "-"),
        "weights of earlier windows": ("forward", FORECASTER_COLOURS["kalman"], "--"),
    }
    for label, (key, colour, style) in series.items():
        wape = [window[key]["WAPE"] for window in result["windows"]]
        right.plot(origins, wape, style, color=colour, marker="o", ms=4, label=label)
    right.set_ylim(bottom=0)
    right.tick_params(axis="x", rotation=60, labelsize=8)
    right.set_title("WAPE by origin", loc="left", fontsize=10)
    right.legend(fontsize=8)
    for axes in (left, right):
        remove_frame(axes)
    return to_svg(figure)
