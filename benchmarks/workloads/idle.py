"""What a system costs while nobody uses it: processor and memory of all that it has started, two workers included.

Memory is the proportional set size: what processes share is counted once. The client's own memory is not counted.
"""

from __future__ import annotations

import time

from benchmarks import leftovers
from benchmarks.workload import Metric, Turn, Workload


def measure(turn: Turn) -> None:
    if not turn.tiny:
        time.sleep(1.5)  # what follows the last task has ended
    pids = leftovers.descendants()
    for _ in range(1 if turn.tiny else 2):
        before = {pid: leftovers.cpu_s(pid) for pid in pids}
        start = time.monotonic()
        time.sleep(max(0.1, turn.seconds(1.5)))
        took = time.monotonic() - start
        used = sum(leftovers.cpu_s(pid) - before[pid] for pid in pids)
        turn.record("idle.cpu", 100 * used / took)
    turn.record("idle.memory", sum(leftovers.proportional_bytes(pid) for pid in pids) / 1e6)


WORKLOAD = Workload(
    (
        Metric("idle.cpu", "idle: processor, all processes but the client", "%"),
        Metric("idle.memory", "idle: memory (PSS), daemons and 2 workers", "MB"),
    ),
    measure,
    rounds=2,
    quick=True,
    early=True,
)
