"""Getting an array of 100 MB that a worker made: a view where nothing is copied."""

from __future__ import annotations

import time

from benchmarks.systems import System

NAME = "get 100 MB made by a task, p50"
UNIT = "ms"
LOWER_IS_BETTER = True
BUDGET = "≤ 0.1 ms, no copy"

SIZE_BYTES = 100 * 10**6


def measure(system: System, scale: float) -> list[float]:
    """Time the first `get` of each of several arrays that are there."""
    times = []
    for number in range(max(3, int(8 * scale)) + 1):
        handle = system.make(SIZE_BYTES)
        start = time.perf_counter()
        value = system.get(handle)
        took = time.perf_counter() - start
        assert value.nbytes == SIZE_BYTES
        if number:
            times.append(took * 1e3)
        del handle, value
    return times


def limits(scale: float) -> dict[str, list[float]]:
    """There is none: a view costs nothing."""
    return {}
