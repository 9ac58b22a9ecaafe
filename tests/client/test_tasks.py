"""Tasks on leased workers: events in, actions out."""

from __future__ import annotations

import pickle

import pytest

from atoll.client.core.dispatch import KEEP_IDLE_S, MAXIMUM_DEPTH, STALLED_S
from atoll.client.core.events import (
    AnnounceObjects,
    CancelRequested,
    CreationRequested,
    DemandsRefused,
    MethodCalled,
    ObjectsWanted,
    RefsReleased,
    SchedulerLinked,
    ShowOutput,
)
from atoll.client.core.records import FAILED, INLINE, PENDING
from atoll.client.core.tasks import CAUSE_WITHIN_S
from atoll.exceptions import (
    InternalError,
    OutOfMemoryError,
    TaskCancelledError,
    TaskUnschedulableError,
    WorkerCrashedError,
)
from atoll.ids import TaskId
from atoll.protocol.channel_messages import (
    CancelTask,
    DeclareFunction,
    FetchObject,
    ObjectValue,
    RunTask,
    TakeBackTasks,
    TaskOutput,
    TaskRaised,
    TaskReturned,
    TasksTakenBack,
    WorkerRetires,
)
from atoll.protocol.machine import DeadlineReached, Event, Peer, PeerConnected, PeerLost, Received, Send
from atoll.protocol.messages import (
    PREEMPTED,
    CreateActor,
    DemandRefused,
    Failed,
    LeaseGranted,
    LeaseLost,
    LeaseRecalled,
    ReturnLease,
    SetDemand,
)
from atoll.protocol.values import ActorSpec, MemoryLoss, ObjectLocation
from tests.client.builders import ME, SCHEDULER, Harness, result_id, worker_id

GIB = 2**30


@pytest.fixture
def client() -> Harness:
    return Harness()


def test_a_task_asks_for_a_lease_and_goes_to_its_worker(client: Harness) -> None:
    record = client.submit()
    assert client.demands() == [1]
    peer = client.grant(1)
    assert client.pushed(peer) == [record.task_id]
    assert [declared.name for declared in client.sent(DeclareFunction, peer)] == ["add"]
    client.answer(peer, 1, value=b"value")
    assert (client.result(record).state, client.result(record).value) == (INLINE, b"value")


def test_code_travels_once_a_channel(client: Harness) -> None:
    client.submit()
    peer = client.grant(1)
    client.answer(peer, 1)
    client.submit()
    assert len(client.pushed(peer)) == 2
    assert len(client.sent(DeclareFunction, peer)) == 1


def test_nothing_is_queued_behind_a_task_of_unknown_length(client: Harness) -> None:
    first, second = client.submit(), client.submit()
    peer = client.grant(1)
    assert client.pushed(peer) == [first.task_id]
    assert client.result(second).state == PENDING


def test_short_tasks_queue_deep_and_long_ones_do_not(client: Harness) -> None:
    client.submit()
    peer = client.grant(1)
    client.answer(peer, 1, microseconds=2)
    for _ in range(400):
        client.submit()
    assert len(client.pushed(peer)) == 1 + MAXIMUM_DEPTH

    slow = Harness()
    slow.submit()
    peer = slow.grant(1)
    slow.answer(peer, 1, microseconds=200_000)
    for _ in range(10):
        slow.submit()
    assert len(slow.pushed(peer)) == 2


def measured(client: Harness, *, milliseconds: int, workers: int = 1) -> list[Peer]:
    """Have a class whose tasks take so long, on so many workers that have nothing to do."""
    for _ in range(workers):
        client.submit()
    peers = [client.grant(number) for number in range(1, workers + 1)]
    for peer in peers:
        client.answer(peer, 1, microseconds=milliseconds * 1000)
    return peers


