"""What a client's core does about results that were lost."""

from __future__ import annotations

import pickle

import pytest

from atoll.client.core import lineage
from atoll.client.core.events import (
    CancelRequested,
    CreationRequested,
    ObjectMissing,
    ObjectPut,
    ObjectsWanted,
    RefsReleased,
)
from atoll.client.core.records import FAILED, FREED, INLINE, PENDING, STORED, STREAMING, TaskRecord
from atoll.exceptions import ObjectReconstructionFailedError
from atoll.ids import return_id, token_of
from atoll.protocol.channel_messages import (
    AddHold,
    DependencyLost,
    DropHolds,
    FetchObject,
    ObjectValue,
    OpenStream,
    RunTask,
    TaskRaised,
    TaskReturned,
    TasksTakenBack,
    TaskStored,
    TaskYielded,
)
from atoll.protocol.machine import Peer, PeerConnected, PeerLost, Received
from atoll.protocol.messages import CreateActor, DeleteObjects, LeaseLost
from atoll.protocol.values import ActorSpec, ObjectLocation
from tests.client.builders import ME, SCHEDULER, Harness, result_id

AGENT = Peer(2)
OTHER = Peer(77)


@pytest.fixture
def client() -> Harness:
    harness = Harness()
    harness.core.outbox.agent = AGENT
    return harness


def _store(client: Harness, peer: Peer, record: TaskRecord) -> None:
    """Have the task end with a value in the store. Its sequence number is that of the last push of its task."""
    pushed = [message for message in client.sent(RunTask, peer) if message.task_id == record.task_id][-1]
    location = ObjectLocation(result_id(record), b"node", 200_000)
    client.handle(Received(peer, [TaskStored(pushed.sequence, [location], [[]], 5)]))


def _state(client: Harness, record: TaskRecord) -> int | None:
    entry = client.core.objects.entries.get(result_id(record))
    return None if entry is None else entry.state


def _chain(client: Harness) -> tuple[TaskRecord, TaskRecord, Peer]:
    """Run two tasks, the second of which takes the first one's result, to which no ref is left."""
    first = client.submit()
    second = client.submit(dependencies=[result_id(first)], keepalive="refs")
    client.core.objects.refer(result_id(first))  # the ref among the second task's arguments
    peer = client.grant(1)
    _store(client, peer, first)
    client.handle(RefsReleased([result_id(first)]))
    _store(client, peer, second)
    client.handle(RefsReleased([result_id(first)]))
    return first, second, peer


def test_a_lost_result_is_pending_until_its_task_has_run_again(client: Harness) -> None:
    record = client.submit()
    peer = client.grant(1)
    _store(client, peer, record)
    client.handle(ObjectMissing(result_id(record)))
    assert _state(client, record) == PENDING
    assert client.pushed(peer) == [record.task_id] * 2
    _store(client, peer, record)
    assert _state(client, record) == STORED
    client.handle(RefsReleased([result_id(record)]))
    assert not client.core.objects.entries
    assert not client.core.objects.origins


def test_a_result_that_is_small_this_time_is_as_good(client: Harness) -> None:
    record = client.submit()
    peer = client.grant(1)
    _store(client, peer, record)
    client.handle(ObjectMissing(result_id(record)))
    client.handle(Received(peer, [TaskReturned(2, b"small", 5)]))
    assert _state(client, record) == INLINE
    client.handle(RefsReleased([result_id(record)]))
    assert not client.core.objects.entries


def test_what_only_a_task_takes_that_may_run_again_keeps_no_memory(client: Harness) -> None:
    first, second, _peer = _chain(client)
    assert (_state(client, first), _state(client, second)) == (FREED, STORED)
    assert client.sent(DeleteObjects, AGENT) == [DeleteObjects([result_id(first)])]
    client.handle(RefsReleased([result_id(second)]))
    assert not client.core.objects.entries
    assert not client.core.objects.needed


def test_a_chain_runs_again_from_its_beginning_and_its_middle_is_freed_again(client: Harness) -> None:
    first, second, peer = _chain(client)
    client.handle(ObjectMissing(result_id(second)))
    assert client.pushed(peer)[2:] == [first.task_id]
    _store(client, peer, first)
    assert client.pushed(peer)[2:] == [first.task_id, second.task_id]
    assert client.sent(RunTask, peer)[-1].dependencies == [ObjectLocation(result_id(first), b"node", 200_000)]
    _store(client, peer, second)
    assert (_state(client, first), _state(client, second)) == (FREED, STORED)
    client.handle(RefsReleased([result_id(second)]))
    assert not client.core.objects.entries


