"""B7: a training of which an actor keeps the state, against one whose state is handed from task to task, and one that
loads and saves it at each step.

The state is 2 x 8 MB, all of which changes in a step.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks import functions
from benchmarks.workload import Metric, Turn, Workload

WIDTH = 1024
RATE = 1e-4


def measure(turn: Turn) -> None:
    import numpy as np

    width = 64 if turn.tiny else WIDTH
    state = (np.ones((width, width)), np.zeros((width, width)))
    with tempfile.TemporaryDirectory(prefix="atoll-bench-") as directory:
        path = str(Path(directory) / "state.npz")
        np.savez(path, weights=state[0], momentum=state[1])
        turn.attempt("training.actor", lambda: _kept(turn, path))
        turn.attempt("training.task", lambda: _handed(turn, state))
        turn.attempt("training.loaded", lambda: _loaded(turn, path))


def _kept(turn: Turn, path: str) -> None:
    system = turn.system
    actor = system.actor(functions.Trainer, path)
    call = system.method(actor, "train")
    times = turn.times(lambda: system.get(call(RATE)), most=100, within_s=0.5)
    turn.record("training.actor", *(took * 1e3 for took in times))
    system.end_actor(actor)


def _handed(turn: Turn, state: object) -> None:
    system = turn.system
    submit = system.task(functions.train)
    handle = system.put(state) if system.has_refs else state

    def step() -> None:
        nonlocal handle
        following = submit(handle, RATE)
        if system.has_refs:
            system.wait_one([following])
            handle = following
        else:
            handle = system.get(following)

    turn.record("training.task", *(took * 1e3 for took in turn.times(step, most=50, within_s=0.6)))


def _loaded(turn: Turn, path: str) -> None:
    system = turn.system
    submit = system.task(functions.train_file)
    times = turn.times(lambda: system.get(submit(path, RATE)), most=50, within_s=0.6)
    turn.record("training.loaded", *(took * 1e3 for took in times))


WORKLOAD = Workload(
    (
        Metric("training.actor", "B7: a step of training, the state in an actor (16 MB)", "ms"),
        Metric("training.task", "B7: a step of training, the state from task to task", "ms"),
        Metric("training.loaded", "B7: a step of training, the state loaded and saved", "ms"),
    ),
    measure,
    rounds=2,
)
