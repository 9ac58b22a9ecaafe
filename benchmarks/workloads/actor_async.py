"""Many calls of an actor's method that does nothing, made at once by one client."""

from __future__ import annotations

from benchmarks.systems import System
from benchmarks.workloads import task_async
from benchmarks.workloads.timing import rate_per_s

NAME = "actor calls, asynchronous"
UNIT = "/s"
LOWER_IS_BETTER = False
BUDGET = "≥ 90,000/s"

limits = task_async.limits

COUNTS = {"Atoll": 40_000, "Ray": 3_000, "ProcessPool": 1}


def measure(system: System, scale: float) -> list[float]:
    """Take one rate, after a tenth as many calls that do not count."""
    count = max(1, int(COUNTS[system.name] * scale))
    system.actor_call_many(max(1, count // 10))
    return [rate_per_s(system.actor_call_many, count)]
