"""Copying an array of 100 MB into shared memory that was used before: what handing over a table costs."""

from __future__ import annotations

import time

from benchmarks import limits as machine
from benchmarks.systems import System

NAME = "put 100 MB, warm"
UNIT = "GB/s"
LOWER_IS_BETTER = False
BUDGET = "≥ 0.8 x memcpy"

SIZE_BYTES = 100 * 10**6


def speeds(system: System, size_bytes: int, count: int, warm_up: int) -> list[float]:
    """Put an array again and again, the one before given up first, and return gigabytes a second."""
    import numpy as np

    value = np.random.default_rng(0).integers(0, 255, size_bytes, dtype=np.uint8)
    found = []
    for number in range(warm_up + count):
        start = time.perf_counter()
        handle = system.put(value)
        took = time.perf_counter() - start
        if number >= warm_up:
            found.append(size_bytes / took / 1e9)
        else:
            # Whoever is fast because nothing was copied must not be counted.
            assert np.array_equal(system.get(handle)[:: size_bytes // 1000], value[:: size_bytes // 1000])
        del handle
    return found


def copies(size_bytes: int, count: int) -> dict[str, list[float]]:
    """Return what plain copies reach, with one thread and with two."""
    return {
        f"memcpy {threads}": [speed / 1e9 for speed in machine.memcpy_bytes_per_s(size_bytes, count, threads)]
        for threads in (1, 2)
    }


def measure(system: System, scale: float) -> list[float]:
    """Put it several times."""
    return speeds(system, SIZE_BYTES, max(3, int(8 * scale)), warm_up=3)


def limits(scale: float) -> dict[str, list[float]]:
    """Copy as many bytes."""
    return copies(SIZE_BYTES, max(3, int(8 * scale)))
