"""Copying an array into the store, into memory that was used before: what handing over a table costs (also B2)."""

from __future__ import annotations

import time

from benchmarks import limits
from benchmarks.workload import Metric, Turn, Workload

SIZES = {"put_large.100mb": 100 * 10**6, "put_large.1gb": 10**9}


def measure(turn: Turn) -> None:
    turn.system.put(b"")  # who has no such thing says so before arrays are made
    for key, full_bytes in SIZES.items():
        turn.attempt(key, lambda key=key, full_bytes=full_bytes: _put(turn, key, turn.size(full_bytes)))  # type: ignore[misc]


def _put(turn: Turn, key: str, size_bytes: int) -> None:
    """Put an array again and again, the one before given up first."""
    import numpy as np

    system = turn.system
    value = np.ones(size_bytes, dtype=np.uint8)
    warm_up, until = 3, time.perf_counter() + turn.seconds(4.0)
    count = max(2, int((10 if size_bytes < 5 * 10**8 else 4) * turn.scale))
    for number in range(warm_up + count):
        start = time.perf_counter()
        handle = system.put(value)
        took = time.perf_counter() - start
        if number >= warm_up:
            turn.record(key, size_bytes / took / 1e9)
        elif number == 0:
            # Whoever is fast because nothing was copied must not be counted.
            mark = value[0]
            value[0] = mark + 1
            assert system.get(handle)[0] == mark, "the value of an object changed with the array that was put"
        del handle
        if time.perf_counter() > until and number > warm_up:
            break


def measure_limits(turn: Turn) -> None:
    """Copy as many bytes into memory that was touched before."""
    for key, full_bytes in SIZES.items():
        for threads in (1, 2):
            speeds = limits.memcpy_bytes_per_s(turn.size(full_bytes), 6 if full_bytes < 5 * 10**8 else 3, threads)
            turn.record(key, *(speed / 1e9 for speed in speeds), limit=f"memcpy {threads}")


WORKLOAD = Workload(
    (
        Metric("put_large.100mb", "put 100 MB, warm", "GB/s", lower_is_better=False),
        Metric("put_large.1gb", "put 1 GB, warm", "GB/s", lower_is_better=False),
    ),
    measure,
    limits=measure_limits,
    quick=True,
)
