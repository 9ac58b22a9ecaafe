"""What a task returned, as an answer to its caller; and the refs that come and go with tasks.

Before an answer leaves, two promises are kept (see `atoll.client.core.objects`): for every ref in the returned value
the caller is registered at the ref's owner, and for every borrowed ref that this worker still has, so is this worker.
"""

from __future__ import annotations

from typing import Any

from atoll.client.reactor import Waiter
from atoll.client.session import Session
from atoll.ids import TaskId, return_id
from atoll.protocol.channel_messages import INLINE_BYTES, CallMethod, RunTask, TaskReturned, TaskStored
from atoll.protocol.machine import Peer
from atoll.protocol.serialization import Serialized, deserialize, pack_inline, serialize, serialize_plain
from atoll.protocol.values import ObjectLocation


class ResultWriter:
    """Turns values into answers.

    Args:
        session: The worker's.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._borrowed: dict[bytes, None] = {}
        session.hooks.borrowed = self._note_borrowed

    def _note_borrowed(self, object_id: bytes) -> None:
        self._borrowed[object_id] = None

    def load(self, location: ObjectLocation) -> Any:
        """Return the value of a dependency.

        Raises:
            ObjectLostError: The store does not have it.
        """
        if location.node_id:
            return self._session.store.read(location.object_id)
        return deserialize(location.inline)

    @property
    def has_borrowed(self) -> bool:
        """Whether refs have come that `register_borrowed` has not seen."""
        return bool(self._borrowed)

    def answer(self, message: RunTask | CallMethod, value: Any, peer: Peer, microseconds: int) -> Any:
        """Return the answer for a value, or for the several values that the caller expects.

        Raises:
            SerializationError: A value does not pickle.
            ObjectStoreFullError: A large one has no room.
            ValueError: The task returned another number of values than its `num_returns`.
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
        try:
            parts = list(value)
        except TypeError:
            raise ValueError(f"num_returns={message.returns}, but one {type(value).__name__} was returned") from None
        if len(parts) != message.returns:
            raise ValueError(f"num_returns={message.returns}, but {len(parts)} values were returned")
        return self._stored(message, [(part, serialize(part)) for part in parts], peer, microseconds)

    def _stored(
        self, message: RunTask | CallMethod, values: list[tuple[Any, Serialized]], peer: Peer, microseconds: int
    ) -> TaskStored:
        locations, contained = [], []
        for index, (value, serialized) in enumerate(values):
            object_id = return_id(TaskId(message.task_id), index)
            if serialized.total_bytes <= INLINE_BYTES:
                locations.append(ObjectLocation(object_id, inline=pack_inline(serialized, value)))
            else:
                size = self._session.store.write(object_id, serialized, keep=False)
                locations.append(ObjectLocation(object_id, self._session.node_id, size))
            contained.append([ref.binary() for ref in serialized.contained])
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
