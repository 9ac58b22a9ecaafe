"""Utilities: what is built on tasks and actors, under the names that Ray gives them.

Owns `ActorPool`, `as_completed`, `map_unordered`, `Executor`, `inspect_serializability`, and in modules of their own
`placement_group` and `scheduling_strategies` (where tasks and actors run), `queue` (a queue that processes share),
`multiprocessing` (the standard library's `Pool`) and `joblib` (a backend for `joblib.Parallel`, so that scikit-learn
runs here).

It decides nothing about placement, and speaks with no daemon, but for placement groups, which the scheduler is asked
for: everything else is a client of the same public calls that users have (`.remote()`, `get`, `wait`, `cancel`).

In go callables and their arguments. Out come values, futures or iterators with the standard library's semantics: an
exception arrives as the user's own class, with the remote traceback as its cause.

    calls     ordinary calls as tasks, a bounded number at once: what Executor, Pool and the joblib backend stand on
    remote_calls  the part of it that runs in the worker
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atoll.util.actor_pool import ActorPool
    from atoll.util.check_serialize import inspect_serializability
    from atoll.util.executor import Executor
    from atoll.util.helpers import as_completed, get_node_ip_address, list_named_actors, map_unordered
    from atoll.util.placement_group import (
        get_current_placement_group,
        get_placement_group,
        placement_group_table,
        remove_placement_group,
    )

_HOMES = {
    "ActorPool": "atoll.util.actor_pool",
    "Executor": "atoll.util.executor",
    "as_completed": "atoll.util.helpers",
    "get_node_ip_address": "atoll.util.helpers",
    "inspect_serializability": "atoll.util.check_serialize",
    "list_named_actors": "atoll.util.helpers",
    "map_unordered": "atoll.util.helpers",
    **dict.fromkeys(
        ("get_current_placement_group", "get_placement_group", "placement_group_table", "remove_placement_group"),
        "atoll.util.placement_group",
    ),
}

_MODULES = ("joblib", "multiprocessing", "placement_group", "queue", "scheduling_strategies")

__all__ = [
    "ActorPool",
    "Executor",
    "as_completed",
    "get_current_placement_group",
    "get_node_ip_address",
    "get_placement_group",
    "inspect_serializability",
    "list_named_actors",
    "map_unordered",
    "placement_group_table",
    "remove_placement_group",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        try:
            return importlib.import_module(f"atoll.util.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"atoll.util.{name}":
                raise
    raise AttributeError(f"module 'atoll.util' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
