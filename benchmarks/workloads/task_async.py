"""Many tasks that do nothing, each submitted by itself by one client, then waited for: what fanning out costs."""

from __future__ import annotations

from benchmarks import functions, limits
from benchmarks.workload import Metric, Turn, Workload

KEY = "task_async"


def measure(turn: Turn) -> None:
    submit, get_all = turn.system.task(functions.nothing), turn.system.get_all
    turn.record(KEY, *turn.rate(lambda count: get_all([submit() for _ in range(count)]), within_s=0.8))


def batched_calls(turn: Turn, key: str) -> None:
    """Take the rate of calls that are pickled and sent in batches."""
    with limits.echo_process() as connection:
        limits.batched_calls_per_s(connection, 10_000)
        turn.record(
            key, limits.batched_calls_per_s(connection, turn.count(100_000, least=2000)), limit="batched pickles"
        )


WORKLOAD = Workload(
    (Metric(KEY, "no-op tasks, one client, asynchronous", "/s", lower_is_better=False),),
    measure,
    limits=lambda turn: batched_calls(turn, KEY),
    quick=True,
)
