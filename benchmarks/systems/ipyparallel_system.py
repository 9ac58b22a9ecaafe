"""ipyparallel, as its tutorial starts it: a Cluster of two engines, a load-balanced view for tasks.

It has no actors; the documented way to keep state is an engine's namespace, reached through a direct view, and that is
what stands for them here (several share an engine). Many small items are mapped in chunks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import functions
from benchmarks.systems import WORKERS, Submit, System
from benchmarks.workload import NotOffered


class IpyparallelSystem(System):
    name = "ipyparallel"
    packages = ("ipyparallel",)

    def __init__(self) -> None:
        self._cluster: Any = None
        self._client: Any = None
        self._view: Any = None
        self._actors = 0

    def start(self, directory: Path, store_bytes: int) -> None:
        os.environ["IPYTHONDIR"] = str(directory / "ipython")
        import ipyparallel

        self._cluster = ipyparallel.Cluster(n=WORKERS, log_level=40)
        self._client = self._cluster.start_and_connect_sync()
        self._view = self._client.load_balanced_view()

    def stop(self) -> None:
        if self._client is not None:
            self._client.close()
        if self._cluster is not None:
            self._cluster.stop_cluster_sync()

    def address(self) -> str:
        return str(self._cluster.cluster_file)

    def attach(self, address: str) -> None:
        import ipyparallel

        self._client = ipyparallel.Cluster.from_file(address).connect_client_sync()
        self._client.wait_for_engines(WORKERS)
        self._view = self._client.load_balanced_view()

    def detach(self) -> None:
        self._client.close()

    def task(self, function: Callable[..., Any], returns: int = 1) -> Submit:
        if returns != 1:
            raise NotOffered("futures for the single values of a task that returns several")
        submit = self._view.apply_async
        return lambda *args: submit(function, *args)

    def get(self, handle: Any) -> Any:
        return handle.get()

    def wait_one(self, handles: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        from concurrent.futures import FIRST_COMPLETED, wait

        found = wait(handles, return_when=FIRST_COMPLETED)
        return list(found.done), list(found.not_done)

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        return list(self._view.map_sync(function, items, chunksize=max(1, len(items) // (4 * WORKERS))))

    def actor(self, kind: type, *args: Any) -> Any:
        self._actors += 1
        key, engine = f"actor_{self._actors}", self._client[self._actors % WORKERS]
        engine.apply_sync(functions.keep, key, kind, args)
        return key, engine

    def method(self, actor: Any, name: str) -> Submit:
        key, engine = actor
        submit = engine.apply_async
        return lambda *args: submit(functions.call_kept, key, name, args)

    def end_actor(self, actor: Any) -> None:
        key, engine = actor
        engine.apply_sync(functions.drop, key)

    def kernel_cell(self) -> tuple[str, str, dict[str, str]]:
        attach = (
            "import ipyparallel\n"
            f"client = ipyparallel.Cluster.from_file({self.address()!r}).connect_client_sync()\n"
            f"client.wait_for_engines({WORKERS})\n"
            "client[0].activate()"
        )
        return attach, "%%px", {"IPYTHONDIR": os.environ["IPYTHONDIR"]}
