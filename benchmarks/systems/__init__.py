"""What a workload asks of a system. One adapter a file; what an adapter lacks, its system lacks, and the table says so.

Each is configured as its own documentation recommends for one machine with two cores, and says so in its docstring.
All are warmed up by the same lines, `warm_up`: tasks until both workers have run some, so that interpreters, imports
and connections are there before anything is timed. Each workload then warms up what it times, for all alike.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import functions
from benchmarks.workload import NotOffered

WORKERS = 2
Submit = Callable[..., Any]


class System:
    """A system with two workers. Handles are whatever its calls return: refs or futures.

    Attributes:
        name: As the table shows it.
        has_refs: Whether a handle can be an argument of a task, so that its value does not travel through the client.
        has_bounded_store: Whether `store_bytes` bounds the memory of its objects.
        nests: Whether tasks can submit tasks to the same workers.
        packages: Distributions whose versions are written down.
    """

    name: ClassVar[str]
    has_refs: ClassVar[bool] = False
    nests: ClassVar[bool] = False
    has_bounded_store: ClassVar[bool] = False
    packages: ClassVar[tuple[str, ...]] = ()

    # ------------------------------------------------------------------------------------------ life

    def start(self, directory: Path, store_bytes: int) -> None:
        """Start it; return when it takes work.

        Args:
            directory: An empty one, short enough for Unix sockets, for whatever it writes.
            store_bytes: How much shared memory it may take, where it has such a thing.
        """
        raise NotImplementedError

    def stop(self) -> None:
        """End all its processes, the way that its users do."""
        raise NotImplementedError

    def address(self) -> str:
        """Return what another process attaches with."""
        raise NotOffered("workers that a second client can share")

    def attach(self, address: str) -> None:
        """Attach this process to a system that runs."""
        raise NotOffered("workers that a second client can share")

    def detach(self) -> None:
        """Leave a system that runs."""

    # ------------------------------------------------------------------------------------------ tasks

    def task(self, function: Callable[..., Any], returns: int = 1) -> Submit:
        """Return what submits a function: it takes the arguments and returns a handle (or a list of them)."""
        raise NotImplementedError

    def get(self, handle: Any) -> Any:
        """Wait for a value and return it."""
        raise NotImplementedError

    def get_all(self, handles: Sequence[Any]) -> list[Any]:
        """Wait for values and return them in order."""
        return [self.get(handle) for handle in handles]

    def wait_one(self, handles: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        """Wait until one or more are done; return those and the others."""
        raise NotImplementedError

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """Apply a function to many items the way that the documentation recommends for small ones, in chunks too."""
        submit = self.task(function)
        return self.get_all([submit(item) for item in items])

    def joblib_backend(self) -> str:
        """Return the name of its backend for `joblib.Parallel`, registered."""
        raise NotOffered("backend for joblib")

    # ------------------------------------------------------------------------------------------ actors

    def actor(self, kind: type, *args: Any) -> Any:
        """Make an actor."""
        raise NotOffered("actors")

    def method(self, actor: Any, name: str) -> Submit:
        """Return what calls a method: it takes the arguments and returns a handle."""
        raise NotOffered("actors")

    def end_actor(self, actor: Any) -> None:
        """End an actor."""

    # ------------------------------------------------------------------------------------------ objects

    def put(self, value: Any) -> Any:
        """Make a value an object that tasks can be given; return its handle."""
        raise NotOffered("objects that are shared between tasks")

    def put_all(self, values: Sequence[Any]) -> list[Any]:
        """Put many values."""
        return [self.put(value) for value in values]

    # ------------------------------------------------------------------------------------------ elsewhere

    @contextmanager
    def in_worker(self) -> Iterator[System]:
        """Return what a task uses to submit tasks itself."""
        raise NotOffered("tasks that submit tasks to the same workers")
        yield self

    def kernel_cell(self) -> tuple[str, str, dict[str, str]]:
        """Return a notebook's code that attaches, the magic line that runs a cell on a worker, and variables."""
        raise NotOffered("magic that runs a cell on a worker")


ADAPTERS = {
    "atoll": ("benchmarks.systems.atoll_system", "AtollSystem"),
    "ray": ("benchmarks.systems.ray_system", "RaySystem"),
    "dask": ("benchmarks.systems.dask_system", "DaskSystem"),
    "ipyparallel": ("benchmarks.systems.ipyparallel_system", "IpyparallelSystem"),
    "loky": ("benchmarks.systems.loky_system", "LokySystem"),
    "process_pool": ("benchmarks.systems.process_pool", "ProcessPoolSystem"),
}


def adapter(key: str) -> System:
    """Return the adapter of this name; its system is imported when it is started."""
    module, kind = ADAPTERS[key]
    made: System = getattr(importlib.import_module(module), kind)()
    return made


def key_of(system: System) -> str:
    """Return the name under which `adapter` makes such a system."""
    return next(key for key, (_module, kind) in ADAPTERS.items() if kind == type(system).__name__)


def warm_up(system: System, within_s: float = 3.0) -> None:
    """Run tasks until both workers have run some: the same for all systems."""
    whoami = system.task(functions.whoami)
    seen: dict[int, int] = {}
    until = time.monotonic() + within_s
    while (len(seen) < WORKERS or min(seen.values()) < 20) and time.monotonic() < until:
        for worker in system.get_all([whoami(0.001) for _ in range(10)]):
            seen[worker] = seen.get(worker, 0) + 1
