"""Atoll and Ray through the same lines: their core API has the same names and meanings."""

from __future__ import annotations

from typing import Any


class RayLike:
    """What both adapters share.

    Args:
        library: The module: `atoll` or `ray`, initialized.
    """

    def __init__(self, library: Any) -> None:
        self._library = library

    def declare(self) -> None:
        """Declare the functions and make the actor; return when all answer."""
        library = self._library

        # Defined here, so that they travel by value and no worker has to import this file.
        @library.remote
        def nothing() -> None:
            return None

        @library.remote
        def zeros(size_bytes: int) -> Any:
            import numpy as np

            return np.zeros(size_bytes, dtype=np.uint8)

        @library.remote
        class Idle:
            def nothing(self) -> None:
                return None

        self._nothing, self._zeros = nothing, zeros
        self._actor = Idle.options(num_cpus=0).remote()
        library.get([nothing.remote() for _ in range(100)])
        library.get(self._actor.nothing.remote())

    def call(self) -> None:
        self._library.get(self._nothing.remote())

    def call_many(self, count: int) -> None:
        nothing = self._nothing
        self._library.get([nothing.remote() for _ in range(count)])

    def actor_call(self) -> None:
        self._library.get(self._actor.nothing.remote())

    def actor_call_many(self, count: int) -> None:
        actor = self._actor
        self._library.get([actor.nothing.remote() for _ in range(count)])

    def put(self, value: Any) -> Any:
        return self._library.put(value)

    def make(self, size_bytes: int) -> Any:
        handle = self._zeros.remote(size_bytes)
        self._library.wait([handle])
        return handle

    def get(self, handle: Any) -> Any:
        return self._library.get(handle)
