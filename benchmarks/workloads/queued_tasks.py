"""100,000 tasks in the queue while all workers are busy: what each costs in time and in memory, everywhere together.

A system that does not take them within ten seconds is measured at what it took, and the table says so.
"""

from __future__ import annotations

import gc
import tempfile
import time
from pathlib import Path

from benchmarks import functions, leftovers
from benchmarks.systems import WORKERS
from benchmarks.workload import Metric, Turn, Workload

TASKS = 100_000
SUBMIT_WITHIN_S = 10.0
FINISH_WITHIN_S = 8.0


def measure(turn: Turn) -> None:
    system = turn.system
    submit, hold = system.task(functions.nothing), system.task(functions.wait_for_file)
    with tempfile.TemporaryDirectory(prefix="atoll-bench-") as directory:
        gate = Path(directory) / "gate"
        holders = [hold(str(gate)) for _ in range(WORKERS)]
        time.sleep(0.05 if turn.tiny else 0.5)
        gc.collect()
        before = _memory()
        start = time.perf_counter()
        handles = []
        while len(handles) < turn.count(TASKS) and time.perf_counter() - start < SUBMIT_WITHIN_S:
            handles += [submit() for _ in range(1000)]
        took = time.perf_counter() - start
        gc.collect()
        if not turn.tiny:
            time.sleep(0.5)  # daemons read what was sent
        turn.record("queued_tasks.submit", took / len(handles) * 1e6)
        # What a process gives back meanwhile belongs to what it did before.
        grown = sum(max(0, now - before.get(pid, 0)) for pid, now in _memory().items())
        turn.record("queued_tasks.memory", grown / len(handles) / 1e3)
        if len(handles) < turn.count(TASKS):
            turn.note(f"{system.name} took {len(handles):,} tasks within {SUBMIT_WITHIN_S:g} s, not {TASKS:,}")
        gate.touch()
        start = time.perf_counter()
        system.get_all(holders)
        done = 0
        while done < len(handles) and time.perf_counter() - start < FINISH_WITHIN_S:
            system.get_all(handles[done : done + 1000])
            done += 1000
        turn.record("queued_tasks.finish", done / (time.perf_counter() - start))
    if done < len(handles):
        turn.spoiled = True


def _memory() -> dict[int, int]:
    """Return what the client (0) and all that it has started hold by themselves, by process."""
    return {pid: leftovers.own_bytes(pid) for pid in [0, *leftovers.descendants()]}


WORKLOAD = Workload(
    (
        Metric("queued_tasks.submit", "100,000 queued tasks: time to submit one", "µs"),
        Metric("queued_tasks.memory", "100,000 queued tasks: memory for one, all processes", "kB"),
        Metric(
            "queued_tasks.finish", "100,000 queued tasks: finished when workers are free", "/s", lower_is_better=False
        ),
    ),
    measure,
    rounds=1,
    cap_s=60,
)
