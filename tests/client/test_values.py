"""Values of objects that are lost while they are read."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

from atoll.client import values
from atoll.client.core.events import ObjectMissing
from atoll.client.core.records import INLINE, PENDING
from atoll.exceptions import ObjectLostError
from atoll.protocol.channel_messages import TaskReturned, TaskStored
from atoll.protocol.machine import Peer, Received
from atoll.protocol.serialization import serialize
from atoll.protocol.values import ObjectLocation
from tests.client.builders import Harness, result_id


class LosingSession:
    """SIMULATED session around a real core: its store has lost everything, and another thread says so, too."""

    def __init__(self, client: Harness, peer: Peer, object_id: bytes) -> None:
        self.core = client.core
        self.hooks = SimpleNamespace(blocking=nullcontext)
        self.store = self
        self.waits = 0
        self._client = client
        self._peer = peer
        self._object_id = object_id

    def handle(self, event: Any) -> None:
        """Give the core an event."""
        self._client.handle(event)

    def read(self, object_id: bytes, _node_id: bytes = b"") -> Any:
        """The store does not have it."""
        raise ObjectLostError(f"object {object_id.hex()} is not in the store of this node")

    def wait_for(self, _object_ids: list[bytes], _count: int, _timeout_s: float | None) -> bool:
        """The task has run again. At first its value is lost at once, and another thread is the first to see it."""
        self.waits += 1
        if self.waits == 1:
            location = ObjectLocation(self._object_id, b"node", 200_000)
            self.handle(Received(self._peer, [TaskStored(2, [location], [[]], 5)]))
            self.handle(ObjectMissing(self._object_id))
        else:
            self.handle(Received(self._peer, [TaskReturned(3, serialize("a value").data, 5)]))
        return True

    def resolved(self, object_id: bytes) -> tuple[int, Any]:
        """As the session."""
        entry = self.core.objects.entries[object_id]
        assert entry.state != PENDING
        return entry.state, entry.value


def test_a_value_that_another_thread_finds_lost_meanwhile_is_waited_for() -> None:
    client = Harness()
    record = client.submit()
    peer = client.grant(1)
    location = ObjectLocation(result_id(record), b"node", 200_000)
    client.handle(Received(peer, [TaskStored(1, [location], [[]], 5)]))
    session = LosingSession(client, peer, result_id(record))
    assert values.load(session, result_id(record)) == "a value"  # type: ignore[arg-type]
    assert session.waits == 2
    assert client.core.objects.entries[result_id(record)].state == INLINE
