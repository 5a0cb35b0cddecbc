"""A core for each worker's event loop, where a service has as many cores as workers.

Left alone, the scheduler moves loops from core to core whenever something else wants a turn there
(a client, the prediction log), and what a loop had in its core's caches stays behind: under a load
that takes all of two cores that costs two workers a tenth of their answers and more. Only the loop
and threads that take turns with it keep to the core; those that compute use all of them.
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
    """For a thread to call first: it may run wherever the caller of ``roaming`` may run now.

    To be made before the loop keeps to a core, which threads that it begins would do as well.
    """
    return partial(set_affinity, os.sched_getaffinity(0))


def set_affinity(cores: set[int]) -> None:
    """Keep this thread to ``cores``; changes nothing where the system does not let it.

    It may not by a sandbox's rule, or because the machine's owner gave the process other cores.
    """
    with suppress(OSError):
        os.sched_setaffinity(0, cores)


def run_unpinned(work: Callable[P, T]) -> Callable[P, T]:
    """``work``, in a thread that is ``roaming`` from then on."""
    roam = unpinned()

    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        roam()
        return work(*args, **kwargs)

    return run


@contextmanager
def pinned_core(workers: int, folder: Path | None) -> Iterator[int | None]:
    """Keep this thread, and those that it begins, to a core that none of its siblings has.

    Gives the core; None, and changes nothing, where there are more or fewer cores than workers.
    ``folder``: one that the ``workers`` share, None where this one is alone.
    """
    cores = os.sched_getaffinity(0)
    held = None if folder is None or len(cores) != workers else _take(folder, cores)
    if held is None:
        yield None
        return
    core, descriptor = held
    _begin_threads()
    try:
        set_affinity({core})
        yield core
    finally:
        set_affinity(cores)
        os.close(descriptor)


def _take(folder: Path, cores: set[int]) -> tuple[int, int] | None:
    """A core, and what holds it until it is closed or the process ends."""
    for core in sorted(cores):
        descriptor = try_lock(folder / f"core-{core}", mode=0o600)
        if descriptor is not None:
            return core, descriptor
    return None


def _begin_threads() -> None:
    """Let Polars begin its threads: where it did so later, all of them would share one core."""
    pl.DataFrame({"a": [0]}).write_ipc(io.BytesIO())
