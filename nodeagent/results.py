"""What a task returned, as an answer to its caller; and the refs that come and go with tasks.

Before an answer leaves, two promises are kept (see `atoll.client.core.objects`): for every ref in the returned value
the caller is registered at the ref's owner, and for every borrowed ref that this worker still has, so is this worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any

from atoll.client.reactor import Waiter
from atoll.client.session import Session
from atoll.exceptions import ObjectLostError
from atoll.ids import ObjectId, TaskId, return_id
from atoll.object_ref import ObjectRef
from atoll.protocol.channel_messages import INLINE_BYTES, CallMethod, RunTask, TaskReturned, TaskStored, TaskYielded
from atoll.protocol.machine import Peer
from atoll.protocol.messages import DeleteObjects
from atoll.protocol.serialization import Serialized, deserialize, pack_inline, serialize, serialize_plain
from atoll.protocol.values import ObjectLocation

Task = RunTask | CallMethod


def _no_streams(_peer: Peer, _message: Task, _value: Any) -> Any:
    raise AssertionError("the executor says how generators run")


class DependencyMissing(Exception):
    """What a task takes was lost before the task began: no fault of the task's. Never seen by user code."""

    def __init__(self, object_id: bytes) -> None:
        super().__init__(object_id)
        self.object_id = object_id


class RaisedMidway(Exception):
    """A generator that gives a task's several return values raised. Never seen by user code.

    Attributes:
        error: What it raised.
        values: Where the values are that it had yielded before.
        contained: For each, the ids of the refs inside.
    """

    def __init__(self, error: BaseException, values: list[ObjectLocation], contained: list[list[bytes]]) -> None:
        super().__init__()
        self.error = error
        self.values = values
        self.contained = contained


