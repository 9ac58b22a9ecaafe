"""From nothing to the first result: import, start of the system, a first task; in a fresh interpreter."""

from __future__ import annotations

from benchmarks import newcomer
from benchmarks.workload import Metric, Turn, Workload


def measure(turn: Turn) -> None:
    turn.record("cold_start", newcomer.first_result(turn.system, "start", ""))


WORKLOAD = Workload(
    (Metric("cold_start", "import + start + first result, cold", "s"),),
    measure,
    rounds=2,
    cap_s=90,
    started=False,
    quick=True,
)
