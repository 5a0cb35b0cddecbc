"""Cores of a worker's threads.

Each worker's event loop has a core of its own where there are as many cores as workers. Otherwise
the scheduler moves the loops between cores, away from their caches: under a load that takes both of
two cores, two workers lose 10 % of their responses and more. Only the loop and the threads that
take turns with it are pinned; threads that compute use all cores.
"""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

import polars as pl

from rossmann.filesystem.locks import try_lock

P = ParamSpec("P")
T = TypeVar("T")


def unpinned() -> Callable[[], None]:
    """A thread initializer that restores the affinity this process has now.

    Create it before the loop is pinned: threads inherit the affinity of their creator.
    """
    return partial(set_affinity, os.sched_getaffinity(0))


def set_affinity(cores: set[int]) -> None:
    """Pin this thread to ``cores``; does nothing where the system refuses (sandbox, cpuset)."""
    with suppress(OSError):
        os.sched_setaffinity(0, cores)


def run_unpinned(work: Callable[P, T]) -> Callable[P, T]:
    """``work`` in a thread that is unpinned from then on."""
    unpin = unpinned()

    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        unpin()
        return work(*args, **kwargs)

    return run


@contextmanager
def pinned_core(workers: int, folder: Path | None) -> Iterator[int | None]:
    """Pin this thread and those that it creates to a core that no other worker has.

    Yields the core; None, unpinned, where there are more or fewer cores than workers. ``folder``
    is shared by the ``workers``; None where there is only one.
    """
    cores = os.sched_getaffinity(0)
    claimed = None if folder is None or len(cores) != workers else _claim_core(folder, cores)
    if claimed is None:
        yield None
        return
    core, descriptor = claimed
    _start_polars_threads()
    try:
        set_affinity({core})
        yield core
    finally:
        set_affinity(cores)
        os.close(descriptor)


def _claim_core(folder: Path, cores: set[int]) -> tuple[int, int] | None:
    """A free core, and the lock that holds it until it is closed or the process ends."""
    for core in sorted(cores):
        descriptor = try_lock(folder / f"core-{core}", mode=0o600)
        if descriptor is not None:
            return core, descriptor
    return None


def _start_polars_threads() -> None:
    """Start Polars' threads unpinned: started later, all of them would share one core."""
    pl.DataFrame({"a": [0]}).write_ipc(io.BytesIO())
