"""Tasks of 10 µs to 1 s, each submitted by itself: how much of two cores is left for the work itself.

The work is processor time, so what the client and the daemons take from two cores is missing in it. 100 % is no
overhead and perfect balance: work / (cores x time).
"""

from __future__ import annotations

import time

from benchmarks import functions
from benchmarks.systems import WORKERS
from benchmarks.workload import Metric, Turn, Workload

DURATIONS = {
    "durations.10us": 1e-5,
    "durations.100us": 1e-4,
    "durations.1ms": 1e-3,
    "durations.10ms": 1e-2,
    "durations.100ms": 0.1,
    "durations.1s": 1.0,
}
TITLES = ("10 µs", "100 µs", "1 ms", "10 ms", "100 ms", "1 s")


def measure(turn: Turn) -> None:
    submit, get_all = turn.system.task(functions.spin), turn.system.get_all

    def run(duration_s: float, count: int) -> tuple[float, float]:
        start = time.perf_counter()
        work = sum(get_all([submit(duration_s) for _ in range(count)]))
        return work, time.perf_counter() - start

    for key, full_s in DURATIONS.items():
        duration_s = full_s / 10 if turn.tiny else full_s
        probe_s = duration_s * 2 if duration_s > 0.05 else run(duration_s, 2 * WORKERS)[1]
        wanted_s = max(turn.seconds(0.5), 2 * duration_s)
        count = int(wanted_s / max(duration_s / WORKERS, probe_s / (2 * WORKERS)))
        count = max(WORKERS, count - count % WORKERS)
        if probe_s < wanted_s / 20:
            # What a few cost says little of what many cost: look again.
            _work, probe_s = run(duration_s, count // 4 or 1)
            count = max(count, int(wanted_s / (probe_s / (count // 4 or 1))))
            count -= count % WORKERS
        work, took = run(duration_s, count)
        turn.record(key, 100 * work / (WORKERS * took))


WORKLOAD = Workload(
    tuple(
        Metric(key, f"tasks of {title}: share of two cores that is work", "%", lower_is_better=False)
        for key, title in zip(DURATIONS, TITLES, strict=True)
    ),
    measure,
    rounds=2,
    cap_s=60,
)
