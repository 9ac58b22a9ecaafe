"""`ObjectRefGenerator`: the values of a generator that runs on a worker, as they come.

    for ref in numbers.remote(10): ...           async for ref in numbers.remote(10): ...

What comes are refs. A generator that raises gives its values, then a ref whose `get` raises, and then it ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from atoll.client.core.events import ValueTaken
from atoll.client.core.records import END, FAILED, Stream
from atoll.ids import ObjectId, return_id
from atoll.object_ref import ObjectRef

if TYPE_CHECKING:
    from atoll.client.session import Session

T = TypeVar("T")


class ObjectRefGenerator(Generic[T]):
    """An iterator, and an async iterator, over refs to the values that a task yields.

    Made by `.remote()` of a generator function. It belongs to the process that made it and cannot be passed on. When
    it is dropped, the values that were not taken go, and the generator is closed at its next `yield`. Not for several
    threads at once.
    """

    __slots__ = ("__weakref__", "_ref", "_session", "_stream")

    def __init__(self, stream: Stream, session: Session) -> None:
        self._stream = stream
        self._session = session
        self._ref: ObjectRef[None] = ObjectRef(return_id(stream.record.task_id, 0), session)

    def __del__(self) -> None:
        try:
            self._session.release(self._stream.handle)
        except AttributeError:  # it was never wholly made, or the interpreter ends
            return

    # ------------------------------------------------------------------------------------------------ reading

    def __iter__(self) -> ObjectRefGenerator[T]:
        return self

    def __next__(self) -> ObjectRef[T]:
        """Wait for the next value and return a ref to it.

        Raises:
            StopIteration: There is none.
        """
        object_id = self._next_id()
        session = self._session
        if not session.ready(object_id):
            with session.hooks.blocking():
                session.wait_for([object_id], 1, None)
        if self.is_finished():
            raise StopIteration
        session.handle(ValueTaken(self._stream))
        return ObjectRef(object_id, session)

    def __aiter__(self) -> ObjectRefGenerator[T]:
        return self

    async def __anext__(self) -> ObjectRef[T]:
        """As `__next__`, without blocking the event loop; raises StopAsyncIteration at the end."""
        object_id = self._next_id()
        session = self._session
        if not session.ready(object_id):
            import asyncio  # whoever awaits has imported it

            loop = asyncio.get_running_loop()
            ready = loop.create_future()

            def tell() -> None:
                if not ready.done():
                    ready.set_result(None)

            def wake() -> None:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(tell)

            session.when_ready(object_id, wake)
            await ready
        if self.is_finished():
            raise StopAsyncIteration
        session.handle(ValueTaken(self._stream))
        return ObjectRef(object_id, session)

    def _next_id(self) -> ObjectId:
        return return_id(self._stream.record.task_id, self._stream.taken + 1)

    # ------------------------------------------------------------------------------------------------ looking

    def completed(self) -> ObjectRef[None]:
        """Return a ref that is ready when the generator has ended; its `get` raises what the generator raised."""
        return self._ref

    def next_ready(self) -> bool:
        """Whether `next` would return a ref at once. False at the end."""
        return self._session.ready(self._next_id()) and not self.is_finished()

    def is_finished(self) -> bool:
        """Whether all values were taken and there will be no other."""
        entry = self._session.core.objects.entries[self._next_id()]
        return entry.state == FAILED and entry.value == END

    def task_id(self) -> bytes:
        """Return the id of the task that runs the generator."""
        return self._stream.record.task_id

    # ---------------------------------------------------------------------- what generators can do and this cannot

    def send(self, value: Any) -> NoReturn:
        """Raise NotImplementedError: a generator that runs elsewhere takes no values."""
        raise NotImplementedError("nothing can be sent into a generator that runs on a worker")

    def throw(self, value: Any) -> NoReturn:
        """Raise NotImplementedError: use `atoll.cancel`."""
        raise NotImplementedError("nothing can be thrown into a generator that runs on a worker; use atoll.cancel(...)")

    def close(self) -> NoReturn:
        """Raise NotImplementedError: use `atoll.cancel`, or drop it."""
        raise NotImplementedError("a generator that runs on a worker is closed when it is dropped, or by atoll.cancel")

    async def asend(self, value: Any) -> NoReturn:
        """As `send`."""
        self.send(value)

    async def athrow(self, value: Any) -> NoReturn:
        """As `throw`."""
        self.throw(value)

    async def aclose(self) -> NoReturn:
        """As `close`."""
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("an ObjectRefGenerator cannot be passed on or returned: pass the refs that come from it")

    def __repr__(self) -> str:
        return f"ObjectRefGenerator({self._stream.record.task_id.hex()})"


class DynamicObjectRefGenerator(Generic[T]):
    """The refs to all values of a task with `num_returns="dynamic"`: what its one ref stands for.

    Args:
        refs: To the values, in order. A generator that raised has its error behind them.
    """

    def __init__(self, refs: Sequence[ObjectRef[T]]) -> None:
        self._refs = deque(refs)

    def __iter__(self) -> Iterator[ObjectRef[T]]:
        while self._refs:
            yield self._refs.popleft()

    def __len__(self) -> int:
        return len(self._refs)