class ResultWriter:
    """Turns values into answers.

    Args:
        session: The worker's.

    Attributes:
        stream: Takes a generator, sends its values and returns the last answer; the executor sets it.
        step: Runs user code where it can be interrupted; the executor sets it.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._borrowed: dict[bytes, None] = {}
        self.stream: Callable[[Peer, Task, Any], Any] = _no_streams
        self.step: Callable[[Callable[[], Any]], Any] = lambda work: work()
        session.hooks.borrowed = self._note_borrowed

    def _note_borrowed(self, object_id: bytes) -> None:
        self._borrowed[object_id] = None

    def load(self, location: ObjectLocation) -> Any:
        """Return the value of a dependency.

        Raises:
            ObjectLostError: The store does not have it.
        """
        if location.node_id:
            return self._session.store.read(location.object_id, location.node_id)
        return deserialize(location.inline)

    def load_all(self, locations: list[ObjectLocation]) -> list[Any]:
        """As `load`, for what a task or call takes.

        Raises:
            DependencyMissing: One should be in a store and is not: its owner must know.
        """
        values = []
        for location in locations:
            try:
                values.append(self.load(location))
            except ObjectLostError:
                raise DependencyMissing(location.object_id) from None
        return values

    @property
    def has_borrowed(self) -> bool:
        """Whether refs have come that `register_borrowed` has not seen."""
        return bool(self._borrowed)

    def answer(self, message: Task, value: Any, peer: Peer, microseconds: int) -> Any:
        """Return the answer for a value, or for the several values that the caller expects.

        Raises:
            SerializationError: A value does not pickle.
            ObjectStoreFullError: A large one has no room.
            TypeError: The task returned one value, and its `num_returns` are several.
            ValueError: It returned another number of values than these.
            RaisedMidway: It returned a generator for them, which raised.
        """
        if message.returns == 1:
            data = serialize_plain(value)
            if data is not None:
                return TaskReturned(message.sequence, data, microseconds)
            serialized = serialize(value)
            if not serialized.contained and serialized.total_bytes <= INLINE_BYTES:
                return TaskReturned(message.sequence, pack_inline(serialized, value), microseconds)
            return self._stored(message, [(value, serialized)], peer, microseconds)
        if message.returns == 0:
            return TaskStored(message.sequence, [], [], microseconds)
        if message.returns < 0:
            return self.stream(peer, message, value)
        if isinstance(value, Generator):
            return self._generated(message, value, peer, microseconds)
        try:
            parts = self.step(partial(list, value))
        except TypeError:
            raise TypeError(f"num_returns={message.returns}, but one {type(value).__name__} was returned") from None
        if len(parts) != message.returns:
            raise ValueError(f"num_returns={message.returns}, but {len(parts)} values were returned")
        return self._stored(message, [(part, serialize(part)) for part in parts], peer, microseconds)

    def _generated(self, message: Task, values: Iterator[Any], peer: Peer, microseconds: int) -> TaskStored:
        """Return the answer for several values that a generator yields: each is stored before the next is made."""
        locations: list[ObjectLocation] = []
        contained: list[list[bytes]] = []
        began, done = time.monotonic(), object()
        kept = _kept(message)
        while True:
            try:
                value = self.step(partial(next, values, done))
                if value is done or len(locations) == message.returns:
                    break
                object_id = return_id(TaskId(message.task_id), len(locations))
                if len(locations) in kept:
                    location, inside = ObjectLocation(object_id), list[bytes]()
                else:
                    location, inside = self._place(message, object_id, value, serialize(value))
            except BaseException as error:
                self._register(
                    [object_id for inner in contained for object_id in inner], self._session.process_of(peer)
                )
                raise RaisedMidway(error, locations, contained) from error
            locations.append(location)
            contained.append(inside)
            del value
        if value is not done or len(locations) != message.returns:
            self._session.tell_agent(DeleteObjects([each.object_id for each in locations if each.node_id]))
            amount = "more" if value is not done else f"only {len(locations)}"
            raise ValueError(f"num_returns={message.returns}, but {amount} values were yielded")
        self._register([object_id for inner in contained for object_id in inner], self._session.process_of(peer))
        microseconds += int((time.monotonic() - began) * 1e6)
        return TaskStored(message.sequence, locations, contained, microseconds)

    def whole(self, message: Task, value: Any, contained: list[bytes], microseconds: int) -> TaskStored:
        """Return the answer for a generator's own value, which may refer to values that the caller owns."""
        location = ObjectLocation(return_id(TaskId(message.task_id), 0), inline=serialize(value).data)
        return TaskStored(message.sequence, [location], [contained], microseconds)

    def item_id(self, message: Task, index: int) -> ObjectId:
        """Return the id of a generator's value, counted from 0; the generator's own value is return value 0."""
        return return_id(TaskId(message.task_id), index + 1)

    def ref_to(self, object_id: ObjectId) -> ObjectRef[Any]:
        """Return a ref to an object of the caller's."""
        self._session.borrow(object_id)
        return ObjectRef(object_id, self._session)

    def yielded(self, message: Task, index: int, value: Any, caller: bytes) -> TaskYielded:
        """Return the answer for one value of a generator; raises as `answer` does."""
        location, contained = self._place(message, self.item_id(message, index), value, serialize(value))
        self._register(contained, caller)
        return TaskYielded(message.sequence, index, location, contained)

    def failed(self, message: Task, index: int, error: bytes) -> TaskYielded:
        """Return the answer for the error that comes in the place of a generator's next value."""
        return TaskYielded(message.sequence, index, ObjectLocation(self.item_id(message, index)), [], error)

    def _place(
        self, message: Task, object_id: ObjectId, value: Any, serialized: Serialized
    ) -> tuple[ObjectLocation, list[bytes]]:
        """Put a value into the answer or into the store; return where it is, and the ids of the refs inside."""
        contained = [ref.binary() for ref in serialized.contained]
        if serialized.total_bytes <= INLINE_BYTES:
            return ObjectLocation(object_id, inline=pack_inline(serialized, value)), contained
        size = self._session.store.write(object_id, serialized, keep=False, attempt=message.attempt)
        return ObjectLocation(object_id, self._session.node_id, size), contained

    def _stored(self, message: Task, values: list[tuple[Any, Serialized]], peer: Peer, microseconds: int) -> TaskStored:
        locations: list[ObjectLocation] = []
        contained: list[list[bytes]] = []
        kept = _kept(message)
        for index, (value, serialized) in enumerate(values):
            object_id = return_id(TaskId(message.task_id), index)
            if index in kept:
                location, inside = ObjectLocation(object_id), list[bytes]()
            else:
                location, inside = self._place(message, object_id, value, serialized)
            locations.append(location)
            contained.append(inside)
        self._register([object_id for inner in contained for object_id in inner], self._session.process_of(peer))
        return TaskStored(message.sequence, locations, contained, microseconds)

    def _register(self, object_ids: list[bytes], holder: bytes) -> None:
        """Register a holder for each object at its owner, and wait until the owners know. Nobody holds their own."""
        waiters: list[Waiter] = [
            self._session.hold(object_id, holder) for object_id in object_ids if not object_id.startswith(holder)
        ]
        for waiter in waiters:
            self._session.reactor.wait(waiter, None)

    def register_borrowed(self) -> None:
        """Register this worker for the borrowed refs that have come since the last call and are still here."""
        if not self._borrowed:
            return
        borrowed, self._borrowed = self._borrowed, {}
        self._register(self._session.unregistered(list(borrowed)), self._session.process_id)


def _kept(message: Task) -> list[int]:
    """Return which values the caller has still: a task that runs again for a lost one does not store the others."""
    return message.kept if type(message) is RunTask else []
