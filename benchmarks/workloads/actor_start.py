"""Ten actors, made and called once."""

from __future__ import annotations

import time

from benchmarks import functions
from benchmarks.workload import Metric, Turn, Workload

ACTORS = 10


def measure(turn: Turn) -> None:
    system = turn.system
    for _ in range(3 if system.name == "Atoll" and not turn.tiny else 1):
        start = time.perf_counter()
        actors = [system.actor(functions.Idle) for _ in range(ACTORS)]
        system.get_all([system.method(actor, "nothing")() for actor in actors])
        turn.record("actor_start", time.perf_counter() - start)
        for actor in actors:
            system.end_actor(actor)


WORKLOAD = Workload(
    (Metric("actor_start", "10 actors, started and called once", "s"),),
    measure,
    rounds=2,
    cap_s=60,
    quick=True,
)