def test_a_lost_result_that_refers_to_what_its_task_takes_is_computed_from_it(client: Harness) -> None:
    first = client.submit()
    second = client.submit(dependencies=[result_id(first)], keepalive="refs")
    client.core.objects.refer(result_id(first))  # the ref among the second task's arguments
    peer = client.grant(1)
    _store(client, peer, first)
    location = ObjectLocation(result_id(second), b"node", 200_000)
    client.handle(Received(peer, [TaskStored(2, [location], [[result_id(first)]], 5)]))
    client.handle(RefsReleased([result_id(first)] * 2))
    assert _state(client, first) == STORED
    client.handle(ObjectMissing(result_id(second)))
    assert _state(client, first) == STORED, "it is taken at once by what runs again"
    assert client.pushed(peer)[2:] == [second.task_id]


def test_a_retry_is_spent_each_time_and_without_one_it_is_lost(client: Harness) -> None:
    record = client.submit(retries_left=1)
    peer = client.grant(1)
    _store(client, peer, record)
    client.handle(ObjectMissing(result_id(record)))
    _store(client, peer, record)
    client.handle(ObjectMissing(result_id(record)))
    assert _state(client, record) == FAILED
    with pytest.raises(ObjectReconstructionFailedError, match="add has no retry left"):
        raise pickle.loads(client.result(record).value)


def test_what_was_put_is_lost(client: Harness) -> None:
    put = return_id(client.task().task_id, 0)
    client.handle(ObjectPut(put, ObjectLocation(put, b"node", 200_000), []))
    client.handle(ObjectMissing(put))
    with pytest.raises(ObjectReconstructionFailedError, match="it was put"):
        raise pickle.loads(client.core.objects.entries[put].value)  # type: ignore[arg-type]


def test_a_task_that_could_not_begin_waits_for_what_was_lost(client: Harness) -> None:
    first = client.submit()
    peer = client.grant(1)
    _store(client, peer, first)
    second = client.submit(dependencies=[result_id(first)], retries_left=0)
    third = client.submit(dependencies=[result_id(first)])
    assert client.pushed(peer)[1:] == [second.task_id]
    client.handle(Received(peer, [DependencyLost(second.sequence, [result_id(first)])]))
    assert client.pushed(peer)[2:] == [first.task_id]
    _store(client, peer, first)
    assert set(client.pushed(peer)[3:]) <= {second.task_id, third.task_id}
    assert second.attempt == 0
    client.answer(peer, 4)
    assert sorted(client.pushed(peer)[3:]) == [second.task_id, third.task_id]


def test_a_borrower_asks_the_owner_who_has_it_computed_again_once(client: Harness) -> None:
    record = client.submit()
    peer = client.grant(1)
    _store(client, peer, record)
    client.handle(PeerConnected(OTHER, "worker", b"another_"))
    client.handle(Received(OTHER, [FetchObject(1, result_id(record), True)]))
    assert client.pushed(peer) == [record.task_id] * 2
    assert not client.sent(ObjectValue, OTHER)
    client.now = 1.0
    _store(client, peer, record)
    location = ObjectLocation(result_id(record), b"node", 200_000)
    assert client.sent(ObjectValue, OTHER) == [ObjectValue(1, location)]
    client.now += lineage.SAME_LOSS_S / 2
    client.handle(Received(OTHER, [FetchObject(2, result_id(record), True)]))
    assert client.sent(ObjectValue, OTHER)[1:] == [ObjectValue(2, location)]
    assert client.pushed(peer) == [record.task_id] * 2
    client.now += lineage.SAME_LOSS_S
    client.handle(Received(OTHER, [FetchObject(3, result_id(record), True)]))
    assert client.pushed(client.grant(1)) == [record.task_id] * 3


def test_a_borrower_waits_again(client: Harness) -> None:
    borrowed = b"another_00000001" + bytes(4)
    client.handle(PeerConnected(OTHER, "worker", b"another_"))
    client.core.objects.refer(borrowed)
    client.handle(ObjectsWanted([borrowed]))
    (fetch,) = client.sent(FetchObject, OTHER)
    client.handle(Received(OTHER, [ObjectValue(fetch.request, ObjectLocation(borrowed, b"node", 200_000))]))
    client.handle(ObjectMissing(borrowed))
    assert client.core.objects.entries[borrowed].state == PENDING
    again = client.sent(FetchObject, OTHER)[-1]
    assert again.lost
    assert again.object_id == borrowed


