"""A further process, a new kernel say, attaches to the system that runs: from its import to its first result."""

from __future__ import annotations

from benchmarks import newcomer
from benchmarks.workload import Metric, Turn, Workload


def measure(turn: Turn) -> None:
    address = turn.system.address()
    for _ in range(max(1, int(3 * turn.scale))):
        turn.record("attach", newcomer.first_result(turn.system, "attach", address))


WORKLOAD = Workload(
    (Metric("attach", "a new kernel attaches: import to first result", "s"),),
    measure,
    cap_s=60,
    quick=True,
)
