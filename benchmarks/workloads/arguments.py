"""An array as the argument of a task, by value, from 1 kB to 1 GB: what a call costs that brings its data along."""

from __future__ import annotations

import time

from benchmarks import functions
from benchmarks.workload import Metric, Skipped, Turn, Workload

SIZES = {
    "arguments.1kb": 10**3,
    "arguments.10kb": 10**4,
    "arguments.100kb": 10**5,
    "arguments.1mb": 10**6,
    "arguments.10mb": 10**7,
    "arguments.100mb": 10**8,
    "arguments.1gb": 10**9,
}
TITLES = ("1 kB", "10 kB", "100 kB", "1 MB", "10 MB", "100 MB", "1 GB")
TOO_LONG_S = 1.5


def measure(turn: Turn) -> None:
    slowest = 0.0
    for key, full_bytes in SIZES.items():

        def one(key: str = key, size_bytes: int = turn.size(full_bytes)) -> None:
            nonlocal slowest
            if slowest > TOO_LONG_S:
                raise Skipped(f"not tried: a tenth of it took {slowest:.1f} s")
            times = _times(turn, size_bytes)
            slowest = min(times)
            turn.record(key, *(took * 1e3 for took in times))

        turn.attempt(key, one)


def _times(turn: Turn, size_bytes: int) -> list[float]:
    import numpy as np

    array = np.ones(size_bytes, dtype=np.uint8)
    submit, get = turn.system.task(functions.measure_of), turn.system.get

    def call() -> None:
        assert get(submit(array)) == size_bytes

    if size_bytes < 10**8:
        return turn.times(call, most=200, within_s=0.3)
    found = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
        if found[-1] > TOO_LONG_S:
            return found
    return found[1:]


WORKLOAD = Workload(
    tuple(Metric(key, f"a task with an argument of {title}", "ms") for key, title in zip(SIZES, TITLES, strict=True)),
    measure,
    rounds=2,
    cap_s=60,
)
