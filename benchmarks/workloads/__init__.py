"""One file a workload; `ALL` in the order of the table: what the design gives a budget first."""

from __future__ import annotations

import importlib
from types import ModuleType

from benchmarks.workload import Workload

NAMES = (
    "task_sync",
    "task_async",
    "actor_sync",
    "actor_async",
    "put_large",
    "get_large",
    "put_small",
    "simulator",
    "cold_start",
    "attach",
    "actor_start",
    "remote_cell",
    "idle",
    "aggregation",
    "election",
    "serving",
    "training",
    "task_map",
    "durations",
    "skewed",
    "two_notebooks",
    "arguments",
    "tables",
    "search",
    "many_refs",
    "nested_tree",
    "spill",
    "queued_tasks",  # may leave a peer with work for minutes, so that it has to be ended
)

_MODULES: dict[str, ModuleType] = {name: importlib.import_module(f"benchmarks.workloads.{name}") for name in NAMES}

ALL: dict[str, Workload] = {name: module.WORKLOAD for name, module in _MODULES.items()}


def about(name: str) -> str:
    """Return what a workload measures, as its file says."""
    return (_MODULES[name].__doc__ or "").strip()
