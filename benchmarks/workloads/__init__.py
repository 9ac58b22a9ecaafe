"""One file a workload: what it is called, what counts as better, its budget, how one round of it is measured."""

from __future__ import annotations

from types import ModuleType

from benchmarks.workloads import actor_async, actor_sync, get_large, put_large, put_larger, task_async, task_sync

ALL: tuple[ModuleType, ...] = (task_sync, task_async, actor_sync, actor_async, put_large, put_larger, get_large)
"""Each has `NAME`, `UNIT`, `LOWER_IS_BETTER`, `BUDGET` (what the design asks of Atoll), `measure(system, scale)` (the
samples of one round) and `limits(scale)` (what the machine allows, by name)."""
