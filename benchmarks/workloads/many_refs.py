"""Many refs: a thousand results waited for one by one; ten thousand arguments; three thousand results of one task; an
object that holds ten thousand refs, which a task then receives.
"""

from __future__ import annotations

import time

from benchmarks import functions
from benchmarks.workload import Metric, NotOffered, Turn, Workload


def measure(turn: Turn) -> None:
    turn.attempt("many_refs.waited", lambda: _waited(turn))
    turn.attempt("many_refs.arguments", lambda: _arguments(turn))
    turn.attempt("many_refs.returns", lambda: _returns(turn))
    turn.attempt("many_refs.held", lambda: _held(turn))


def _waited(turn: Turn) -> None:
    submit, wait_one = turn.system.task(functions.nothing), turn.system.wait_one
    began = time.perf_counter()
    while "many_refs.waited" not in turn.samples or time.perf_counter() - began < turn.seconds(1.0):
        start = time.perf_counter()
        rest = [submit() for _ in range(turn.count(1000))]
        while rest:
            _done, rest = wait_one(rest)
        turn.record("many_refs.waited", (time.perf_counter() - start) * 1e3)


def _arguments(turn: Turn) -> None:
    system = turn.system
    how_many = turn.count(10_000)
    refs = system.put_all(list(range(how_many)))
    start = time.perf_counter()
    assert system.get(system.task(functions.count)(*refs)) == how_many
    turn.record("many_refs.arguments", (time.perf_counter() - start) * 1e3)


def _returns(turn: Turn) -> None:
    system = turn.system
    how_many = turn.count(3000)
    submit = system.task(functions.numbers, returns=how_many)
    for _ in range(2):
        start = time.perf_counter()
        assert system.get_all(submit(how_many)) == list(range(how_many))
        took = time.perf_counter() - start
    turn.record("many_refs.returns", took * 1e3)


def _held(turn: Turn) -> None:
    system = turn.system
    if not system.has_refs:
        raise NotOffered("refs")
    how_many = turn.count(10_000)
    refs = system.put_all(list(range(how_many)))
    start = time.perf_counter()
    holder = system.put(refs)
    assert system.get(system.task(functions.length)(holder)) == how_many
    turn.record("many_refs.held", (time.perf_counter() - start) * 1e3)


WORKLOAD = Workload(
    (
        Metric("many_refs.waited", "1,000 tasks, waited for one by one", "ms"),
        Metric("many_refs.arguments", "a task with 10,000 refs as arguments", "ms"),
        Metric("many_refs.returns", "a task that returns 3,000 values", "ms"),
        Metric("many_refs.held", "an object that holds 10,000 refs, put and read by a task", "ms"),
    ),
    measure,
    cap_s=60,
    rounds=1,
)
