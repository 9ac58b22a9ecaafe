"""concurrent.futures.ProcessPoolExecutor: what the standard library offers, with its default start method.

Many small items are mapped with a large `chunksize`, as its documentation says. It has neither actors nor shared
objects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from benchmarks.systems import WORKERS, Submit, System
from benchmarks.workload import NotOffered


class ProcessPoolSystem(System):
    name = "ProcessPool"

    def start(self, directory: Path, store_bytes: int) -> None:
        self._executor = ProcessPoolExecutor(WORKERS)

    def stop(self) -> None:
        self._executor.shutdown()

    def task(self, function: Callable[..., Any], returns: int = 1) -> Submit:
        if returns != 1:
            raise NotOffered("futures for the single values of a task that returns several")
        submit = self._executor.submit
        return lambda *args: submit(function, *args)

    def get(self, handle: Any) -> Any:
        return handle.result()

    def wait_one(self, handles: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        found = wait(handles, return_when=FIRST_COMPLETED)
        return list(found.done), list(found.not_done)

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        return list(self._executor.map(function, items, chunksize=max(1, len(items) // (4 * WORKERS))))
