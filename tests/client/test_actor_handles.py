"""Handles, creation and release of actors in the client's core; and calls that may overtake each other."""

from __future__ import annotations

import pickle
from typing import Any

import msgspec
import pytest

from atoll.client.core.actor_calls import MAXIMUM_DEAD
from atoll.client.core.events import (
    CreationGivenUp,
    CreationRequested,
    HoldRequested,
    MethodCalled,
    RefsReleased,
    SchedulerLinked,
)
from atoll.client.core.records import FAILED, Manner, TaskRecord
from atoll.ids import ActorId, TaskId, token_of
from atoll.protocol.channel_messages import CallMethod, DropHolds, TaskRaised, TaskReturned
from atoll.protocol.machine import Peer, PeerConnected, PeerLost, Received
from atoll.protocol.messages import ActorChanged, CreateActor, Failed, KillActor, ReleaseActor, WatchActor
from atoll.protocol.values import ActorPayload, ActorSpec, SchedulingClass
from tests.client.builders import ME, SCHEDULER, Harness, result_id, worker_id

ACTOR = ActorId(ME + (77).to_bytes(8, "big"))
TOKEN = token_of(ACTOR)
OTHER = b"other___"


@pytest.fixture
def client() -> Harness:
    return Harness()


def create(client: Harness, *arguments: TaskRecord) -> TaskRecord:
    """Make an actor of whose handle there is one; its constructor takes results of tasks."""
    client.core.objects.add_token(TOKEN)
    record = TaskRecord(
        TaskId(ME + (78).to_bytes(8, "big")),
        "Counter.__init__",
        b"arguments",
        actor_id=ACTOR,
        dependencies=[result_id(argument) for argument in arguments] or None,
        returns=0,
        keepalive="what the arguments refer to",
    )
    spec = ActorSpec(ACTOR, "", "", "Counter", SchedulingClass({}, "env"), b"")
    client.handle(CreationRequested(record, CreateActor(client.core.outbox.next_request(), ME, spec), b"code"))
    return record


def call(client: Harness, number: int, **more: Any) -> TaskRecord:
    record = TaskRecord(TaskId(ME + (1000 + number).to_bytes(8, "big")), "method", b"", actor_id=ACTOR, **more)
    client.handle(MethodCalled(record))
    return record


def news(client: Harness, state: str) -> None:
    alive = state == "alive"
    where = ("/w0", worker_id(0)) if alive else ("", b"")
    client.handle(Received(SCHEDULER, ActorChanged(0, ACTOR, state, 0, *where, "Counter", cause="it ended")))


def alive(client: Harness) -> Peer:
    """Have the actor live, with a channel to it."""
    news(client, "alive")
    peer = Peer(200)
    client.handle(PeerConnected(peer, "worker", worker_id(0)))
    return peer


def called(client: Harness, peer: Peer) -> list[bytes]:
    return [message.task_id for message in client.sent(CallMethod, peer)]


def test_an_actor_is_asked_for_when_its_constructor_s_arguments_are_there(client: Harness) -> None:
    argument = client.submit()
    worker = client.grant(1)
    create(client, argument)
    waiting = call(client, 1)
    assert not client.sent(CreateActor)
    assert not client.sent(WatchActor), "nobody knows of it yet"
    client.answer(worker, 1, value=b"N.")
    (message,) = client.sent(CreateActor)
    payload = msgspec.msgpack.decode(message.spec.payload, type=ActorPayload)
    assert (payload.code, payload.arguments) == (b"code", b"arguments")
    assert [location.inline for location in payload.dependencies] == [b"N."]
    assert called(client, alive(client)) == [waiting.task_id]
    assert client.core.actors.views[ACTOR].keepalive == "what the arguments refer to"


def test_an_actor_whose_argument_fails_is_dead_with_that_error(client: Harness) -> None:
    argument = client.submit(retries_left=0)
    worker = client.grant(1)
    create(client, argument)
    waiting = call(client, 1)
    error = pickle.dumps(LookupError("no argument"))
    client.handle(Received(worker, [TaskRaised(1, error, 5, False)]))
    late = call(client, 2)
    for record in (waiting, late):
        entry = client.result(record)
        assert (entry.state, entry.value) == (FAILED, error)
    client.handle(RefsReleased([TOKEN, result_id(waiting), result_id(late), result_id(argument)]))
    assert not client.sent(CreateActor)
    assert not client.sent(ReleaseActor), "there is nothing to release"
    assert not client.core.actors.views
    assert not client.core.objects.entries


def test_the_last_handle_s_going_is_told_and_nothing_is_remembered(client: Harness) -> None:
    create(client)
    peer = alive(client)
    client.handle(RefsReleased([TOKEN]))
    assert client.sent(ReleaseActor) == [ReleaseActor(ACTOR)]
    client.handle(PeerLost(peer))
    news(client, "dead")
    assert not client.core.actors.views
    assert not client.core.objects.entries


def test_a_release_is_said_again_to_a_scheduler_that_was_away(client: Harness) -> None:
    create(client)
    alive(client)
    client.handle(PeerLost(SCHEDULER))
    client.handle(RefsReleased([TOKEN]))
    assert not client.sent(ReleaseActor)
    client.handle(SchedulerLinked(SCHEDULER))
    assert client.sent(ReleaseActor) == [ReleaseActor(ACTOR)]


