"""Many tasks that do nothing, submitted at once by one client: what fanning out costs."""

from __future__ import annotations

from benchmarks import limits as machine
from benchmarks.systems import System
from benchmarks.workloads.timing import rate_per_s

NAME = "no-op tasks, one client, asynchronous"
UNIT = "/s"
LOWER_IS_BETTER = False
BUDGET = "≥ 80,000/s"

# So many that a round takes about half a second on each system.
COUNTS = {"Atoll": 40_000, "Ray": 1_000, "ProcessPool": 4_000}


def measure(system: System, scale: float) -> list[float]:
    """Take one rate, after a tenth as many calls that do not count."""
    count = int(COUNTS[system.name] * scale)
    system.call_many(max(1, count // 10))
    return [rate_per_s(system.call_many, count)]


def limits(scale: float) -> dict[str, list[float]]:
    """Take the rate of calls that are pickled in batches."""
    with machine.echo_process() as connection:
        machine.batched_calls_per_s(connection, 10_000)
        return {"batched pickles": [machine.batched_calls_per_s(connection, int(100_000 * scale))]}
