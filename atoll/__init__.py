"""Atoll: a Jupyter kernel as one island of a ring.

    import atoll

    @atoll.remote(num_gpus=1)
    def f(x): ...

    ref = f.remote(x)
    atoll.get(ref)

The names, options and semantics are those of Ray's core API. In a notebook, `%load_ext atoll` adds the magics. What is
imported here is imported when it is first used, so that `import atoll` costs next to nothing.

The rooms of the package:

    atoll             the API: what one imports
    atoll.protocol    what processes say to each other
    atoll.client      a process's session with its cluster
    atoll.testing     a virtual clock and a simulated network, for tests
    atoll.scheduler   placement, actors, names (a daemon)
    atoll.nodeagent   workers, shared memory, devices of one node (a daemon)
    atoll.widgets     what is drawn
    atoll.kernel_ext  magics, cells, the Jupyter server extension

Arrows go down only: kernel_ext may use widgets and the API; the daemons may use the API's protocol; the API knows
neither. import-linter holds it to that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atoll.client.current import begin_with

if TYPE_CHECKING:
    from atoll import exceptions, util
    from atoll.accounting import usage
    from atoll.actor import ActorHandle, method
    from atoll.api import cancel, get, get_actor, init, is_initialized, kill, put, remote, shutdown, wait
    from atoll.arrays import empty, empty_like
    from atoll.cache import cache
    from atoll.cluster_view import available_resources, cluster_resources, get_gpu_ids, nodes
    from atoll.draining import drain
    from atoll.object_ref import ObjectRef
    from atoll.object_ref_generator import DynamicObjectRefGenerator, ObjectRefGenerator
    from atoll.progress_messages import progress
    from atoll.reasons import simulate, why
    from atoll.runtime_context import get_runtime_context
    from atoll.trace import timeline

__version__ = "0.1.0"

_HOMES = {
    "ActorHandle": "atoll.actor",
    "DynamicObjectRefGenerator": "atoll.object_ref_generator",
    "ObjectRef": "atoll.object_ref",
    "ObjectRefGenerator": "atoll.object_ref_generator",
    "available_resources": "atoll.cluster_view",
    "cache": "atoll.cache",
    "cancel": "atoll.api",
    "cluster_resources": "atoll.cluster_view",
    "drain": "atoll.draining",
    "empty": "atoll.arrays",
    "empty_like": "atoll.arrays",
    "get": "atoll.api",
    "get_actor": "atoll.api",
    "get_gpu_ids": "atoll.cluster_view",
    "get_runtime_context": "atoll.runtime_context",
    "init": "atoll.api",
    "is_initialized": "atoll.api",
    "kill": "atoll.api",
    "method": "atoll.actor",
    "nodes": "atoll.cluster_view",
    "progress": "atoll.progress_messages",
    "put": "atoll.api",
    "remote": "atoll.api",
    "shutdown": "atoll.api",
    "simulate": "atoll.reasons",
    "timeline": "atoll.trace",
    "usage": "atoll.accounting",
    "wait": "atoll.api",
    "why": "atoll.reasons",
}

_MODULES = ("actor", "exceptions", "runtime_context", "runtime_env", "util")

__all__ = [
    "ActorHandle",
    "DynamicObjectRefGenerator",
    "ObjectRef",
    "ObjectRefGenerator",
    "available_resources",
    "cache",
    "cancel",
    "cluster_resources",
    "drain",
    "empty",
    "empty_like",
    "exceptions",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "is_initialized",
    "kill",
    "method",
    "nodes",
    "progress",
    "put",
    "remote",
    "shutdown",
    "simulate",
    "timeline",
    "usage",
    "util",
    "wait",
    "why",
]


def _begin_session() -> None:
    """Begin a session: what everything that needs one and finds none does."""
    from importlib import import_module

    import_module("atoll.api").init()


begin_with(_begin_session)


def __getattr__(name: str) -> Any:
    import importlib

    home = _HOMES.get(name)
    if home is not None:
        value = getattr(importlib.import_module(home), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f"atoll.{name}")
    raise AttributeError(f"module 'atoll' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


def load_ipython_extension(shell: Any) -> None:
    """Add the magics to IPython: `%load_ext atoll`."""
    from importlib import import_module

    import_module("atoll.kernel_ext").load_ipython_extension(shell)


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """Tell Jupyter where the server extension is."""
    from importlib import import_module

    return [{"module": "atoll", "app": import_module("atoll.kernel_ext.server_app").AtollExtension}]
