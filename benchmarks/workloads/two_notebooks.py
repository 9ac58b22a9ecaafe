"""Two notebooks at once, on the same two workers.

Throughput: two further processes attach and submit small tasks without pause; together they should lose nothing, and
neither should get less than the other. Latency: one floods the workers with tasks of a millisecond, hundreds in the
queue; the other wants one short task after another.
"""

from __future__ import annotations

import statistics
import time

from benchmarks import functions, newcomer
from benchmarks.workload import Metric, Turn, Workload


def measure(turn: Turn) -> None:
    address = turn.system.address()
    turn.attempt("two_notebooks.rate", lambda: _throughput(turn, address))
    turn.attempt("two_notebooks.p50", lambda: _latency(turn, address))
    for key in ("fairness", "p99"):
        first = {"fairness": "rate", "p99": "p50"}[key]
        if f"two_notebooks.{first}" in turn.absent:
            turn.absent[f"two_notebooks.{key}"] = turn.absent[f"two_notebooks.{first}"]


def _throughput(turn: Turn, address: str) -> None:
    seconds = max(0.2, turn.seconds(1.5))
    with (
        newcomer.Newcomer(turn.system, "throughput", address, seconds) as one,
        newcomer.Newcomer(turn.system, "throughput", address, seconds) as other,
    ):
        _go(one, other)
        counts = [float(one.answer()), float(other.answer())]
    turn.record("two_notebooks.rate", sum(counts) / seconds)
    turn.record("two_notebooks.fairness", min(counts) / max(counts))


def _go(*all_of_them: newcomer.Newcomer) -> None:
    """Let them begin together, once all have attached."""
    for one in all_of_them:
        one.ready()
    for one in all_of_them:
        one.go()


def _latency(turn: Turn, address: str) -> None:
    submit, get = turn.system.task(functions.nothing), turn.system.get
    seconds = max(0.3, turn.seconds(2.0))
    with newcomer.Newcomer(turn.system, "flood", address, seconds + 0.5) as flood:
        _go(flood)
        time.sleep(0.1 if turn.tiny else 0.4)
        times = []
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            start = time.perf_counter()
            get(submit())
            times.append((time.perf_counter() - start) * 1e3)
            time.sleep(0.01)  # somebody who looks at the result before the next
        flood.answer()
    turn.record("two_notebooks.p50", statistics.median(times))
    turn.record("two_notebooks.p99", statistics.quantiles(times, n=100)[98] if len(times) > 1 else times[0])


WORKLOAD = Workload(
    (
        Metric("two_notebooks.rate", "two notebooks: no-op tasks, both together", "/s", lower_is_better=False),
        Metric("two_notebooks.fairness", "two notebooks: the slower one over the faster", "", lower_is_better=False),
        Metric("two_notebooks.p50", "a short task beside a flood: median", "ms"),
        Metric("two_notebooks.p99", "a short task beside a flood: p99", "ms"),
    ),
    measure,
    rounds=2,
    cap_s=60,
)
