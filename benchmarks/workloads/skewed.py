"""A mix of short and long tasks in random order, against an ideal schedule: long ones must not hold up short ones.

The ideal is list scheduling: each task starts, in order of submission, on the first worker that is free, with no
overhead at all, each as long as it really was. Tasks hold their worker without using the processor, so that what is
measured is the order and the balance, not what else the machine does.
"""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Sequence

from benchmarks import functions
from benchmarks.systems import WORKERS
from benchmarks.workload import Metric, Turn, Workload

MIXES = {
    "skewed.mild": ((180, 0.005), (18, 0.03), (2, 0.3)),
    "skewed.strong": ((1500, 0.0005), (30, 0.01), (4, 0.25)),
}


def makespan(durations: Sequence[float], workers: int) -> float:
    """Return how long a list schedule takes: each next task on the worker that is free first."""
    free_at = [0.0] * workers
    for duration in durations:
        heapq.heapreplace(free_at, free_at[0] + duration)
    return max(free_at)


def measure(turn: Turn) -> None:
    submit, get_all = turn.system.task(functions.pause), turn.system.get_all
    for key, mix in MIXES.items():
        for seed in range(2 if turn.scale == 1 and not turn.tiny else 1):
            durations = [duration for count, duration in mix for _ in range(turn.count(count))]
            random.Random(seed).shuffle(durations)
            get_all([submit(0.0005) for _ in range(20)])  # whoever adapts has seen short tasks
            start = time.perf_counter()
            real = get_all([submit(duration) for duration in durations])
            turn.record(key, (time.perf_counter() - start) / makespan(real, WORKERS))


WORKLOAD = Workload(
    (
        Metric("skewed.mild", "5, 30 and 300 ms mixed: time over an ideal schedule", "x"),
        Metric("skewed.strong", "0.5, 10 and 250 ms mixed: time over an ideal schedule", "x"),
    ),
    measure,
    cap_s=60,
    quick=True,
)
