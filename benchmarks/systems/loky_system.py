"""joblib with loky, its default backend: single calls through loky's reusable executor, maps through `joblib.Parallel`
with automatic batches, as its documentation shows. It has neither actors nor shared objects (joblib passes large
arrays as memory maps of files; so do the maps here, by themselves).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path
from typing import Any

from benchmarks.systems import WORKERS, Submit, System
from benchmarks.workload import NotOffered


class LokySystem(System):
    name = "joblib/loky"
    packages = ("joblib", "loky")

    def __init__(self) -> None:
        self._executor: Any = None

    def start(self, directory: Path, store_bytes: int) -> None:
        from loky import get_reusable_executor

        self._executor = get_reusable_executor(max_workers=WORKERS, timeout=None)

    def stop(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True)
        from joblib.externals.loky import get_reusable_executor

        # joblib brings a loky of its own, with an executor of its own.
        get_reusable_executor(max_workers=WORKERS).shutdown(wait=True)

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

    def joblib_backend(self) -> str:
        return "loky"

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        from joblib import Parallel, delayed

        call = delayed(function)
        return list(Parallel(n_jobs=WORKERS)(call(item) for item in items))
