"""Streams of a client's core: values, ends, drops and retries, as events and actions."""

from __future__ import annotations

import pytest

from atoll.client.core.events import AnnounceObjects, ObjectPut, ObjectsWanted, RefsReleased, ValueTaken
from atoll.client.core.records import DYNAMIC, END, FAILED, INLINE, PENDING, STREAMING, TaskRecord
from atoll.ids import return_id
from atoll.protocol.channel_messages import (
    CloseStream,
    DropHolds,
    OpenStream,
    ReadStream,
    RunTask,
    TaskRaised,
    TaskStored,
    TaskYielded,
)
from atoll.protocol.machine import Peer, PeerConnected, PeerLost, Received
from atoll.protocol.messages import DeleteObjects, LeaseLost
from atoll.protocol.values import ObjectLocation
from tests.client.builders import SCHEDULER, Harness


@pytest.fixture
def client() -> Harness:
    return Harness()


def _begin(client: Harness, *, limit: int = 0, returns: int = STREAMING) -> tuple[TaskRecord, Peer]:
    record = client.submit(returns=returns, stream_limit=limit)
    return record, client.grant(1)


def _item(record: TaskRecord, index: int) -> bytes:
    return return_id(record.task_id, index + 1)


def _yield(client: Harness, peer: Peer, record: TaskRecord, index: int, contained: tuple[bytes, ...] = ()) -> None:
    location = ObjectLocation(_item(record, index), inline=b"value")
    client.handle(Received(peer, [TaskYielded(record.sequence, index, location, list(contained))]))


def _end(client: Harness, peer: Peer, record: TaskRecord) -> None:
    whole = ObjectLocation(return_id(record.task_id, 0), inline=b"N.")
    client.handle(Received(peer, [TaskStored(record.sequence, [whole], [[]], 5)]))


def _states(client: Harness, record: TaskRecord, count: int) -> list[int | None]:
    entries = [client.core.objects.entries.get(_item(record, index)) for index in range(count)]
    return [None if entry is None else entry.state for entry in entries]


def test_there_is_always_one_value_that_is_waited_for(client: Harness) -> None:
    record, peer = _begin(client)
    assert client.sent(OpenStream, peer) == [OpenStream(1, 0, 0, 0)]
    assert [message.returns for message in client.sent(RunTask, peer)] == [STREAMING]
    assert _states(client, record, 2) == [PENDING, None]
    client.handle(ObjectsWanted([_item(record, 0)]))
    _yield(client, peer, record, 0)
    assert any(
        _item(record, 0) in action.object_ids for action in client.actions if isinstance(action, AnnounceObjects)
    )
    assert _states(client, record, 3) == [INLINE, PENDING, None]
    _end(client, peer, record)
    assert _states(client, record, 3) == [INLINE, FAILED, None]
    assert client.core.objects.entries[_item(record, 1)].value == END


def test_what_was_taken_is_told_only_when_the_reader_bounds_what_waits(client: Harness) -> None:
    bounded, peer = _begin(client, limit=2)
    _yield(client, peer, bounded, 0)
    assert bounded.stream is not None
    client.handle(ValueTaken(bounded.stream))
    assert client.sent(ReadStream) == [ReadStream(1, 1)]
    assert client.sent(OpenStream, peer) == [OpenStream(1, 2, 0, 0)]
    _end(client, peer, bounded)
    free = client.submit(returns=STREAMING)
    _yield(client, peer, free, 0)
    assert free.stream is not None
    client.handle(ValueTaken(free.stream))
    assert len(client.sent(ReadStream)) == 1


def test_an_error_is_the_last_value(client: Harness) -> None:
    record, peer = _begin(client)
    _yield(client, peer, record, 0)
    client.handle(Received(peer, [TaskRaised(record.sequence, b"error", 5)]))
    values = [client.core.objects.entries[_item(record, index)].value for index in range(3)]
    assert values == [b"value", b"error", END]
    assert client.core.objects.entries[return_id(record.task_id, 0)].value == b"error"


def test_dropping_frees_what_was_not_taken_and_closes_the_generator(client: Harness) -> None:
    record, peer = _begin(client)
    _yield(client, peer, record, 0)
    _yield(client, peer, record, 1)
    assert record.stream is not None
    client.handle(ValueTaken(record.stream))
    client.handle(RefsReleased([record.stream.handle]))
    assert _states(client, record, 3) == [INLINE, None, None]
    assert client.sent(CloseStream) == [CloseStream(1)]
    stored = ObjectLocation(_item(record, 2), b"node", 200_000)
    client.handle(Received(peer, [TaskYielded(1, 2, stored, [])]))
    _end(client, peer, record)
    client.handle(RefsReleased([return_id(record.task_id, 0), _item(record, 0)]))
    assert not client.core.objects.entries


