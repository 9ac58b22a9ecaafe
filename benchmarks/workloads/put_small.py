"""Putting small things: one small value, and many arrays of 4 kB and of 200 kB (more than travels in a message)."""

from __future__ import annotations

from benchmarks.workload import Metric, Turn, Workload

ARRAYS = {"put_small.4kb": 4 * 1024, "put_small.200kb": 200 * 1024}


def measure(turn: Turn) -> None:
    import numpy as np

    put = turn.system.put
    value = {"rate": 0.1, "epochs": 20, "name": "a small value"}
    turn.record("put_small.value", *(took * 1e6 for took in turn.times(lambda: put(value), within_s=0.4)))
    for key, size_bytes in ARRAYS.items():
        array = np.ones(size_bytes, dtype=np.uint8)

        def many(count: int, array: object = array) -> None:
            # As many at once as a program may hold: the refs live until the last is there.
            for start in range(0, count, 500):
                _held = [put(array) for _ in range(min(500, count - start))]

        turn.record(key, *turn.rate(many, within_s=0.5, first=20))


WORKLOAD = Workload(
    (
        Metric("put_small.value", "put of a small value", "µs"),
        Metric("put_small.4kb", "put of many arrays of 4 kB", "/s", lower_is_better=False),
        Metric("put_small.200kb", "put of many arrays of 200 kB", "/s", lower_is_better=False),
    ),
    measure,
    quick=True,
)
