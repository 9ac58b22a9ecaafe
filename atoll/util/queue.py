"""`Queue`: a first-in, first-out queue that tasks, actors and notebooks share.

    from atoll.util.queue import Queue

    queue = Queue(maxsize=100)
    producer.remote(queue)      # handles travel
    queue.get(timeout=5)

The items are kept by an actor, whose coroutines wait for room or for an item, so that nobody polls.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterable
from typing import Any

from atoll import api
from atoll.actor import ActorHandle, kill

__all__ = ["Empty", "Full", "Queue"]


class Empty(queue.Empty):
    """The queue has no item, or not so many."""


class Full(queue.Full):
    """The queue has no room."""


class Queue:
    """A queue between processes. It can be passed to tasks and actors.

    Args:
        maxsize: How many items it holds at most; 0 for no limit.
        actor_options: Options of the actor that keeps the items, as for `@atoll.remote`.

    Attributes:
        maxsize: As given.
        actor: The actor; None after `shutdown`.
    """

    def __init__(self, maxsize: int = 0, actor_options: dict[str, Any] | None = None) -> None:
        self.maxsize = maxsize
        self.actor: ActorHandle | None = (
            api.remote(_QueueActor).options(**{"max_concurrency": 1000} | (actor_options or {})).remote(maxsize)
        )

    def _living(self) -> Any:
        if self.actor is None:
            raise RuntimeError("the queue was shut down")
        return self.actor

    def __len__(self) -> int:
        return self.size()

    def size(self) -> int:
        """Return how many items are in it."""
        return int(api.get(self._living().qsize.remote()))

    def qsize(self) -> int:
        """Return how many items are in it."""
        return self.size()

    def empty(self) -> bool:
        """Whether there is no item in it."""
        return self.size() == 0

    def full(self) -> bool:
        """Whether there is no room in it."""
        return 0 < self.maxsize <= self.size()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put an item in, waiting for room.

        Args:
            item: The item.
            block: Whether to wait.
            timeout: Seconds to wait; None waits for ever.

        Raises:
            Full: There is no room, or was none in time.
            ValueError: The timeout is negative.
        """
        _tell(Full, api.get(self._living().put.remote(item, *_patience(block, timeout))))

    async def put_async(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """As `put`, for coroutines."""
        _tell(Full, await self._living().put.remote(item, *_patience(block, timeout)))

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the next item out, waiting for one.

        Args:
            block: Whether to wait.
            timeout: Seconds to wait; None waits for ever.

        Raises:
            Empty: There is no item, or was none in time.
            ValueError: The timeout is negative.
        """
        return _tell(Empty, api.get(self._living().get.remote(*_patience(block, timeout))))

    async def get_async(self, block: bool = True, timeout: float | None = None) -> Any:
        """As `get`, for coroutines."""
        return _tell(Empty, await self._living().get.remote(*_patience(block, timeout)))

    def put_nowait(self, item: Any) -> None:
        """As `put(item, block=False)`."""
        self.put(item, block=False)

    def get_nowait(self) -> Any:
        """As `get(block=False)`."""
        return self.get(block=False)

    def put_nowait_batch(self, items: Iterable[Any]) -> None:
        """Put several items in, in order: all of them or none.

        Raises:
            Full: There is not room for all.
            TypeError: They cannot be iterated over.
        """
        if not isinstance(items, Iterable):
            raise TypeError(f"items must be iterable, and a {type(items).__name__} is not")
        _tell(Full, api.get(self._living().put_batch.remote(list(items))))

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        """Take several items out, in order: so many or none.

        Raises:
            Empty: There are fewer.
            TypeError: `num_items` is no whole number.
            ValueError: It is negative.
        """
        if not isinstance(num_items, int):
            raise TypeError(f"num_items must be a whole number, not a {type(num_items).__name__}")
        if num_items < 0:
            raise ValueError(f"num_items={num_items}: give a whole number from 0")
        items: list[Any] = _tell(Empty, api.get(self._living().get_batch.remote(num_items)))
        return items

    def shutdown(self, force: bool = False, grace_period_s: float = 5) -> None:
        """End the actor; items that are left are lost.

        Args:
            force: At once; else what was submitted to the queue before is done first.
            grace_period_s: For so long.
        """
        actor, self.actor = self.actor, None
        if actor is None:
            return
        if not force:
            api.wait([actor.qsize.remote()], timeout=grace_period_s)
        kill(actor)


class _Failed:
    """Stands for a refusal, so that what is usual raises no exception in the actor. Carries the text."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __reduce__(self) -> tuple[Any, ...]:
        return _Failed, (self.text,)


def _tell(kind: type[Exception], answer: Any) -> Any:
    if type(answer) is _Failed:
        raise kind(answer.text)
    return answer


def _patience(block: bool, timeout: float | None) -> tuple[bool, float | None]:
    if block and timeout is not None and timeout < 0:
        raise ValueError("'timeout' must be a non-negative number")
    return block, timeout


class _QueueActor:
    """Keeps the items."""

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._queue: asyncio.Queue[Any] = asyncio.Queue(maxsize)

    async def qsize(self) -> int:
        return self._queue.qsize()

    async def put(self, item: Any, block: bool, timeout: float | None) -> Any:
        try:
            if block:
                async with asyncio.timeout(timeout):
                    await self._queue.put(item)
            else:
                self._queue.put_nowait(item)
        except (asyncio.QueueFull, TimeoutError):
            return _Failed(f"the queue has its {self._maxsize} items")
        return None

    async def get(self, block: bool, timeout: float | None) -> Any:
        try:
            if not block:
                return self._queue.get_nowait()
            async with asyncio.timeout(timeout):
                return await self._queue.get()
        except (asyncio.QueueEmpty, TimeoutError):
            return _Failed("the queue is empty")

    async def put_batch(self, items: list[Any]) -> Any:
        room = self._maxsize - self._queue.qsize()
        if self._maxsize > 0 and len(items) > room:
            return _Failed(f"{len(items)} items do not fit: there is room for {max(0, room)}")
        for item in items:
            self._queue.put_nowait(item)
        return None

    async def get_batch(self, count: int) -> Any:
        if count > self._queue.qsize():
            return _Failed(f"{count} items are asked for, and there are {self._queue.qsize()}")
        return [self._queue.get_nowait() for _ in range(count)]