def test_one_task_of_some_milliseconds_waits_ahead_and_still_asks_for_a_lease(client: Harness) -> None:
    (one,) = measured(client, milliseconds=20)
    for _ in range(3):
        client.submit()
    assert len(client.pushed(one)) == 1 + 2, "the worker has the next one when it is done"
    assert client.demands()[-1] >= 2, "what waits ahead would rather run elsewhere"
    client.answer(one, 2, 3, 4, microseconds=20_000)
    assert client.demands()[-1] == 0


def test_a_new_worker_takes_what_waits_ahead_at_another(client: Harness) -> None:
    (one,) = measured(client, milliseconds=20)
    _running, waiting = client.submit(), client.submit()
    two = client.grant(2)
    assert client.sent(TakeBackTasks, one) == [TakeBackTasks(1)]
    client.handle(Received(one, [TasksTakenBack([3])]))
    assert client.pushed(two) == [waiting.task_id]


def test_a_worker_that_runs_dry_takes_what_waits_ahead_at_another(client: Harness) -> None:
    one, two = measured(client, milliseconds=20, workers=2)
    for _ in range(4):
        client.submit()
    assert (len(client.pushed(one)), len(client.pushed(two))) == (1 + 2, 1 + 2)
    client.answer(two, 2, 3, microseconds=20_000)
    assert client.sent(TakeBackTasks, one) == [TakeBackTasks(1)]


def test_a_worker_whose_task_takes_far_longer_than_others_gives_back_the_next(client: Harness) -> None:
    (one,) = measured(client, milliseconds=20)
    for _ in range(2):
        client.submit()
    client.now += 0.059
    client.handle(DeadlineReached())
    assert client.sent(TakeBackTasks, one) == []
    client.now += 0.002
    client.handle(DeadlineReached())
    assert client.sent(TakeBackTasks, one) == [TakeBackTasks(1)]
    client.handle(Received(one, [TasksTakenBack([3])]))
    client.submit()
    assert len(client.pushed(one)) == 1 + 2, "nothing more goes to a worker that does not answer"


def test_a_task_without_retries_is_alone_on_its_worker(client: Harness) -> None:
    client.submit()
    peer = client.grant(1)
    client.answer(peer, 1, microseconds=2)
    client.submit()
    client.submit(retries_left=0)
    client.submit()
    assert len(client.pushed(peer)) == 2, "not behind another"
    client.answer(peer, 2)
    assert len(client.pushed(peer)) == 3, "and nothing behind it: what crashes there would be taken for its crash"
    client.answer(peer, 3)
    assert len(client.pushed(peer)) == 4


def test_a_stalled_worker_gives_back_what_waits_behind_its_task(client: Harness) -> None:
    client.submit()
    one = client.grant(1)
    client.answer(one, 1, microseconds=2)
    records = [client.submit() for _ in range(5)]
    assert len(client.pushed(one)) == 6
    client.now += STALLED_S * 1.01
    client.handle(DeadlineReached())
    assert client.sent(TakeBackTasks, one) == [TakeBackTasks(4)]
    client.handle(Received(one, [TasksTakenBack([3, 4, 5, 6])]))
    assert len(client.pushed(one)) == 6, "nothing more goes to a worker that does not answer"
    assert client.demands()[-1] == 1, "another lease is asked for"
    two = client.grant(2)
    assert client.pushed(two) == [record.task_id for record in records[1:]]


