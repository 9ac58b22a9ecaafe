"""A task that does nothing, one at a time: what each step of a loop pays (also B1)."""

from __future__ import annotations

from benchmarks import functions, limits
from benchmarks.workload import Metric, Turn, Workload

KEY = "task_sync"


def measure(turn: Turn) -> None:
    submit, get = turn.system.task(functions.nothing), turn.system.get
    turn.record(KEY, *(took * 1e6 for took in turn.times(lambda: get(submit()), within_s=1.0)))


def bare_round_trips(turn: Turn, key: str) -> None:
    """Time bare pickled round trips over a Unix socket."""
    with limits.echo_process() as connection:
        limits.round_trip_s(connection, 200)
        times = limits.round_trip_s(connection, turn.count(4000))
    turn.record(key, *(took * 1e6 for took in times), limit="bare socket")


WORKLOAD = Workload(
    (Metric(KEY, "no-op task, synchronous", "µs"),),
    measure,
    limits=lambda turn: bare_round_trips(turn, KEY),
    quick=True,
)
