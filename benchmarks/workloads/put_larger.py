"""The same with 1 GB, which no cache of a processor holds."""

from __future__ import annotations

from benchmarks.systems import System
from benchmarks.workloads.put_large import copies, speeds

NAME = "put 1 GB, warm"
UNIT = "GB/s"
LOWER_IS_BETTER = False
BUDGET = "≥ 0.8 x memcpy"

SIZE_BYTES = 10**9


def measure(system: System, scale: float) -> list[float]:
    """Put it a few times."""
    return speeds(system, SIZE_BYTES, max(2, int(3 * scale)), warm_up=3)


def limits(scale: float) -> dict[str, list[float]]:
    """Copy as many bytes."""
    return copies(SIZE_BYTES, max(1, int(2 * scale)))
