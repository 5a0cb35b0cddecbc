"""Filter states of all stores: from the fixed prior, then those of stores that joined later."""

import numpy as np
import numpy.typing as npt

from rossmann.data.panel.array_storage import SalesArrays
from rossmann.features import cold_start, kalman, state_space
from rossmann.features.state_space import FILTERS, N_STATES, FilterSpec

IndexArray = npt.NDArray[np.int64]


def compute_filter_states(past: SalesArrays) -> npt.NDArray[np.float32]:
    """The states (days, stores, N_STATES), one for each day with what is known up to it."""
    chain_level = kalman.chain_mean_level(past.log_sales)
    states = _from_fixed_prior(past, chain_level)
    first = cold_start.first_sales_day(past.log_sales)
    joined = np.nonzero(first > cold_start.first_established_day(past.log_sales))[0]
    if len(joined):
        kinds = past.store_kinds
        means = np.empty((len(states), int(kinds.max()) + 1, N_STATES))
        past.run_blocks(
            lambda low, high: cold_start.fill_prior_means(
                states, past.sales_days, kinds, chain_level, low, high, means
            ),
            len(states),
        )
        _from_chain_prior(past, means, joined, first[joined], states)
    return states


def _from_fixed_prior(
    past: SalesArrays, chain_level: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """The states of all stores as if no other store had traded before them."""
    stores, days = past.log_sales.shape
    states = past.storage.array("states", (days, stores, N_STATES), np.float32)
    prior = state_space.prior_variances()

    def fill(low: int, high: int) -> None:
        part = slice(low, high)
        block = np.empty((days, high - low, N_STATES), np.float32)
        inputs = kalman.FilterInputs(past.log_sales[part], past.masks[part], past.terms)
        for spec in FILTERS:
            process = state_space.process_variances(spec)
            kalman.run_filter(inputs, chain_level, prior, process, spec.offset, block)
        states[:, part] = block

    past.run_blocks(fill)
    return states


def _from_chain_prior(
    past: SalesArrays,
    means: npt.NDArray[np.float64],
    joined: IndexArray,
    first: IndexArray,
    states: npt.NDArray[np.float32],
) -> None:
    """Overwrite the states of the stores ``joined``, whose ``first`` day the chain traded before.

    ``means`` (days, kinds, N_STATES): the prior mean of each kind of store as of each day.
    """
    starts, which = np.unique(np.minimum(first, len(states) - 1), return_inverse=True)
    covariances = [_prior_covariances(past, states, starts, spec) for spec in FILTERS]

    def fill(low: int, high: int) -> None:
        part = joined[low:high]
        kinds = past.store_kinds[part]
        block = np.empty((len(states), high - low, N_STATES), np.float32)
        inputs = kalman.FilterInputs(past.log_sales[part], past.masks[part], past.terms)
        for spec, cov in zip(FILTERS, covariances, strict=True):
            priors = kalman.StorePriors(first[low:high], kinds, means, cov[which[low:high]])
            process = state_space.process_variances(spec)
            kalman.run_filter_with_priors(inputs, priors, process, spec.offset, block)
        states[:, part] = block

    past.run_blocks(fill, len(joined))


def _prior_covariances(
    past: SalesArrays, states: npt.NDArray[np.float32], starts: IndexArray, spec: FilterSpec
) -> npt.NDArray[np.float64]:
    """The prior covariance of one filter as of each of the days ``starts``: (n, size, size)."""
    prior = state_space.prior_variances()
    out = np.empty((len(starts), spec.size, spec.size))

    def fill(low: int, high: int) -> None:
        for i in range(low, high):
            counts = np.ascontiguousarray(past.sales_days[:, starts[i]])
            own = states[starts[i], :, spec.offset : spec.offset + spec.size]
            out[i] = cold_start.prior_covariance(own, counts, prior)

    past.run_blocks(fill, len(starts))
    return out
