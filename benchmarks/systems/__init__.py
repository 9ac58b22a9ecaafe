"""What a workload asks of a system. One adapter a file; an adapter says what its system has no counterpart of."""

from __future__ import annotations

from typing import Any, Protocol


class NotOffered(Exception):
    """The system has nothing of this kind."""


class System(Protocol):
    """A system with two workers, started once for the whole run.

    Attributes:
        name: As the table shows it.
        version: Of the system.
    """

    name: str
    version: str

    def start(self) -> None:
        """Start it, its workers and one actor; return when they answer."""

    def stop(self) -> None:
        """End all its processes."""

    def call(self) -> None:
        """Run a function that does nothing and wait for it."""

    def call_many(self, count: int) -> None:
        """Submit that function so many times, then wait for all."""

    def actor_call(self) -> None:
        """Call a method that does nothing and wait for it."""

    def actor_call_many(self, count: int) -> None:
        """Call that method so many times, then wait for all."""

    def put(self, value: Any) -> Any:
        """Copy an array into shared memory; return its handle."""

    def make(self, size_bytes: int) -> Any:
        """Let a worker make an array of so many bytes; return its handle when it is there."""

    def get(self, handle: Any) -> Any:
        """Return the array of a handle."""