def test_the_oldest_are_given_up_when_all_take_too_much(client: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage, "MAXIMUM_BYTES", 3 * lineage.RECORD_BYTES)
    records = []
    peer = Peer(0)
    for _number in range(5):
        records.append(client.submit())
        peer = peer or client.grant(1)
        _store(client, peer, records[-1])
    assert len(client.core.objects.origins) == 3
    client.handle(ObjectMissing(result_id(records[0])))
    assert _state(client, records[0]) == FAILED
    client.handle(ObjectMissing(result_id(records[4])))
    assert _state(client, records[4]) == PENDING


def test_a_long_chain_is_forgotten_without_recursion(client: Harness) -> None:
    record = client.submit()
    peer = client.grant(1)
    _store(client, peer, record)
    for _number in range(3000):
        earlier = record
        client.core.objects.refer(result_id(earlier))
        record = client.task(dependencies=[result_id(earlier)], keepalive="refs")
        client.core.objects.expect(result_id(record), record)
        client.core.tasks.submit(record, client.now)  # type: ignore[arg-type]
        client.actions.extend(client.core.outbox.take())
        location = ObjectLocation(result_id(record), b"node", 200_000)
        client.core.handle(Received(peer, [TaskStored(record.sequence, [location], [[]], 5)]), client.now)  # type: ignore[arg-type]
        client.core.handle(RefsReleased([result_id(earlier)] * 2), client.now)  # type: ignore[arg-type]
    assert len(client.core.objects.needed) == 3000
    client.handle(RefsReleased([result_id(record)]))
    assert not client.core.objects.entries
    assert not client.core.objects.needed


def test_a_handle_among_the_arguments_keeps_no_actor_alive(client: Harness) -> None:
    actor = b"driver__" + (999).to_bytes(8, "big")
    token = token_of(actor)
    client.core.objects.add_token(token)
    record = client.submit(inside=[token])
    _store(client, client.grant(1), record)
    client.handle(RefsReleased([token]))
    assert token not in client.core.objects.entries


def test_an_object_of_another_process_is_not_kept_for_a_task_that_may_run_again(client: Harness) -> None:
    borrowed = b"another_00000001" + bytes(4)
    client.handle(PeerConnected(OTHER, "worker", b"another_"))
    client.core.objects.refer(borrowed)
    record = client.submit(dependencies=[borrowed])
    (fetch,) = client.sent(FetchObject, OTHER)
    client.handle(Received(OTHER, [ObjectValue(fetch.request, ObjectLocation(borrowed, inline=b"1"))]))
    _store(client, client.grant(1), record)
    client.handle(RefsReleased([borrowed]))
    assert borrowed not in client.core.objects.entries
    client.handle(ObjectMissing(result_id(record)))
    with pytest.raises(ObjectReconstructionFailedError, match="of another process"):
        raise pickle.loads(client.result(record).value)


def test_a_task_that_was_cancelled_and_could_not_begin_leaves_its_worker_free(client: Harness) -> None:
    first = client.submit()
    peer = client.grant(1)
    _store(client, peer, first)
    second = client.submit(dependencies=[result_id(first)])
    client.handle(CancelRequested(result_id(second), False))
    client.handle(Received(peer, [DependencyLost(second.sequence, [result_id(first)])]))
    assert _state(client, second) == FAILED
    assert list(client.core.tasks.leases[1].outstanding) == [3], "nothing but the first task, which runs again"


def test_a_task_that_is_tried_again_waits_for_what_was_lost_meanwhile(client: Harness) -> None:
    first = client.submit()
    peer = client.grant(1)
    _store(client, peer, first)
    second = client.submit(dependencies=[result_id(first)], retry_exceptions=True)
    client.handle(ObjectMissing(result_id(first)))
    other = client.grant(2)
    client.handle(Received(peer, [TaskRaised(second.sequence, b"error", 5, True)]))
    assert client.pushed(peer).count(second.task_id) + client.pushed(other).count(second.task_id) == 1
    where = peer if client.pushed(peer).count(first.task_id) == 2 else other
    _store(client, where, first)
    assert client.pushed(peer).count(second.task_id) + client.pushed(other).count(second.task_id) == 2


