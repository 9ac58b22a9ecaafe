"""A method of an actor that does nothing, one call at a time: what asking a model in memory pays."""

from __future__ import annotations

from benchmarks import functions
from benchmarks.workload import Metric, Turn, Workload
from benchmarks.workloads.task_sync import bare_round_trips

KEY = "actor_sync"


def measure(turn: Turn) -> None:
    system = turn.system
    actor = system.actor(functions.Idle)
    call, get = system.method(actor, "nothing"), system.get
    turn.record(KEY, *(took * 1e6 for took in turn.times(lambda: get(call()), within_s=1.0)))
    system.end_actor(actor)


WORKLOAD = Workload(
    (Metric(KEY, "actor call, synchronous", "µs"),),
    measure,
    limits=lambda turn: bare_round_trips(turn, KEY),
    quick=True,
)