def test_a_stored_value_that_nobody_wants_goes_and_so_do_the_refs_inside(client: Harness) -> None:
    client.core.outbox.agent = Peer(2)
    record, peer = _begin(client)
    assert record.stream is not None
    client.handle(PeerConnected(Peer(77), "worker", b"another_"))
    client.handle(RefsReleased([record.stream.handle]))
    inner = b"another_00000001" + bytes(4)
    stored = ObjectLocation(_item(record, 0), b"node", 200_000)
    client.handle(Received(peer, [TaskYielded(1, 0, stored, [inner])]))
    assert client.sent(DeleteObjects) == [DeleteObjects([_item(record, 0)])]
    assert client.sent(DropHolds, Peer(77)) == [DropHolds([inner])]


def test_a_value_of_a_task_that_nobody_wants_lets_go_of_the_refs_inside(client: Harness) -> None:
    """The worker has registered us as their holder, and nobody else will take that back."""
    record = client.submit()
    peer = client.grant(1)
    client.handle(PeerConnected(Peer(77), "worker", b"another_"))
    client.handle(RefsReleased([return_id(record.task_id, 0)]))
    inner = b"another_00000001" + bytes(4)
    value = ObjectLocation(return_id(record.task_id, 0), inline=b"value")
    client.handle(Received(peer, [TaskStored(1, [value], [[inner]], 5)]))
    assert client.sent(DropHolds, Peer(77)) == [DropHolds([inner])]
    assert not client.core.objects.entries


def test_dropping_before_the_task_was_pushed_cancels_it(client: Harness) -> None:
    record = client.submit(returns=STREAMING)
    assert record.stream is not None
    client.handle(RefsReleased([record.stream.handle, return_id(record.task_id, 0)]))
    peer = client.grant(1)
    assert client.pushed(peer) == []
    assert not client.core.objects.entries


def test_a_task_that_runs_again_says_what_has_come_and_what_was_taken(client: Harness) -> None:
    record, peer = _begin(client, limit=3)
    _yield(client, peer, record, 0)
    _yield(client, peer, record, 1)
    assert record.stream is not None
    client.handle(ValueTaken(record.stream))
    client.handle(Received(SCHEDULER, LeaseLost(1, "WorkerCrashedError", "it died")))
    client.handle(PeerLost(peer))
    again = client.grant(2)
    assert client.sent(OpenStream, again) == [OpenStream(1, 3, 2, 1)]
    _yield(client, again, record, 2)
    _end(client, again, record)
    assert _states(client, record, 4) == [INLINE, INLINE, INLINE, FAILED]


def test_a_dropped_stream_s_task_does_not_run_again(client: Harness) -> None:
    record, peer = _begin(client)
    assert record.stream is not None
    client.handle(RefsReleased([record.stream.handle]))
    client.handle(Received(SCHEDULER, LeaseLost(1, "WorkerCrashedError", "it died")))
    client.handle(PeerLost(peer))
    assert client.pushed(client.grant(2)) == []
    assert client.core.objects.entries[return_id(record.task_id, 0)].state == FAILED


def test_all_at_once_refers_to_every_value(client: Harness) -> None:
    record, peer = _begin(client, returns=DYNAMIC)
    _yield(client, peer, record, 0)
    _yield(client, peer, record, 1)
    items = [_item(record, 0), _item(record, 1)]
    whole = ObjectLocation(return_id(record.task_id, 0), inline=b"refs")
    client.handle(Received(peer, [TaskStored(record.sequence, [whole], [items], 5)]))
    assert [client.core.objects.entries[item].count for item in items] == [1, 1]
    client.handle(RefsReleased([return_id(record.task_id, 0)]))
    assert not client.core.objects.entries


def test_a_value_can_be_put_meanwhile(client: Harness) -> None:
    """Ids of a stream's values are of its task, and of no other object."""
    record, peer = _begin(client)
    put = return_id(client.task().task_id, 0)
    client.handle(ObjectPut(put, ObjectLocation(put, inline=b"put"), []))
    _yield(client, peer, record, 0)
    assert client.core.objects.entries[put].value == b"put"
