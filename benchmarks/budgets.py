"""The budgets of the design, as conditions that are checked on the figures of a run.

An absolute budget holds on the machine that it was written for: two cores, one gigabyte a second for memory that is
touched for the first time. One against a peer or a limit holds anywhere, both being measured in the same run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from benchmarks.results import Row

OURS = "Atoll"


@dataclass(frozen=True)
class Budget:
    """One condition.

    Attributes:
        metric: Its key.
        asked: As the design says it.
        bound: The figure, or the ratio to `of`, that is asked for.
        of: A peer or limit; empty for an absolute figure.
    """

    metric: str
    asked: str
    bound: float
    of: str = ""


@dataclass(frozen=True)
class Verdict:
    """What became of a budget.

    Attributes:
        budget: Which.
        met: Whether it is met; None if something was not measured.
        factor: By how much it is over-fulfilled (above 1) or missed (below).
    """

    budget: Budget
    met: bool | None
    factor: float | None


BUDGETS = (
    Budget("task_sync", "≤ 55 µs", 55),
    Budget("task_sync", "≤ 1/25 of Ray", 25, of="Ray"),
    Budget("task_sync", "≤ 1/3 of ProcessPoolExecutor", 3, of="ProcessPool"),
    Budget("task_sync", "≤ 8 bare round trips", 1 / 8, of="bare socket"),
    Budget("task_async", "≥ 80,000/s", 80_000),
    Budget("actor_sync", "≤ 45 µs", 45),
    Budget("actor_async", "≥ 90,000/s", 90_000),
    Budget("put_large.100mb", "≥ 0.8 x memcpy, one thread", 0.8, of="memcpy 1"),
    Budget("put_large.100mb", "≥ 0.8 x memcpy, two threads", 0.8, of="memcpy 2"),
    Budget("put_large.1gb", "≥ 0.8 x memcpy, one thread", 0.8, of="memcpy 1"),
    Budget("put_large.1gb", "≥ 0.8 x memcpy, two threads", 0.8, of="memcpy 2"),
    Budget("get_large.get", "≤ 0.1 ms, no copy", 0.1),
    Budget("put_small.value", "≤ 5 µs", 5),
    Budget("simulator.task", "≤ 25 ms", 25),
    Budget("simulator.actor", "≤ 0.06 ms", 0.06),
    Budget("cold_start", "≤ 1.0 s", 1.0),
    Budget("attach", "≤ 0.3 s", 0.3),
    Budget("actor_start", "≤ 0.3 s", 0.3),
    Budget("remote_cell", "≤ 5 ms", 5),
    Budget("idle.cpu", "≤ 1 %", 1),
    Budget("idle.memory", "≤ 150 MB", 150),
    Budget("skewed.mild", "≤ 1.1 x an ideal schedule", 1.1),
    Budget("skewed.strong", "≤ 1.1 x an ideal schedule", 1.1),
    Budget("queued_tasks.memory", "≤ 2 kB a task (R21)", 2),
)


def judge(budget: Budget, row: Row | None) -> Verdict:
    """Check a budget on a row."""
    ours = row.median(OURS) if row is not None else None
    if row is None or ours is None:
        return Verdict(budget, None, None)
    if budget.of:
        ratio = row.advantage(budget.of, OURS)
        factor = None if ratio is None else ratio / budget.bound
    elif row.lower_is_better:
        factor = budget.bound / ours if ours > 0 else float("inf")
    else:
        factor = ours / budget.bound
    return Verdict(budget, None if factor is None else factor >= 1, factor)


def judge_all(rows: Mapping[str, Row], budgets: Iterable[Budget] = BUDGETS) -> Iterator[Verdict]:
    """Check budgets; those whose metric is not in the run are left out."""
    for budget in budgets:
        if budget.metric in rows:
            yield judge(budget, rows[budget.metric])