def test_an_idle_worker_shares_a_long_queue_of_short_tasks(client: Harness) -> None:
    client.submit()
    client.submit()
    one, two = client.grant(1), client.grant(2)
    client.answer(one, 1, microseconds=2)
    for _ in range(40):
        client.submit()
    assert len(client.pushed(one)) + len(client.pushed(two)) == 42
    client.answer(two, *range(1, len(client.pushed(two)) + 1), microseconds=2)
    assert client.sent(TakeBackTasks, one) == [TakeBackTasks((len(client.pushed(one)) - 1) // 2)]


def test_what_is_taken_back_goes_first_to_the_other_worker(client: Harness) -> None:
    client.submit()
    one = client.grant(1)
    client.answer(one, 1, microseconds=2)
    records = [client.submit() for _ in range(4)]
    client.handle(Received(SCHEDULER, LeaseRecalled(1)))
    assert client.sent(TakeBackTasks, one)
    client.handle(Received(one, [TasksTakenBack([4, 5])]))
    two = client.grant(2)
    client.answer(two, 1)
    assert client.pushed(two) == [records[2].task_id, records[3].task_id]


def test_a_recalled_lease_is_returned_when_it_has_drained(client: Harness) -> None:
    client.submit()
    peer = client.grant(1)
    client.handle(Received(SCHEDULER, LeaseRecalled(1)))
    assert client.sent(ReturnLease) == []
    client.answer(peer, 1)
    assert client.sent(ReturnLease) == [ReturnLease(1)]


def test_an_idle_lease_is_kept_a_while_and_then_returned(client: Harness) -> None:
    client.submit()
    peer = client.grant(1)
    client.answer(peer, 1)
    deadline = client.core.next_deadline()
    assert deadline == pytest.approx(KEEP_IDLE_S)
    client.now = KEEP_IDLE_S * 1.01
    client.handle(DeadlineReached())
    assert client.sent(ReturnLease) == [ReturnLease(1)]
    assert client.core.next_deadline() is None


def test_a_lease_that_was_returned_to_a_dead_scheduler_is_returned_to_its_successor(client: Harness) -> None:
    client.submit()
    peer = client.grant(1)
    client.handle(PeerLost(SCHEDULER))
    client.answer(peer, 1)
    client.now = KEEP_IDLE_S * 1.01
    client.handle(DeadlineReached())
    assert client.sent(ReturnLease) == [], "nobody listened"
    client.handle(SchedulerLinked(Peer(9)))
    found = LeaseGranted(0, 1, worker_id(1), "/w1", b"node", "here", [])
    client.handle(Received(Peer(9), found))
    assert client.sent(ReturnLease, Peer(9)) == [ReturnLease(1)]


def test_a_lease_that_is_still_in_use_is_kept_when_a_restarted_scheduler_finds_it(client: Harness) -> None:
    client.submit()
    client.grant(1)
    client.handle(PeerLost(SCHEDULER))
    client.handle(SchedulerLinked(Peer(9)))
    client.handle(Received(Peer(9), LeaseGranted(0, 1, worker_id(1), "/w1", b"node", "here", [])))
    assert client.sent(ReturnLease) == []
    assert client.core.statistics().leases == 1


def test_a_lost_worker_costs_the_only_task_on_it_an_attempt(client: Harness) -> None:
    record = client.submit(retries_left=1)
    peer = client.grant(1)
    client.handle(PeerLost(peer))
    client.handle(Received(SCHEDULER, LeaseLost(1, "WorkerCrashedError", "killed by signal 9")))
    assert client.pushed(client.grant(2)) == [record.task_id]
    assert (record.retries_left, record.attempt) == (0, 1)


def test_a_task_that_ran_out_of_memory_is_run_again_with_more_at_no_charge(client: Harness) -> None:
    record = client.submit(retries_left=1)
    peer = client.grant(1)
    loss = MemoryLoss(used_bytes=3 * GIB, asked_bytes=0, advised_bytes=4 * GIB, again_bytes=4 * GIB)
    client.handle(PeerLost(peer))
    client.handle(Received(SCHEDULER, LeaseLost(1, "OutOfMemoryError", "the host was full", loss)))
    demand = client.sent(SetDemand)[-1]
    assert demand.scheduling_class.resources["memory"] == 4 * GIB * 10_000
    assert demand.scheduling_class.auto == ["memory"], "that is a guess: more will do, too"
    assert (record.retries_left, record.attempt) == (1, 1)
    assert client.pushed(client.grant(2, demand.demand_key)) == [record.task_id]


@pytest.mark.parametrize(("again", "retries"), [(0, 3), (4 * GIB, 0)])
def test_a_task_that_would_run_out_again_or_must_not_run_twice_fails_and_says_what_to_do(
    client: Harness, again: int, retries: int
) -> None:
    record = client.submit(retries_left=retries)
    peer = client.grant(1)
    loss = MemoryLoss(used_bytes=3 * GIB, asked_bytes=2 * GIB, advised_bytes=4 * GIB, again_bytes=again)
    client.handle(PeerLost(peer))
    client.handle(Received(SCHEDULER, LeaseLost(1, "OutOfMemoryError", 'Ask for more: memory="4G"', loss)))
    entry = client.result(record)
    assert entry.state == FAILED
    with pytest.raises(OutOfMemoryError, match='Ask for more: memory="4G"') as caught:
        raise pickle.loads(entry.value)
    assert (caught.value.used_bytes, caught.value.asked_bytes) == (3 * GIB, 2 * GIB)
    assert caught.value.advised_bytes == 4 * GIB


def test_of_several_tasks_on_a_lost_worker_none_pays_and_each_is_tried_again_alone(client: Harness) -> None:
    """The first may have ended without its answer having been sent, so it is not known which one was the cause."""
    client.submit()
    peer = client.grant(1)
    client.answer(peer, 1, microseconds=2)
    records = [client.submit(retries_left=1) for _ in range(3)]
    client.handle(PeerLost(peer))
    client.handle(Received(SCHEDULER, LeaseLost(1, "WorkerCrashedError", "killed by signal 9")))
    again = client.grant(2)
    for number, record in enumerate(records):
        assert client.pushed(again)[number:] == [record.task_id]
        client.answer(again, number + 1, microseconds=2)
    assert [record.retries_left for record in records] == [1, 1, 1]


def test_a_cancelled_task_on_a_lost_worker_is_not_tried_again(client: Harness) -> None:
    client.submit()
    peer = client.grant(1)
    client.answer(peer, 1, microseconds=2)
    first, second = client.submit(), client.submit()
    client.handle(CancelRequested(result_id(second), force=False))
    client.handle(PeerLost(peer))
    client.handle(Received(SCHEDULER, LeaseLost(1, "WorkerCrashedError", "killed by signal 9")))
    assert client.result(second).state == FAILED
    assert client.pushed(client.grant(2)) == [first.task_id]


def test_a_task_out_of_retries_fails_with_the_cause_and_its_neighbours_go_on(client: Harness) -> None:
    client.submit()
    peer = client.grant(1)
    client.answer(peer, 1, microseconds=2)
    doomed = client.submit(retries_left=0)
    neighbour = client.submit()
    client.handle(PeerLost(peer))
    client.handle(Received(SCHEDULER, LeaseLost(1, "WorkerCrashedError", "killed by signal 9")))
    entry = client.result(doomed)
    assert entry.state == FAILED
    with pytest.raises(WorkerCrashedError, match="killed by signal 9"):
        raise pickle.loads(entry.value)
    assert client.result(neighbour).state == PENDING


def test_a_lost_worker_without_a_word_from_the_scheduler_is_given_up_after_a_while(client: Harness) -> None:
    record = client.submit(retries_left=0)
    peer = client.grant(1)
    client.handle(PeerLost(peer))
    assert client.result(record).state == PENDING
    client.now = CAUSE_WITHIN_S * 1.01
    client.handle(DeadlineReached())
    assert client.result(record).state == FAILED


def test_answers_that_are_still_in_the_channel_count_although_the_lease_is_lost(client: Harness) -> None:
    record = client.submit(retries_left=0)
    peer = client.grant(1)
    client.handle(Received(SCHEDULER, LeaseLost(1, "WorkerCrashedError", "gone")))
    client.answer(peer, 1, value=b"in time")
    client.handle(PeerLost(peer))
    assert client.result(record).value == b"in time"


def test_a_demand_that_can_never_be_met_fails_its_tasks(client: Harness) -> None:
    record = client.submit()
    client.handle(
        Received(SCHEDULER, DemandRefused(client.key, "TaskUnschedulableError", "the largest node has 2 CPU"))
    )
    with pytest.raises(TaskUnschedulableError, match="the largest node has 2 CPU"):
        raise pickle.loads(client.result(record).value)


def test_cancel_before_it_began_and_while_it_runs(client: Harness) -> None:
    running, waiting = client.submit(), client.submit()
    peer = client.grant(1)
    client.handle(CancelRequested(result_id(waiting), False))
    with pytest.raises(TaskCancelledError):
        raise pickle.loads(client.result(waiting).value)
    client.handle(CancelRequested(result_id(running), True))
    assert client.sent(CancelTask, peer) == [CancelTask(1, True, True, running.task_id)]
    assert client.result(running).state == PENDING


def test_cancelling_a_task_that_runs_here_cancels_what_it_has_submitted(client: Harness) -> None:
    """The message comes to the worker of the parent, whose own core has submitted the children."""
    parent = TaskId(b"another_00000001")
    child, other, waiting = (client.submit(parent=who) for who in (parent, b"", parent))
    peer = client.grant(1)
    client.handle(PeerConnected(Peer(77), "", b"another_"))
    client.handle(Received(Peer(77), [CancelTask(5, False, False, parent)]))
    assert not client.sent(CancelTask, peer)
    client.handle(Received(Peer(77), [CancelTask(5, False, True, parent)]))
    assert client.sent(CancelTask, peer) == [CancelTask(1, False, True, child.task_id)]
    assert client.result(waiting).state == FAILED
    assert client.result(other).state == PENDING


def test_a_worker_that_retires_gets_nothing_more_and_is_not_used_again(client: Harness) -> None:
    first, second = client.submit(), client.submit()
    peer = client.grant(1)
    client.handle(Received(peer, [WorkerRetires(), TaskReturned(1, b"1", 10)]))
    assert client.result(first).state == INLINE
    assert client.result(second).state == PENDING
    assert client.sent(ReturnLease, SCHEDULER) == [ReturnLease(1, discard=True)]
    assert client.pushed(peer) == [first.task_id]


def test_what_a_retired_worker_gives_back_costs_no_attempt(client: Harness) -> None:
    only = client.submit(retries_left=0)
    peer = client.grant(1)
    client.handle(Received(peer, [WorkerRetires()]))
    client.handle(Received(peer, [TasksTakenBack([1])]))
    assert client.sent(ReturnLease, SCHEDULER) == [ReturnLease(1, discard=True)]
    again = client.grant(2)
    assert client.pushed(again) == [only.task_id]
    assert only.attempt == 0


def test_a_dependency_of_another_process_is_asked_for(client: Harness) -> None:
    borrowed = b"another_00000001" + bytes(4)
    client.core.objects.refer(borrowed)
    client.handle(PeerConnected(Peer(77), "", b"another_"))
    records = [client.submit(dependencies=[borrowed]) for _ in range(2)]
    (fetch,) = client.sent(FetchObject, Peer(77))
    client.handle(Received(Peer(77), [ObjectValue(fetch.request, ObjectLocation(borrowed, inline=b"1"))]))
    assert client.pushed(client.grant(1)) == [records[0].task_id]


def test_a_dependency_holds_a_task_back_and_its_error_fails_it(client: Harness) -> None:
    first = client.submit()
    second = client.submit(dependencies=[result_id(first)])
    third = client.submit(dependencies=[result_id(second)])
    peer = client.grant(1)
    assert client.pushed(peer) == [first.task_id]
    client.answer(peer, 1, value=b"one")
    assert client.pushed(peer) == [first.task_id, second.task_id]
    assert client.sent(RunTask, peer)[1].dependencies[0].inline == b"one"
    client.handle(Received(peer, [TaskRaised(2, b"error", 1)]))
    assert client.result(third).state == FAILED
    assert client.result(third).value == b"error"


def test_user_exceptions_are_retried_only_if_asked(client: Harness) -> None:
    plain = client.submit()
    peer = client.grant(1)
    client.handle(Received(peer, [TaskRaised(1, b"error", 1)]))
    assert client.result(plain).state == FAILED
    again = client.submit(retry_exceptions=True, retries_left=1)
    client.handle(Received(peer, [TaskRaised(2, b"error", 1)]))
    assert client.result(again).state == PENDING
    client.handle(Received(peer, [TaskRaised(3, b"error", 1)]))
    assert client.result(again).state == FAILED


def test_who_wants_an_object_is_told_once(client: Harness) -> None:
    record = client.submit()
    peer = client.grant(1)
    client.handle(ObjectsWanted([result_id(record)]))
    client.answer(peer, 1)
    assert [a for a in client.actions if isinstance(a, AnnounceObjects)] == [AnnounceObjects([result_id(record)])]


def test_output_is_shown_in_order_for_the_task_that_made_it(client: Harness) -> None:
    record = client.submit()
    peer = client.grant(1)
    client.handle(Received(peer, [TaskOutput(1, "stdout", b"a"), TaskOutput(1, "stderr", b"b")]))
    shown = [action for action in client.actions if isinstance(action, ShowOutput)]
    assert [(action.record, action.kind, action.payload) for action in shown] == [
        (record, "stdout", b"a"),
        (record, "stderr", b"b"),
    ]


def test_a_result_that_nobody_wants_is_forgotten(client: Harness) -> None:
    record = client.submit()
    peer = client.grant(1)
    client.handle(RefsReleased([result_id(record)]))
    client.answer(peer, 1)
    assert client.core.statistics().objects == 0


def test_a_broken_invariant_tells_the_events_before_it(client: Harness) -> None:
    client.submit()
    peer = client.grant(1)
    lease = client.core.tasks.leases[1]
    client.core.tasks.queues[client.key].idle[1] = lease
    with pytest.raises(InternalError, match=r"(?s)idle and has tasks outstanding.*LeaseGranted.*PeerConnected"):
        client.core.check_invariants()
    assert lease.peer == peer


@pytest.mark.parametrize("told_first", [True, False])
def test_a_preempted_task_is_run_anew_at_no_cost(client: Harness, told_first: bool) -> None:
    """Also one that may not be retried: that its worker ended was nobody's failure."""
    record = client.submit(retries_left=0)
    peer = client.grant(1)
    news = [Received(SCHEDULER, LeaseLost(1, PREEMPTED, "others need it")), PeerLost(peer)]
    for event in news if told_first else reversed(news):
        client.handle(event)
    assert client.result(record).state == PENDING
    assert record.retries_left == 0
    again = client.grant(2)
    assert client.pushed(again) == [record.task_id]
    client.answer(again, 1)
    assert client.result(record).state == INLINE


@pytest.mark.parametrize(
    "refusal",
    [
        Received(SCHEDULER, Failed(0, "ProtocolError", "SetDemand cannot be sent as it is: no")),
        DemandsRefused("ProtocolError", "SetDemand cannot be sent as it is: no"),
    ],
)
def test_what_waits_for_a_scheduler_that_cannot_read_it_fails_and_is_not_said_again(
    client: Harness, refusal: Event
) -> None:
    record = client.submit()
    actor = client.task(actor_id=b"actor-of-refusal")
    message = CreateActor(7, ME, ActorSpec(b"actor-of-refusal", "", "", "Actor", client.shape, b""))
    client.handle(CreationRequested(client.task(actor_id=b"actor-of-refusal", returns=0), message, b"code"))
    client.handle(MethodCalled(actor))
    client.handle(refusal)
    for failed in (record, actor):
        entry = client.result(failed)
        assert entry.state == FAILED
        assert "SetDemand cannot be sent" in str(pickle.loads(entry.value))
    client.actions.clear()
    client.handle(SchedulerLinked(SCHEDULER))
    assert [action for action in client.actions if isinstance(action, Send)] == []
    client.submit()
    assert client.demands() == [1], "what is submitted later is asked for"