def test_an_actor_that_was_never_asked_for_is_given_up_in_silence(client: Harness) -> None:
    argument = client.submit()
    worker = client.grant(1)
    create(client, argument)
    client.handle(RefsReleased([TOKEN]))
    client.answer(worker, 1)
    assert not client.sent(CreateActor)
    assert not client.sent(ReleaseActor)
    assert not client.core.actors.views


def test_a_detached_actor_that_is_given_up_is_killed_also_at_a_scheduler_that_was_away(client: Harness) -> None:
    client.core.actors.follow_new(ACTOR, 77)
    client.handle(PeerLost(SCHEDULER))
    client.handle(CreationGivenUp(ACTOR))
    assert not client.sent(KillActor)
    client.handle(SchedulerLinked(SCHEDULER))
    assert [message.actor_id for message in client.sent(KillActor)] == [ACTOR]
    (watch,) = client.sent(WatchActor)
    client.handle(Received(SCHEDULER, Failed(watch.request, "ActorDiedError", "the cluster knows no such actor")))
    assert not client.core.actors.views


def test_an_actor_that_was_given_up_and_may_never_have_been_asked_for_is_asked_about_and_forgotten(
    client: Harness,
) -> None:
    client.core.objects.add_token(TOKEN)
    client.core.actors.follow_new(ACTOR, 77)
    client.handle(RefsReleased([TOKEN]))
    assert client.sent(ReleaseActor) == [ReleaseActor(ACTOR)]
    (watch,) = client.sent(WatchActor)
    client.handle(Received(SCHEDULER, Failed(watch.request, "ActorDiedError", "the cluster knows no such actor")))
    assert not client.core.actors.views


def test_a_detached_actor_that_is_given_up_before_its_arguments_are_there_is_never_asked_for(client: Harness) -> None:
    argument = client.submit()
    worker = client.grant(1)
    create(client, argument)
    client.handle(CreationGivenUp(ACTOR))
    client.handle(RefsReleased([TOKEN]))
    client.answer(worker, 1)
    assert not client.sent(CreateActor)
    assert not client.sent(KillActor)
    assert not client.core.actors.views


def test_nothing_is_remembered_of_an_actor_whose_name_another_has(client: Harness) -> None:
    client.core.actors.follow_new(ACTOR, 77)
    found = ActorChanged(77, OTHER + b"00000001", "alive", 0, "/w0", worker_id(0), "Counter")
    client.handle(Received(SCHEDULER, found))
    assert list(client.core.actors.views) == [found.actor_id]


def test_a_process_that_holds_a_handle_keeps_the_actor(client: Harness) -> None:
    create(client)
    alive(client)
    client.handle(HoldRequested(TOKEN, OTHER))
    other = Peer(300)
    client.handle(PeerConnected(other, "worker", OTHER))
    client.handle(RefsReleased([TOKEN]))
    assert not client.sent(ReleaseActor)
    client.handle(Received(other, [DropHolds([TOKEN])]))
    assert client.sent(ReleaseActor) == [ReleaseActor(ACTOR)]


def test_a_holder_that_dies_holds_nothing(client: Harness) -> None:
    create(client)
    client.handle(HoldRequested(TOKEN, OTHER))
    other = Peer(300)
    client.handle(PeerConnected(other, "worker", OTHER))
    client.handle(RefsReleased([TOKEN]))
    client.handle(PeerLost(other))
    assert client.sent(ReleaseActor) == [ReleaseActor(ACTOR)]


def test_calls_overtake_only_where_order_is_not_promised(client: Harness) -> None:
    for manner, expected in ((None, 1), (Manner(any_order=True), 2)):
        harness = Harness()
        argument = harness.submit()
        worker = harness.grant(1)
        create(harness)
        first = call(harness, 1, manner=manner)
        late = call(harness, 2, manner=manner, dependencies=[result_id(argument)])
        third = call(harness, 3, manner=manner)
        peer = alive(harness)
        assert called(harness, peer) == [first.task_id, third.task_id][:expected]
        assert harness.core.actors.pending(ACTOR) == 3
        harness.answer(worker, 1)
        assert set(called(harness, peer)) == {first.task_id, late.task_id, third.task_id}
        harness.handle(Received(peer, [TaskReturned(number, b"N.", 5) for number in (1, 2, 3)]))
        assert harness.core.actors.pending(ACTOR) == 0


def test_a_call_that_raises_is_made_again_if_it_may_be(client: Harness) -> None:
    create(client)
    record = call(client, 1, retries_left=1, retry_exceptions=True)
    peer = alive(client)
    error = pickle.dumps(ValueError("again"))
    client.handle(Received(peer, [TaskRaised(1, error, 5, True)]))
    assert called(client, peer) == [record.task_id] * 2
    client.handle(Received(peer, [TaskRaised(2, error, 5, True)]))
    assert client.result(record).value == error


def test_of_dead_actors_so_many_are_remembered(client: Harness) -> None:
    for number in range(MAXIMUM_DEAD + 10):
        actor_id = OTHER + number.to_bytes(8, "big")
        client.handle(Received(SCHEDULER, ActorChanged(0, actor_id, "dead", 0, "", b"", "Counter", cause="it ended")))
    assert len(client.core.actors.views) == MAXIMUM_DEAD