def test_a_task_waits_again_for_what_was_lost_while_it_waited_for_something_else(client: Harness) -> None:
    first, second = client.submit(), client.submit()
    peer = client.grant(1)
    both = client.submit(dependencies=[result_id(first), result_id(second)])
    _store(client, peer, first)
    client.handle(ObjectMissing(result_id(first)))
    client.grant(2)
    client.answer(peer, 2)
    assert _state(client, second) == INLINE
    assert both.peer is None


def test_an_actor_waits_again_for_what_was_lost_while_it_waited_for_something_else(client: Harness) -> None:
    first, second = client.submit(), client.submit()
    peer = client.grant(1)
    actor = ME + (999).to_bytes(8, "big")
    record = client.task(actor_id=actor, dependencies=[result_id(first), result_id(second)], returns=0)
    spec = ActorSpec(actor, "", "", "Counter", client.shape, b"")
    client.core.objects.add_token(token_of(actor))
    client.handle(CreationRequested(record, CreateActor(77, ME, spec), b"code"))
    _store(client, peer, first)
    client.handle(ObjectMissing(result_id(first)))
    client.answer(peer, 2)
    assert not client.sent(CreateActor)
    _store(client, peer, first)
    assert len(client.sent(CreateActor)) == 1


def _two_results(client: Harness, peer: Peer, record: TaskRecord) -> list[bytes]:
    """Have a task with two results end, and return their ids. Those that are kept it does not make again."""
    pushed = [message for message in client.sent(RunTask, peer) if message.task_id == record.task_id][-1]
    names = [return_id(record.task_id, index) for index in range(2)]
    values = [
        ObjectLocation(name) if index in pushed.kept else ObjectLocation(name, b"node", 200_000)
        for index, name in enumerate(names)
    ]
    client.handle(Received(peer, [TaskStored(pushed.sequence, values, [[], []], 5)]))
    return names


def test_a_task_that_runs_again_makes_only_what_is_missing(client: Harness) -> None:
    record = client.submit(returns=2)
    peer = client.grant(1)
    one, other = _two_results(client, peer, record)
    contained = b"another_00000001" + bytes(4)
    client.core.objects.entries[other].contained = [contained]
    client.core.objects.refer(contained)
    client.handle(ObjectMissing(one))
    assert [message.kept for message in client.sent(RunTask, peer)] == [[], [1]]
    _two_results(client, peer, record)
    assert {client.core.objects.entries[name].state for name in (one, other)} == {STORED}
    assert client.core.objects.entries[other].value == ObjectLocation(other, b"node", 200_000)
    assert client.core.objects.entries[other].contained == [contained]


def test_a_task_that_runs_again_does_not_make_what_nobody_wants_any_more(client: Harness) -> None:
    record = client.submit(returns=2)
    peer = client.grant(1)
    one, other = _two_results(client, peer, record)
    client.handle(RefsReleased([other]))
    client.handle(ObjectMissing(one))
    assert client.sent(RunTask, peer)[-1].kept == [1]
    _two_results(client, peer, record)
    assert list(client.core.objects.entries) == [one]


def test_what_is_lost_while_its_task_runs_again_for_another_comes_with_the_next_run(client: Harness) -> None:
    record = client.submit(returns=2)
    peer = client.grant(1)
    one, other = _two_results(client, peer, record)
    client.handle(ObjectMissing(one))
    client.handle(ObjectMissing(other))
    assert client.pushed(peer) == [record.task_id] * 2
    assert client.core.objects.entries[other].producer is client.core.objects.entries[one].producer is not None
    _two_results(client, peer, record)
    assert [client.core.objects.entries[name].state for name in (one, other)] == [STORED, PENDING]
    assert [message.kept for message in client.sent(RunTask, peer)] == [[], [1], [0]]
    _two_results(client, peer, record)
    assert {client.core.objects.entries[name].state for name in (one, other)} == {STORED}


def test_what_was_freed_while_its_task_runs_again_is_waited_for(client: Harness) -> None:
    record = client.submit(returns=2)
    peer = client.grant(1)
    one, other = _two_results(client, peer, record)
    taker = client.submit(dependencies=[other], keepalive="refs")
    client.core.objects.refer(other)  # the ref among the taker's arguments
    client.handle(ObjectMissing(one))
    client.handle(RefsReleased([other]))
    _store(client, peer, taker)
    client.handle(RefsReleased([other]))
    assert client.core.objects.entries[other].state == FREED
    client.handle(ObjectMissing(result_id(taker)))
    assert client.core.objects.entries[other].state == PENDING
    assert client.pushed(peer) == [record.task_id, taker.task_id, record.task_id]
    _two_results(client, peer, record)
    assert client.pushed(peer)[3:] == [record.task_id], "it has not made what was freed after it had begun"
    _two_results(client, peer, record)
    assert client.pushed(peer)[4:] == [taker.task_id]
    _store(client, peer, taker)
    assert (client.core.objects.entries[other].state, _state(client, taker)) == (FREED, STORED)


