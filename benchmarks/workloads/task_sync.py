"""A task that does nothing, one at a time: what each cell, and each step of a loop, pays."""

from __future__ import annotations

from benchmarks import limits as machine
from benchmarks.systems import System
from benchmarks.workloads.timing import times_us

NAME = "no-op task, synchronous, p50"
UNIT = "µs"
LOWER_IS_BETTER = True
BUDGET = "≤ 55 µs, ≤ 1/25 of Ray, ≤ 1/3 of ProcessPool"


def measure(system: System, scale: float) -> list[float]:
    """Time single calls."""
    return times_us(system.call, max(50, int(500 * scale)), warm_up=50)


def limits(scale: float) -> dict[str, list[float]]:
    """Time bare round trips."""
    with machine.echo_process() as connection:
        machine.round_trip_s(connection, 100)
        return {"bare socket": [time * 1e6 for time in machine.round_trip_s(connection, max(200, int(2000 * scale)))]}
