"""concurrent.futures.ProcessPoolExecutor: what the standard library offers. It has no actors and no shared memory."""

from __future__ import annotations

import multiprocessing
import platform
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NoReturn

from benchmarks.systems import NotOffered


def nothing() -> None:
    return None


class ProcessPoolSystem:
    name = "ProcessPool"
    version = platform.python_version()

    def start(self) -> None:
        # Forked from a helper process: this one has threads of other systems by the time that workers are made.
        self._pool = ProcessPoolExecutor(2, multiprocessing.get_context("forkserver"))
        self.call_many(100)

    def stop(self) -> None:
        self._pool.shutdown()

    def call(self) -> None:
        self._pool.submit(nothing).result()

    def call_many(self, count: int) -> None:
        submit = self._pool.submit
        for future in [submit(nothing) for _ in range(count)]:
            future.result()

    def actor_call(self) -> NoReturn:
        raise NotOffered("actors")

    def actor_call_many(self, count: int) -> NoReturn:
        raise NotOffered("actors")

    def put(self, value: Any) -> NoReturn:
        raise NotOffered("shared memory")

    def make(self, size_bytes: int) -> NoReturn:
        raise NotOffered("shared memory")

    def get(self, handle: Any) -> NoReturn:
        raise NotOffered("shared memory")