def _yield(client: Harness, peer: Peer, record: TaskRecord, *indexes: int) -> list[bytes]:
    """Have a generator yield values into the store and end. Returns their ids."""
    pushed = [message for message in client.sent(RunTask, peer) if message.task_id == record.task_id][-1]
    names = [return_id(record.task_id, index + 1) for index in indexes]
    for index, name in zip(indexes, names, strict=True):
        value = ObjectLocation(name, b"node", 200_000)
        client.handle(Received(peer, [TaskYielded(pushed.sequence, index, value, [])]))
    whole = ObjectLocation(result_id(record), inline=b"N.")
    client.handle(Received(peer, [TaskStored(pushed.sequence, [whole], [[]], 5)]))
    return names


def test_a_value_that_is_lost_while_its_generator_runs_again_for_another_comes_with_the_next_run(
    client: Harness,
) -> None:
    record = client.submit(returns=STREAMING)
    peer = client.grant(1)
    one, other = _yield(client, peer, record, 0, 1)
    client.handle(ObjectMissing(one))
    client.handle(ObjectMissing(other))
    assert client.pushed(peer) == [record.task_id] * 2
    _yield(client, peer, record, 0)
    assert [client.core.objects.entries[name].state for name in (one, other)] == [STORED, PENDING]
    assert client.sent(OpenStream, peer)[-1].replayed == [1]
    _yield(client, peer, record, 1)
    assert [client.core.objects.entries[name].state for name in (one, other)] == [STORED, STORED]


def _freed(client: Harness) -> tuple[TaskRecord, Peer]:
    """Return a task whose result nobody refers to any more and another task's result needs."""
    first, _second, peer = _chain(client)
    assert _state(client, first) == FREED
    return first, peer


def test_a_freed_object_that_a_process_taken_for_dead_refers_to_is_computed_again(client: Harness) -> None:
    first, peer = _freed(client)
    client.core.objects.refer(result_id(first))  # a value with the ref inside has come
    client.handle(ObjectsWanted([result_id(first)]))
    assert client.pushed(peer)[-1] == first.task_id
    _store(client, peer, first)
    assert _state(client, first) == STORED


def test_a_freed_object_that_is_inside_of_a_value_is_computed_again(client: Harness) -> None:
    first, peer = _freed(client)
    record = client.submit()
    pushed = client.sent(RunTask, peer)[-1]
    assert pushed.task_id == record.task_id
    outer = ObjectLocation(result_id(record), inline=b"N.")
    client.handle(Received(peer, [TaskStored(pushed.sequence, [outer], [[result_id(first)]], 5)]))
    _store(client, peer, first)
    assert _state(client, first) == STORED
    client.handle(RefsReleased([result_id(record)]))
    assert _state(client, first) == FREED


def test_a_freed_object_gets_a_holder_again_and_is_computed_again(client: Harness) -> None:
    first, peer = _freed(client)
    client.handle(PeerConnected(OTHER, "worker", b"other___"))
    client.handle(Received(OTHER, [AddHold(9, result_id(first), b"other___")]))
    _store(client, peer, first)
    assert _state(client, first) == STORED


def test_a_freed_object_whose_new_ref_goes_at_once_is_freed_again_and_not_computed(client: Harness) -> None:
    first, peer = _freed(client)
    before = client.pushed(peer)
    client.core.objects.refer(result_id(first))
    client.handle(RefsReleased([result_id(first)]))
    assert _state(client, first) == FREED
    assert client.pushed(peer) == before


def test_a_ref_to_an_own_object_that_is_gone_is_an_error_and_not_an_endless_wait(client: Harness) -> None:
    record = client.submit()
    peer = client.grant(1)
    client.answer(peer, 1)
    client.handle(RefsReleased([result_id(record)]))
    assert _state(client, record) is None
    client.core.objects.refer(result_id(record))
    client.handle(ObjectsWanted([result_id(record)]))
    assert _state(client, record) == FAILED
    client.handle(RefsReleased([result_id(record)]))
    assert client.core.statistics().objects == 0


def _deleted(client: Harness) -> list[bytes]:
    return [object_id for message in client.sent(DeleteObjects, AGENT) for object_id in message.object_ids]


