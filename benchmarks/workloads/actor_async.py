"""Many calls of an actor's method that does nothing, made at once by one client."""

from __future__ import annotations

from benchmarks import functions
from benchmarks.workload import Metric, Turn, Workload
from benchmarks.workloads.task_async import batched_calls

KEY = "actor_async"


def measure(turn: Turn) -> None:
    system = turn.system
    actor = system.actor(functions.Idle)
    call, get_all = system.method(actor, "nothing"), system.get_all
    turn.record(KEY, *turn.rate(lambda count: get_all([call() for _ in range(count)]), within_s=0.8))
    system.end_actor(actor)


WORKLOAD = Workload(
    (Metric(KEY, "actor calls, asynchronous", "/s", lower_is_better=False),),
    measure,
    limits=lambda turn: batched_calls(turn, KEY),
    quick=True,
)
