"""100 MB that a worker has made, in the client: as a view of the store where there is one, over a pipe elsewhere.

`get` is the call alone, the value being there already (only with a store that tasks write to). `through` begins when
the worker's function has made the array and ends when the client has it: everything in between, for every system.
"""

from __future__ import annotations

import time

from benchmarks import functions
from benchmarks.workload import Metric, NotOffered, Turn, Workload

SIZE_BYTES = 100 * 10**6


def measure(turn: Turn) -> None:
    turn.attempt("get_large.get", lambda: _get(turn))
    turn.attempt("get_large.through", lambda: _through(turn))


def _get(turn: Turn) -> None:
    system = turn.system
    if not system.has_refs:
        raise NotOffered("store: results come to the client by themselves")
    size_bytes, submit = turn.size(SIZE_BYTES), system.task(functions.zeros)
    for number in range(max(3, int(10 * turn.scale))):
        handle = submit(size_bytes)
        system.wait_one([handle])
        start = time.perf_counter()
        value = system.get(handle)
        took = time.perf_counter() - start
        assert value.nbytes == size_bytes // 8 * 8
        if number:
            turn.record("get_large.get", took * 1e3)
        del handle, value


def _through(turn: Turn) -> None:
    system = turn.system
    size_bytes, submit = turn.size(SIZE_BYTES), system.task(functions.zeros)
    for number in range(max(3, int(6 * turn.scale))):
        value = system.get(submit(size_bytes))
        took = time.monotonic() - value[0]
        if number:
            turn.record("get_large.through", took * 1e3)
        del value


WORKLOAD = Workload(
    (
        Metric("get_large.get", "get 100 MB that a task has made", "ms"),
        Metric("get_large.through", "100 MB, from the worker's function to the client", "ms"),
    ),
    measure,
    quick=True,
)