def test_what_an_attempt_had_stored_before_its_worker_died_is_given_back_when_there_is_no_other(
    client: Harness,
) -> None:
    record = client.submit(returns=2, retries_left=1)
    for number in (1, 2):
        client.handle(PeerLost(client.grant(number)))
        client.handle(Received(SCHEDULER, LeaseLost(number, "WorkerCrashedError", "gone")))
        assert _deleted(client) == ([] if number == 1 else [result_id(record, 0), result_id(record, 1)])
    assert _state(client, record) == FAILED


def test_what_an_attempt_had_stored_is_given_back_when_the_next_has_a_small_value(client: Harness) -> None:
    record = client.submit(returns=2)
    client.handle(PeerLost(client.grant(1)))
    client.handle(Received(SCHEDULER, LeaseLost(1, "WorkerCrashedError", "gone")))
    names = [result_id(record, index) for index in range(2)]
    values = [ObjectLocation(names[0], inline=b"N."), ObjectLocation(names[1], b"node", 200_000)]
    client.handle(Received(client.grant(2), [TaskStored(1, values, [[], []], 5)]))
    assert _deleted(client) == names[:1]


def test_a_task_that_fails_when_it_runs_again_leaves_what_is_there(client: Harness) -> None:
    record = client.submit(returns=2, retries_left=1)
    peer = client.grant(1)
    one, other = _two_results(client, peer, record)
    client.handle(ObjectMissing(one))
    client.handle(PeerLost(peer))
    client.handle(Received(SCHEDULER, LeaseLost(1, "WorkerCrashedError", "gone")))
    assert client.core.objects.entries[one].state == FAILED
    assert client.core.objects.entries[other].state == STORED
    assert _deleted(client) == [one]


def test_refs_in_the_values_of_an_attempt_that_is_tried_again_are_given_up(client: Harness) -> None:
    client.submit(returns=2, retry_exceptions=True)
    peer = client.grant(1)
    client.handle(PeerConnected(OTHER, "worker", b"other___"))
    inside = b"other___" + bytes(12)
    [pushed] = client.sent(RunTask, peer)
    first = ObjectLocation(return_id(pushed.task_id, 0), b"node", 200_000)
    client.handle(Received(peer, [TaskRaised(pushed.sequence, b"error", 5, values=[first], contained=[[inside]])]))
    assert len(client.sent(RunTask, peer)) == 2
    assert client.sent(DropHolds, OTHER) == [DropHolds([inside])], "this process was registered as its holder"


@pytest.mark.parametrize("several", [False, True])
def test_a_large_value_of_a_worker_that_died_is_given_back_when_the_next_attempt_returns_a_small_one(
    client: Harness, several: bool
) -> None:
    """Also where no attempt is counted: of several tasks on a lost worker none is said to be the cause."""
    first = client.submit()
    worker = client.grant(1)
    client.answer(worker, 1, microseconds=2)
    record = client.submit()
    if several:
        client.submit()
    client.handle(PeerLost(worker))
    client.handle(Received(SCHEDULER, LeaseLost(1, "WorkerCrashedError", "killed by signal 9")))
    again = client.grant(2)
    (message,) = client.sent(RunTask, again)
    assert (message.task_id, message.attempt) == (record.task_id, 2), "what the store is told of it"
    assert _deleted(client) == []
    client.answer(again, message.sequence)
    assert _deleted(client) == [result_id(record)]
    assert client.result(first).state == INLINE


def test_a_task_that_was_taken_back_unbegun_costs_no_attempt_and_no_message(client: Harness) -> None:
    first = client.submit()
    worker = client.grant(1)
    client.answer(worker, 1, microseconds=2)
    records = [client.submit() for _ in range(3)]
    client.handle(Received(worker, [TasksTakenBack([4])]))
    assert [message.attempt for message in client.sent(RunTask) if message.task_id == records[2].task_id] == [1, 1]
    client.answer(worker, 2, 3, 5)
    assert _deleted(client) == []
    assert client.result(first).state == INLINE


def test_a_task_that_runs_again_for_a_lost_result_goes_on_counting(client: Harness) -> None:
    record = client.submit()
    worker = client.grant(1)
    client.handle(Received(worker, [TaskStored(1, [ObjectLocation(result_id(record), b"node", 200_000)], [[]], 5)]))
    client.handle(ObjectMissing(result_id(record)))
    assert [message.attempt for message in client.sent(RunTask)] == [1, 2]
