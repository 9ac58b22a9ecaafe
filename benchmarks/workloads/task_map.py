"""A cheap function over many items, in the way that each system's documentation recommends for that: chunks allowed.

Beside single submissions (`task_async`) this shows what a system without cheap tasks wins by packing them.
"""

from __future__ import annotations

from benchmarks import functions
from benchmarks.workload import Metric, Turn, Workload

KEY = "task_map"


def measure(turn: Turn) -> None:
    system = turn.system
    turn.record(KEY, *turn.rate(lambda count: system.map(functions.same, list(range(count))), within_s=0.8, first=2000))


WORKLOAD = Workload((Metric(KEY, "map over small items, chunks allowed", "/s", lower_is_better=False),), measure)
