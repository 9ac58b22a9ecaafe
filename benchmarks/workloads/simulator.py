"""B3: a simulator with 80 MB of state: a task a step, state in and out, against an actor that keeps it.

Without refs the state travels through the client at each step: that is what such a system's user pays.
"""

from __future__ import annotations

from benchmarks import functions
from benchmarks.workload import Metric, Turn, Workload

SIZE_BYTES = 80 * 10**6


def measure(turn: Turn) -> None:
    turn.attempt("simulator.task", lambda: _tasks(turn))
    turn.attempt("simulator.actor", lambda: _actor(turn))


def _tasks(turn: Turn) -> None:
    system = turn.system
    submit = system.task(functions.step)
    state = system.get(system.task(functions.zeros)(turn.size(SIZE_BYTES)))
    handle = system.put(state) if system.has_refs else state

    def step() -> None:
        nonlocal handle
        following = submit(handle)
        if system.has_refs:
            system.wait_one([following])
            handle = following
        else:
            handle = system.get(following)

    del state
    turn.record("simulator.task", *(took * 1e3 for took in turn.times(step, most=30, within_s=1.5)))


def _actor(turn: Turn) -> None:
    system = turn.system
    actor = system.actor(functions.Simulator, turn.size(SIZE_BYTES))
    call, get = system.method(actor, "step"), system.get
    turn.record("simulator.actor", *(took * 1e3 for took in turn.times(lambda: get(call()), within_s=0.5)))
    system.end_actor(actor)


WORKLOAD = Workload(
    (
        Metric("simulator.task", "B3: 80 MB simulator state, a task a step", "ms"),
        Metric("simulator.actor", "B3: 80 MB simulator state, an actor a step", "ms"),
    ),
    measure,
    quick=True,
)
