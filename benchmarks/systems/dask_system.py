"""Dask distributed, as its documentation recommends for Python functions on one machine: a LocalCluster of processes
with one thread each, one for each core. Small values go with the task, large ones are scattered first.

Tasks are submitted with `pure=False`, since equal calls would be computed once only. There is no dashboard. Many small
items are mapped through a bag in a few partitions, as its page of best practices says ("avoid too many tasks").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.systems import WORKERS, Submit, System
from benchmarks.workload import NotOffered


class DaskSystem(System):
    name = "Dask"
    has_refs = True
    nests = True
    packages = ("distributed",)

    def __init__(self, client: Any = None) -> None:
        self._client = client
        self._cluster: Any = None

    def start(self, directory: Path, store_bytes: int) -> None:
        import dask
        from distributed import Client, LocalCluster

        dask.config.set({"temporary-directory": str(directory)})
        self._cluster = LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=40
        )
        self._client = Client(self._cluster)

    def stop(self) -> None:
        if self._client is not None:
            self._client.close()
        if self._cluster is not None:
            self._cluster.close()

    def joblib_backend(self) -> str:
        return "dask"  # the distributed client registers it

    def address(self) -> str:
        return str(self._cluster.scheduler_address)

    def attach(self, address: str) -> None:
        from distributed import Client

        self._client = Client(address)

    def detach(self) -> None:
        self._client.close()

    def task(self, function: Callable[..., Any], returns: int = 1) -> Submit:
        if returns != 1:
            raise NotOffered("futures for the single values of a task that returns several")
        submit = self._client.submit
        return lambda *args: submit(function, *args, pure=False)

    def get(self, handle: Any) -> Any:
        return handle.result()

    def get_all(self, handles: Sequence[Any]) -> list[Any]:
        if handles and not hasattr(handles[0], "key"):  # those of actors are of another kind
            return [handle.result() for handle in handles]
        values: list[Any] = self._client.gather(list(handles))
        return values

    def wait_one(self, handles: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        from distributed import wait

        found = wait(list(handles), return_when="FIRST_COMPLETED")
        return list(found.done), list(found.not_done)

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        from dask import bag

        values: list[Any] = self._client.compute(
            bag.from_sequence(items, npartitions=4 * WORKERS).map(function)
        ).result()
        return values

    def actor(self, kind: type, *args: Any) -> Any:
        return self._client.submit(kind, *args, actor=True, pure=False).result()

    def method(self, actor: Any, name: str) -> Submit:
        submit: Submit = getattr(actor, name)
        return submit

    def put(self, value: Any) -> Any:
        # A list would be scattered item by item.
        return self._client.scatter([value], hash=False)[0]

    def put_all(self, values: Sequence[Any]) -> list[Any]:
        handles: list[Any] = self._client.scatter(list(values), hash=False)
        return handles

    @contextmanager
    def in_worker(self) -> Iterator[System]:
        from distributed import worker_client

        with worker_client() as client:
            yield DaskSystem(client)
