"""The demo chain's stores: what the store table says, and how each of them behaves."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

import numpy as np
import numpy.typing as npt

from rossmann.data.demo_calendar import STATES
from rossmann.schema import ASSORTMENTS, MONTH_NAMES, STORE_TYPES, FloatArray

CHAIN_STORES: Final = 1115

# Type, assortment: stores, mean log sales, its spread, log sales per customer, mean log distance.
_KINDS: Final = {
    ("a", "a"): (381, 8.66, 0.33, 2.16, 7.2),
    ("a", "c"): (221, 8.81, 0.35, 2.18, 7.4),
    ("b", "a"): (7, 9.16, 0.42, 1.83, 6.3),
    ("b", "b"): (9, 8.93, 0.42, 1.42, 6.8),
    ("b", "c"): (1, 9.75, 0.30, 1.75, 7.1),
    ("c", "a"): (77, 8.74, 0.27, 2.10, 7.0),
    ("c", "c"): (71, 8.74, 0.34, 2.19, 7.5),
    ("d", "a"): (128, 8.68, 0.25, 2.39, 8.2),
    ("d", "c"): (220, 8.77, 0.26, 2.42, 8.35),
}
_PROMO_LIFT: Final = {"a": 0.97, "b": 0.55, "c": 1.03, "d": 1.06}
_ROUND_SHARES: Final = (0.587, 0.228, 0.185)
"""Share of the stores whose Promo2 rounds start in January, February and March."""
_NO_COMPETITION_DATE: Final = 0.317
_WEEKDAY: Final = (0.0, -0.075, -0.085, -0.063, 0.035, -0.085, -0.10)

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Stores:
    """One entry a store, in arrays of shape (stores,) unless a line says otherwise."""

    kind: IntArray
    state: IntArray
    distance: FloatArray
    competition: npt.NDArray[np.datetime64]
    promo2_since: npt.NDArray[np.datetime64]
    promo2_first_month: IntArray
    level: FloatArray
    per_customer: FloatArray
    weekday: FloatArray
    lift: FloatArray
    open_sundays: npt.NDArray[np.bool_]
    open_holidays: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.kind)


def make_stores(rng: np.random.Generator, stores: int, first: date, last: date) -> Stores:
    """``stores`` stores in the chain's mix of types, states, competitors and habits.

    ``weekday`` is (stores, 7): log sales against the store's own mean, Monday first; ``lift``:
    how strongly promotions work, 1 in the mean. Dates are NaT where there is no such thing.
    """
    kind = _mix(rng, [row[0] for row in _KINDS.values()], stores)
    table = np.array([row[1:] for row in _KINDS.values()])[kind]
    letters = np.array([k[0] for k in _KINDS])[kind]
    is_b = letters == "b"
    distance = np.round(np.exp(rng.normal(table[:, 3], 1.45)), -1).clip(20, 75_860)
    distance[rng.permutation(stores)[: round(0.0027 * stores)]] = np.nan
    promo2_since, promo2_first_month = _promo2(rng, stores, last)
    lift = np.array([_PROMO_LIFT[x] for x in letters]) * rng.normal(1.0, 0.24, stores)
    also_sundays = rng.permutation(stores) < round(16 / CHAIN_STORES * stores)
    return Stores(
        kind=kind,
        state=_mix(rng, list(STATES.values()), stores),
        distance=distance,
        competition=_competition(rng, stores, first, last),
        promo2_since=promo2_since,
        promo2_first_month=promo2_first_month,
        level=rng.normal(table[:, 0], 0.95 * table[:, 1]),
        per_customer=rng.normal(table[:, 2], np.where(is_b, 0.10, 0.15)),
        weekday=_weekdays(rng, is_b),
        lift=lift.clip(0.1, 2.2),
        open_sundays=is_b | also_sundays,
        open_holidays=is_b,
    )


def store_table(chain: Stores) -> dict[str, list[object]]:
    """The store table's columns as Kaggle spells them; None is empty."""
    types = [STORE_TYPES.index(k[0]) for k in _KINDS]
    goods = [ASSORTMENTS.index(k[1]) for k in _KINDS]
    since = [None if np.isnat(d) else d.astype(date) for d in chain.competition]
    promo2 = [None if np.isnat(d) else d.astype(date).isocalendar() for d in chain.promo2_since]
    rounds = [
        _round_text(m) if p else "" for p, m in zip(promo2, chain.promo2_first_month, strict=True)
    ]
    return {
        "Store": list(range(1, len(chain) + 1)),
        "StoreType": [STORE_TYPES[types[k]] for k in chain.kind],
        "Assortment": [ASSORTMENTS[goods[k]] for k in chain.kind],
        "CompetitionDistance": [None if np.isnan(d) else int(d) for d in chain.distance],
        "CompetitionOpenSinceMonth": [d.month if d else None for d in since],
        "CompetitionOpenSinceYear": [d.year if d else None for d in since],
        "Promo2": [int(p is not None) for p in promo2],
        "Promo2SinceWeek": [p.week if p else None for p in promo2],
        "Promo2SinceYear": [p.year if p else None for p in promo2],
        "PromoInterval": list(rounds),
    }


def _round_text(first_month: int) -> str:
    return ",".join(MONTH_NAMES[m] for m in range(first_month, 12, 3))


def _mix(rng: np.random.Generator, counts: list[int], stores: int) -> IntArray:
    """Shuffled places in ``counts``: the chain's own numbers at its own size, else a sample."""
    return np.resize(rng.permutation(np.repeat(np.arange(len(counts)), counts)), stores)


def _weekdays(rng: np.random.Generator, is_b: npt.NDArray[np.bool_]) -> FloatArray:
    stores = len(is_b)
    effect = np.array(_WEEKDAY) + rng.normal(0, 0.045, (stores, 7))
    # Saturday tells a store by a motorway from one in an office district.
    effect[:, 5] += rng.normal(0, 0.26, stores)
    effect[:, 6] += np.where(is_b, -0.05, -0.3) + rng.normal(0, 0.45, stores)
    return effect


def _competition(
    rng: np.random.Generator, stores: int, first: date, last: date
) -> npt.NDArray[np.datetime64]:
    """First of the month in which the competitor opened; a sixth within the history."""
    months = (last.year - first.year) * 12 + last.month - first.month
    recent = rng.random(stores) < 0.25
    within = rng.integers(0, max(months, 1), stores)
    before = months + rng.gamma(2.0, 30.0, stores).astype(np.int64)
    opened = (np.datetime64(last, "M") - np.where(recent, within, before)).astype("datetime64[D]")
    opened[rng.random(stores) < _NO_COMPETITION_DATE] = np.datetime64("NaT")
    return opened


def _promo2(
    rng: np.random.Generator, stores: int, last: date
) -> tuple[npt.NDArray[np.datetime64], IntArray]:
    monday = np.datetime64(last - timedelta(days=last.weekday()), "D")
    since = monday - 7 * rng.integers(10, 320, stores)
    since[rng.random(stores) >= 0.512] = np.datetime64("NaT")
    return since, rng.choice(len(_ROUND_SHARES), stores, p=_ROUND_SHARES)
