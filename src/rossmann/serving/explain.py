"""What drove a forecast, as it is told: for HTTP, and as columns of a table."""

from typing import Any

from rossmann.models.drivers import CLOSED, LABELS, OTHER_LABELS
from rossmann.schema import FloatArray
from rossmann.serving.forecaster import Explained

_LABELS = {**LABELS, **OTHER_LABELS}


def explanations(found: Explained) -> list[dict[str, Any]]:
    """What ``messages.Explanation`` says of each row; a closed one has one driver."""
    factors = {name: column.tolist() for name, column in found.factors.items()}
    sales = {name: column.tolist() for name, column in found.sales.items()}
    baseline = found.baseline.tolist()
    told = []
    for row, forecast in enumerate(found.forecast.sales.tolist()):
        closed = factors[CLOSED][row] == 0
        told.append(
            {
                "forecast": forecast,
                "baseline": baseline[row],
                "drivers": [
                    {
                        "name": name,
                        "label": _LABELS[name],
                        "factor": column[row],
                        "percent": 100 * (column[row] - 1),
                        "sales": sales[name][row],
                    }
                    for name, column in factors.items()
                    if (name == CLOSED) == closed
                ],
            }
        )
    return told


def columns(found: Explained) -> dict[str, FloatArray]:
    """The same as columns (n,): the baseline, and each driver in per cent of sales."""
    named = {f"Driver_{name}": 100 * (factor - 1) for name, factor in found.factors.items()}
    return {"Baseline": found.baseline, **named}
