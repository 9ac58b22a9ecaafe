"""A method of an actor that does nothing, one call at a time: what asking a model in memory pays."""

from __future__ import annotations

from benchmarks.systems import System
from benchmarks.workloads import task_sync
from benchmarks.workloads.timing import times_us

NAME = "actor call, synchronous, p50"
UNIT = "µs"
LOWER_IS_BETTER = True
BUDGET = "≤ 45 µs"

limits = task_sync.limits


def measure(system: System, scale: float) -> list[float]:
    """Time single calls."""
    return times_us(system.actor_call, max(50, int(500 * scale)), warm_up=50)
