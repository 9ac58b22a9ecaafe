"""Atoll and Ray through the same lines: their core API has the same names and meanings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks import functions
from benchmarks.systems import WORKERS, Submit, System


class RayLike(System):
    """What both adapters share. `library` is the module, `atoll` or `ray`; it is imported when it is first needed."""

    has_refs = True
    nests = True
    has_bounded_store = True

    def __init__(self) -> None:
        self._tasks: dict[tuple[Any, int], Any] = {}

    @property
    def library(self) -> Any:
        """The module."""
        raise NotImplementedError

    def task(self, function: Callable[..., Any], returns: int = 1) -> Submit:
        made = self._tasks.get((function, returns))
        if made is None:
            made = self.library.remote(function)
            if returns != 1:
                made = made.options(num_returns=returns)
            self._tasks[function, returns] = made
        submit: Submit = made.remote
        return submit

    def get(self, handle: Any) -> Any:
        return self.library.get(handle)

    def get_all(self, handles: Sequence[Any]) -> list[Any]:
        values: list[Any] = self.library.get(list(handles))
        return values

    def wait_one(self, handles: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        done, rest = self.library.wait(list(handles), num_returns=1)
        return done, rest

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """Ray's pages of patterns say to give a task a batch of small items; the same lines serve Atoll."""
        size = max(1, len(items) // (4 * WORKERS))
        submit = self.task(functions.apply_to_all)
        parts = self.get_all([submit(function, items[start : start + size]) for start in range(0, len(items), size)])
        return [value for part in parts for value in part]

    def actor(self, kind: type, *args: Any) -> Any:
        return self.library.remote(kind).options(num_cpus=0).remote(*args)

    def method(self, actor: Any, name: str) -> Submit:
        submit: Submit = getattr(actor, name).remote
        return submit

    def end_actor(self, actor: Any) -> None:
        self.library.kill(actor)

    def put(self, value: Any) -> Any:
        return self.library.put(value)

    @contextmanager
    def in_worker(self) -> Iterator[System]:
        yield self
