"""Rounds: every system and every limit takes its turn in each, so that what else happens on the machine hits all."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import msgspec

from benchmarks.systems import NotOffered, System


class Row(msgspec.Struct, frozen=True):
    """One workload.

    Attributes:
        name: Of the workload.
        unit: Of all figures.
        lower_is_better: Whether they are times.
        budget: What is asked of Atoll.
        samples: By system or limit: the samples of each round.
        absent: By system: why it has no figures.
    """

    name: str
    unit: str
    lower_is_better: bool
    budget: str
    samples: dict[str, list[list[float]]]
    absent: dict[str, str]

    def median(self, who: str) -> float | None:
        """Return the median of the rounds' medians, or None where there are none."""
        rounds = [statistics.median(samples) for samples in self.samples.get(who, []) if samples]
        return statistics.median(rounds) if rounds else None


class Run(msgspec.Struct, frozen=True):
    """All of one run, as it is written to JSON."""

    machine: dict[str, Any]
    systems: dict[str, str]
    limits: list[str]
    rounds: int
    rows: list[Row]


def run_rounds(
    workloads: Sequence[ModuleType],
    systems: Sequence[System],
    rounds: int,
    scale: float,
    progress: Callable[[str], None],
) -> Run:
    """Measure.

    Args:
        workloads: See `benchmarks.workloads`.
        systems: Started.
        rounds: How often each takes its turn.
        scale: 1 for full rounds, less for shorter ones.
        progress: Called with a line before each turn.
    """
    rows = {one.NAME: Row(one.NAME, one.UNIT, one.LOWER_IS_BETTER, one.BUDGET, {}, {}) for one in workloads}
    limits: dict[str, None] = {}
    for number in range(rounds):
        for workload in workloads:
            row = rows[workload.NAME]
            # Whoever comes first finds the caches cold, so the order turns with the rounds.
            turn = number % max(1, len(systems))
            for system in [*systems[turn:], *systems[:turn]]:
                if system.name not in row.absent:
                    progress(f"round {number + 1} of {rounds}: {workload.NAME}, {system.name}")
                    _take_turn(workload, system, row, scale)
            for name, samples in workload.limits(scale).items():
                limits[name] = None
                row.samples.setdefault(name, []).append(samples)
    versions = {system.name: system.version for system in systems}
    return Run(describe_machine(), versions, list(limits), rounds, list(rows.values()))


def _take_turn(workload: ModuleType, system: System, row: Row, scale: float) -> None:
    gc.collect()
    try:
        row.samples.setdefault(system.name, []).append(workload.measure(system, scale))
    except NotOffered as error:
        row.absent[system.name] = f"has no {error}"
    except Exception as error:  # one system's failure is a result; the others go on, and the run ends with 1
        row.absent[system.name] = f"FAILED: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def describe_machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "processor": platform.processor() or platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d"),
    }
