"""`ActorPool`: a fixed number of actors that values are given to as they become free."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from atoll import api
from atoll.actor import ActorHandle
from atoll.exceptions import ActorDiedError
from atoll.object_ref import ObjectRef

Submission = Callable[[ActorHandle, Any], Any]


class ActorPool:
    """Actors that work through values.

    What is submitted goes to an actor that is free, or waits until one is. Results come in the order of submission
    (`get_next`) or of completion (`get_next_unordered`).

    Args:
        actors: Handles of the actors.
    """

    def __init__(self, actors: Iterable[ActorHandle]) -> None:
        self._idle = list(actors)
        self._busy: dict[ObjectRef[Any], tuple[int, ActorHandle]] = {}
        self._in_order: dict[int, ObjectRef[Any]] = {}
        self._submitted = 0
        self._returned = 0
        self._waiting: deque[tuple[Submission, Any]] = deque()

    def map(self, fn: Submission, values: Iterable[Any]) -> Iterator[Any]:
        """Apply a function to every value and yield the results in the order of the values.

        Args:
            fn: Takes an actor and a value, and returns the ref of a call: `lambda actor, v: actor.double.remote(v)`.
            values: All of them are taken, and as many submitted as there are free actors, before this returns.

        Raises:
            Exception: What a call raised, when its result is due.
        """
        self._forget_results()
        for value in values:
            self.submit(fn, value)
        return self._drain(self.get_next)

    def map_unordered(self, fn: Submission, values: Iterable[Any]) -> Iterator[Any]:
        """As `map`, with the results in the order in which they are there."""
        self._forget_results()
        for value in values:
            self.submit(fn, value)
        return self._drain(self.get_next_unordered)

    def _drain(self, following: Callable[[], Any]) -> Iterator[Any]:
        while self.has_next():
            yield following()

    def _forget_results(self) -> None:
        """Drop what an earlier round has left: its results are not asked for any more."""
        while self._busy:
            _number, actor = self._busy.pop(next(iter(self._busy)))
            self._give_back(actor)
        self._in_order.clear()
        self._returned = self._submitted

    def submit(self, fn: Submission, value: Any) -> None:
        """Apply a function to one value as soon as an actor is free.

        Args:
            fn: As in `map`.
            value: Its second argument.
        """
        if not self._idle:
            self._waiting.append((fn, value))
            return
        actor = self._idle.pop()
        try:
            ref = fn(actor, value)
        except BaseException:
            self._idle.append(actor)
            raise
        if isinstance(ref, list):
            ref = tuple(ref)
        self._busy[ref] = (self._submitted, actor)
        self._in_order[self._submitted] = ref
        self._submitted += 1

    def has_next(self) -> bool:
        """Whether a result is due that was not returned yet."""
        return bool(self._busy)

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """Return the next result in the order of submission.

        Args:
            timeout: In seconds; None waits for ever.
            ignore_if_timedout: Give up the result when the time is over: the next call is about the one after it.

        Raises:
            StopIteration: Nothing is due.
            TimeoutError: It was not there in time.
            ValueError: Its turn was taken by `get_next_unordered`.
            Exception: What the call raised.
        """
        if not self.has_next():
            raise StopIteration("there are no more results")
        ref = self._in_order.get(self._returned)
        if ref is None:
            raise ValueError("get_next() cannot follow get_next_unordered(): the order of submission is lost")
        late = False
        if timeout is not None:
            parts = _refs_of(ref)
            late = bool(api.wait(parts, num_returns=len(parts), timeout=timeout)[1])
        if late and not ignore_if_timedout:
            raise TimeoutError(f"the next result was not there within {timeout:g} s")
        return self._take(ref, late)

    def get_next_unordered(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """Return whichever result is there first.

        Args:
            timeout: In seconds; None waits for ever.
            ignore_if_timedout: Give up one result when the time is over.

        Raises:
            StopIteration: Nothing is due.
            TimeoutError: None was there in time.
            Exception: What the call raised.
        """
        if not self.has_next():
            raise StopIteration("there are no more results")
        owner = {single: ref for ref in self._busy for single in _refs_of(ref)}
        ready, _rest = api.wait(list(owner), num_returns=1, timeout=timeout)
        if not ready and not ignore_if_timedout:
            raise TimeoutError(f"no result was there within {timeout:g} s")
        return self._take(owner[ready[0]] if ready else next(iter(self._busy)), late=not ready)

    def _take(self, ref: Any, late: bool) -> Any:
        number, actor = self._busy.pop(ref)
        del self._in_order[number]
        self._returned = max(self._returned, number + 1)
        if late:
            self._give_back(actor)
            raise TimeoutError(f"the result of submission {number} was not there in time and is given up")
        alive = True
        try:
            return api.get(list(ref) if isinstance(ref, tuple) else ref)
        except ActorDiedError:
            alive = False
            raise
        finally:
            self._give_back(actor, alive)

    def _give_back(self, actor: ActorHandle, alive: bool = True) -> None:
        if alive:
            self._idle.append(actor)
        if self._waiting and self._idle:
            self.submit(*self._waiting.popleft())

    def has_free(self) -> bool:
        """Whether an actor is idle and nothing waits for one."""
        return bool(self._idle) and not self._waiting

    def pop_idle(self) -> ActorHandle | None:
        """Take an idle actor out of the pool and return it; None if none is free."""
        return self._idle.pop() if self.has_free() else None

    def push(self, actor: ActorHandle) -> None:
        """Add an actor; it takes what waits.

        Raises:
            ValueError: It is in the pool already.
        """
        if actor in self._idle or any(actor == busy for _number, busy in self._busy.values()):
            raise ValueError("the actor belongs to this pool already")
        self._give_back(actor)


def _refs_of(ref: Any) -> list[ObjectRef[Any]]:
    return list(ref) if isinstance(ref, tuple) else [ref]
