"""Calls to actors: in order, over lost channels, restarts, and schedulers that are away."""

from __future__ import annotations

import pickle

import pytest

from atoll.client.core.actor_calls import NEWS_WITHIN_S
from atoll.client.core.events import ConnectFailed, ConnectProcess, MethodCalled, SchedulerLinked
from atoll.client.core.records import FAILED, PENDING, TaskRecord
from atoll.exceptions import ActorDiedError, ActorUnavailableError
from atoll.ids import TaskId
from atoll.protocol.channel_messages import CallMethod, TaskRaised
from atoll.protocol.machine import DeadlineReached, Peer, PeerConnected, PeerLost, Received
from atoll.protocol.messages import ActorChanged, CreateActor, Failed, WatchActor
from atoll.protocol.values import ActorSpec, SchedulingClass
from tests.client.builders import ME, SCHEDULER, Harness, result_id, worker_id

ACTOR = b"actor-0000000001"


@pytest.fixture
def client() -> Harness:
    return Harness()


def call(client: Harness, number: int, retries: int = 0) -> TaskRecord:
    task_id = TaskId(ME + (1000 + number).to_bytes(8, "big"))
    record = TaskRecord(task_id, "method", b"", actor_id=ACTOR, retries_left=retries)
    client.handle(MethodCalled(record))
    return record


def news(client: Harness, state: str, incarnation: int = 0, request: int = 0) -> None:
    worker = worker_id(incarnation) if state == "alive" else b""
    address = f"/w{incarnation}" if state == "alive" else ""
    changed = ActorChanged(request, ACTOR, state, incarnation, address, worker, "Counter")
    client.handle(Received(SCHEDULER, changed))


def dialled(client: Harness) -> list[bytes]:
    return [action.process_id for action in client.actions if isinstance(action, ConnectProcess)]


def open_channel(client: Harness, incarnation: int, peer: int = 0) -> Peer:
    number = Peer(peer or 200 + incarnation)
    client.handle(PeerConnected(number, "worker", worker_id(incarnation)))
    return number


def called(client: Harness, peer: Peer) -> list[bytes]:
    return [message.task_id for message in client.sent(CallMethod, peer)]


def error_of(client: Harness, record: TaskRecord) -> Exception:
    entry = client.result(record)
    assert entry.state == FAILED
    error: Exception = pickle.loads(entry.value)
    return error


def alive(client: Harness) -> Peer:
    """Make one call, to an actor that lives; its channel stands."""
    first = call(client, 0)
    news(client, "alive")
    peer = open_channel(client, 0)
    assert called(client, peer) == [first.task_id]
    return peer


def test_a_call_that_fails_by_its_argument_does_not_hold_up_those_behind_it(client: Harness) -> None:
    peer = alive(client)
    argument = client.submit(retries_left=0)
    worker = client.grant(7)
    task_id = TaskId(ME + (1001).to_bytes(8, "big"))
    first = TaskRecord(task_id, "method", b"", actor_id=ACTOR, dependencies=[result_id(argument)])
    client.handle(MethodCalled(first))
    second = call(client, 2)
    assert called(client, peer)[1:] == [], "the order is a promise"
    client.handle(Received(worker, [TaskRaised(1, b"pickled error", 5)]))
    assert client.result(first).state == FAILED
    assert called(client, peer)[1:] == [second.task_id]


def test_an_actor_that_the_scheduler_does_not_know_fails_its_calls(client: Harness) -> None:
    record = call(client, 1)
    (watch,) = client.sent(WatchActor)
    client.handle(Received(SCHEDULER, Failed(watch.request, "ActorDiedError", "no such actor")))
    assert isinstance(error_of(client, record), ActorDiedError)
    assert isinstance(error_of(client, call(client, 2)), ActorDiedError), "later calls too"


def test_a_creation_that_was_not_answered_is_asked_for_again_of_the_next_scheduler(client: Harness) -> None:
    spec = ActorSpec(ACTOR, "", "", "Counter", SchedulingClass({}, "env"), b"")
    client.handle(PeerLost(SCHEDULER))
    client.core.actors.follow_new(ACTOR, 77, CreateActor(77, ME, spec))
    record = call(client, 1)
    client.handle(SchedulerLinked(Peer(9)))
    assert [message.spec for message in client.sent(CreateActor, Peer(9))] == [spec]
    client.handle(Received(Peer(9), ActorChanged(77, ACTOR, "pending", 0, "", b"", "Counter", {})))
    client.handle(PeerLost(Peer(9)))
    client.handle(SchedulerLinked(Peer(10)))
    assert client.sent(CreateActor, Peer(10)) == [], "it was answered"
    assert len(client.sent(WatchActor, Peer(10))) == 1
    assert client.result(record).state == PENDING


def test_a_lost_channel_to_a_living_actor_is_opened_again(client: Harness) -> None:
    peer = alive(client)
    lost = call(client, 1)
    again = call(client, 2, retries=1)
    client.handle(PeerLost(peer))
    later = call(client, 3)
    assert dialled(client)[1:] == [worker_id(0)]
    peer = open_channel(client, 0, peer=300)
    assert isinstance(error_of(client, lost), ActorUnavailableError), "it may have run"
    assert called(client, peer) == [again.task_id, later.task_id]


def test_calls_to_an_actor_that_cannot_be_reached_fail_after_a_while_and_the_next_one_tries(client: Harness) -> None:
    peer = alive(client)
    client.handle(PeerLost(peer))
    record = call(client, 1)
    client.handle(ConnectFailed(worker_id(0), "refused"))
    client.now = NEWS_WITHIN_S * 1.01
    client.handle(DeadlineReached())
    assert isinstance(error_of(client, record), ActorUnavailableError)
    tries = len(dialled(client))
    later = call(client, 2)
    assert len(dialled(client)) == tries + 1
    assert called(client, open_channel(client, 0, peer=300)) == [later.task_id]


def test_news_of_the_next_process_may_come_before_the_loss_of_the_last_one(client: Harness) -> None:
    old = alive(client)
    on_old = call(client, 1, retries=1)
    news(client, "restarting", 1)
    waiting = call(client, 2)
    news(client, "alive", 1)
    assert called(client, old)[1:] == [on_old.task_id], "nothing more for a process that is gone"
    client.handle(PeerLost(old))
    assert called(client, open_channel(client, 1)) == [on_old.task_id, waiting.task_id]


def test_a_channel_of_a_process_that_is_gone_is_waited_for_only_so_long(client: Harness) -> None:
    old = alive(client)
    on_old = call(client, 1)
    news(client, "restarting", 1)
    news(client, "alive", 1)
    waiting = call(client, 2)
    client.now = NEWS_WITHIN_S * 1.01
    client.handle(DeadlineReached())
    assert isinstance(error_of(client, on_old), ActorUnavailableError)
    assert called(client, open_channel(client, 1)) == [waiting.task_id]
    client.handle(PeerLost(old))
