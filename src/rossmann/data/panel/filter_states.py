"""The filters' states of all stores: first as if each were the chain's first, then newcomers."""

import numpy as np
import numpy.typing as npt

from rossmann.data.panel.array_storage import SalesArrays
from rossmann.features import cold_start as newcomers
from rossmann.features import kalman, state_space

Index = npt.NDArray[np.int64]


def compute_filter_states(
    past: SalesArrays, seen: npt.NDArray[np.int16], kinds: Index
) -> npt.NDArray[np.float32]:
    """The states (days, stores, N_STATES).

    ``seen`` (stores, days) counts days with sales; ``kinds`` (stores,) tells like stores apart.
    """
    chain_level = kalman.chain_mean_level(past.log_sales)
    states = _from_fixed_prior(past, chain_level)
    first = newcomers.first_sales_day(past.log_sales)
    joined = np.nonzero(first > newcomers.first_established_day(past.log_sales))[0]
    if len(joined):
        means = np.empty((len(states), int(kinds.max()) + 1, state_space.N_STATES))
        past.run(
            lambda lo, hi: newcomers.fill_prior_means(
                states, seen, kinds, chain_level, lo, hi, means
            ),
            len(states),
        )
        _from_the_chain(past, seen, kinds, means, joined, first[joined], states)
    return states


def _from_fixed_prior(
    past: SalesArrays, chain_level: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """The states of stores that start without knowing the chain."""
    stores, days = past.log_sales.shape
    kept = past.shelf.array("states", (days, stores, state_space.N_STATES), np.float32)
    prior = state_space.prior_variances()

    def fill(low: int, high: int) -> None:
        mine = slice(low, high)
        block = np.empty((days, high - low, state_space.N_STATES), np.float32)
        y, masks = past.log_sales[mine], past.masks[mine]
        for at, size, level, weekday in state_space.FILTERS:
            noise = state_space.process_variances(level, weekday)
            kalman.run_filter(
                y, masks, past.terms, chain_level, prior, noise, size, at, 0, high - low, block
            )
        kept[:, mine] = block

    past.run(fill)
    return kept


def _from_the_chain(
    past: SalesArrays,
    seen: npt.NDArray[np.int16],
    kinds: Index,
    means: npt.NDArray[np.float64],
    joined: Index,
    first: Index,
    states: npt.NDArray[np.float32],
) -> None:
    """The states of the stores at ``joined``, whose ``first`` day the chain was there before."""
    starts, which = np.unique(np.minimum(first, len(states) - 1), return_inverse=True)
    covs = [_priors(past, seen, states, starts, at, size) for at, size, _, _ in state_space.FILTERS]

    def follow(low: int, high: int) -> None:
        mine = joined[low:high]
        block = np.empty((len(states), high - low, state_space.N_STATES), np.float32)
        for (at, _, level, weekday), cov in zip(state_space.FILTERS, covs, strict=True):
            noise = state_space.process_variances(level, weekday)
            kalman.run_filter_with_priors(
                past.log_sales[mine], past.masks[mine], past.terms, first[low:high], kinds[mine],
                means, cov[which[low:high]], noise, at, block,
            )  # fmt: skip
        states[:, mine] = block

    past.run(follow, len(joined))


def _priors(
    past: SalesArrays,
    seen: npt.NDArray[np.int16],
    states: npt.NDArray[np.float32],
    starts: Index,
    at: int,
    size: int,
) -> npt.NDArray[np.float64]:
    """The prior covariance of one filter as of each of the days ``starts``: (n, size, size)."""
    fixed = state_space.prior_variances()
    out = np.empty((len(starts), size, size))

    def measure(low: int, high: int) -> None:
        for i in range(low, high):
            counts = np.ascontiguousarray(seen[:, starts[i]])
            out[i] = newcomers.prior_covariance(states[starts[i]], counts, fixed, at, size)

    past.run(measure, len(starts))
    return out
