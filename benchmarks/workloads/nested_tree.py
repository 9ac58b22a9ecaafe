"""A tree of nested tasks, each of which waits for its children: wider than the machine has cores."""

from __future__ import annotations

import time

from benchmarks import functions
from benchmarks.systems import key_of
from benchmarks.workload import Metric, NotOffered, Turn, Workload

DEPTH = 3
WIDTH = 4


def measure(turn: Turn) -> None:
    system = turn.system
    key = key_of(system)
    if not system.nests:
        raise NotOffered("tasks that submit tasks to the same workers")
    depth = 1 if turn.tiny else DEPTH
    tasks = sum(WIDTH**level for level in range(depth + 1))
    submit = system.task(functions.tree)
    for number in range(2 if turn.tiny else 4):
        start = time.perf_counter()
        found = system.get(submit(key, depth, WIDTH))
        took = time.perf_counter() - start
        if found != tasks:
            raise NotOffered(f"whole answer: {found} of {tasks} tasks ran")
        if number:
            turn.record("nested_tree", took * 1e3)
        if took > 5:
            break
    if "nested_tree" not in turn.samples:
        turn.record("nested_tree", took * 1e3)


WORKLOAD = Workload((Metric("nested_tree", "a tree of 85 nested tasks", "ms"),), measure, rounds=2, cap_s=40)
