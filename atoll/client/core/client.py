"""The client's core, composed: one `handle` for everything that happens to a process that submits tasks.

Channel messages come in batches, as they travel: `Received.message` is the list of one frame for direct channels, and
a single message for the scheduler's connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from atoll.client.core.actor_calls import ActorCalls
from atoll.client.core.events import (
    AgentLinked,
    CancelRequested,
    ConnectFailed,
    CreationGivenUp,
    CreationRequested,
    DemandsRefused,
    FinishCall,
    FunctionDefined,
    HoldRequested,
    MethodCalled,
    ObjectMissing,
    ObjectPut,
    ObjectsWanted,
    RefsReleased,
    SchedulerLinked,
    SendFailed,
    ShowOutput,
    TaskSubmitted,
    ValueTaken,
)
from atoll.client.core.lineage import Lineage
from atoll.client.core.links import Link, Links, Outbox
from atoll.client.core.objects import ObjectTable
from atoll.client.core.ownership import Ownership
from atoll.client.core.records import PENDING, TaskRecord
from atoll.client.core.settlement import Settlement, error_payload
from atoll.client.core.streams import Streams
from atoll.client.core.tasks import Tasks
from atoll.ids import ACTOR_ID_BYTES, ProcessId, return_id
from atoll.protocol.channel_messages import (
    AddHold,
    CallMethod,
    CancelTask,
    DeclareFunction,
    DependencyLost,
    DropHolds,
    FetchObject,
    HoldAdded,
    ObjectValue,
    RunTask,
    TaskOutput,
    TaskRaised,
    TaskReturned,
    TasksTakenBack,
    TaskStored,
    TaskYielded,
    WorkerRetires,
)
from atoll.protocol.machine import (
    Action,
    DeadlineReached,
    Event,
    Instant,
    Peer,
    PeerConnected,
    PeerLost,
    Received,
    Story,
)
from atoll.protocol.messages import ActorChanged, DemandRefused, Failed, LeaseGranted, LeaseLost, LeaseRecalled

_FREQUENT = frozenset(
    {
        TaskSubmitted,
        MethodCalled,
        ObjectPut,
        ObjectsWanted,
        RefsReleased,
        FunctionDefined,
        ValueTaken,
        CreationRequested,
    }
)
"""Events that come by the thousand and carry users' values: the story leaves them out, to keep none of those alive."""


class ClientStatistics(NamedTuple):
    """How much of everything a client has."""

    ready: int
    outstanding: int
    leases: int
    objects: int
    actors: int
    channels: int


class ClientCore:
    """All decisions of a process that submits tasks.

    Args:
        process_id: Of this process: the owner of what it submits and puts.
    """

    def __init__(self, process_id: ProcessId) -> None:
        self.process_id = process_id
        self.outbox = Outbox()
        self.objects = ObjectTable(process_id)
        self.links = Links(self.outbox, self.objects)
        self._settlement = Settlement(self.objects, self.outbox)
        self.tasks = Tasks(self.outbox, self.links, self._settlement)
        self.actors = ActorCalls(self.outbox, self.links, self._settlement)
        self._ownership = Ownership(self.outbox, self.links, self.objects, self._settlement)
        self._settlement.fetch = self._ownership.fetch
        self._ownership.lost = lambda object_id: self._lineage.lost(object_id, self._now, elsewhere=True)
        self._streams = Streams(self.outbox, self.objects, self._settlement)
        self._lineage = Lineage(self.objects, self._settlement, lambda record: self.tasks.submit(record, self._now))
        self._settlement.kept = lambda record, object_ids: self._lineage.remember(record, object_ids, self._now)
        self._settlement.resume = self._resume
        self._settlement.stream_ended = self._streams.ended
        self._settlement.ran_again = self._lineage.ended
        self._now = Instant(0.0)
        self._story = Story()
        self._handlers: dict[type[Event], Callable[[Any], None]] = {
            TaskSubmitted: self._task_submitted,
            MethodCalled: self._method_called,
            CreationRequested: self._creation_requested,
            CreationGivenUp: self._creation_given_up,
            Received: self._received,
            RefsReleased: self._refs_released,
            ObjectsWanted: self._objects_wanted,
            ObjectPut: self._object_put,
            FunctionDefined: self._function_defined,
            ValueTaken: self._value_taken,
            ObjectMissing: self._object_missing,
            HoldRequested: self._hold_requested,
            CancelRequested: self._cancel_requested,
            PeerConnected: self._peer_connected,
            PeerLost: self._peer_lost,
            ConnectFailed: self._connect_failed,
            SchedulerLinked: self._scheduler_linked,
            AgentLinked: self._agent_linked,
            SendFailed: self._send_failed,
            DemandsRefused: self._demands_refused,
            DeadlineReached: self._deadline_reached,
        }

    def handle(self, event: Event, now: Instant) -> list[Action]:
        """Take one event and return what is to be done about it, in order."""
        self._now = now
        kind = type(event)
        if kind not in _FREQUENT and not (kind is Received and type(event.message) is list):  # type: ignore[attr-defined]
            self._story.remember(event, now)
        self._handlers[kind](event)
        if self.objects.revived:
            self._lineage.revive()
        if self.objects.dropped:
            self.objects.release_dropped()
        if self.objects.forgotten_stored or self.objects.forgotten_borrowed:
            self._ownership.let_go()
        if self.objects.forgotten_tokens:
            self._release_actors()
        return self.outbox.take()

    def is_urgent(self, record: TaskRecord) -> bool:
        """Whether a task should not wait for others to travel with: it may be long, and a worker may wait for it."""
        return not record.actor_id and self.tasks.queues[record.class_key].depth == 1

    def next_deadline(self) -> Instant | None:
        """Return when `DeadlineReached` is wanted."""
        tasks, actors = self.tasks.deadline, self.actors.deadline
        if tasks is None or actors is None:
            return tasks if actors is None else actors
        return min(tasks, actors)

    # ------------------------------------------------------------------------------------ the process's own

    def _task_submitted(self, event: TaskSubmitted) -> None:
        record = event.record
        self._expect(record)
        self.tasks.submit(record, self._now)

    def _method_called(self, event: MethodCalled) -> None:
        self._expect(event.record)
        self.actors.call(event.record)

    def _creation_requested(self, event: CreationRequested) -> None:
        self.actors.create(event.record, event.message, event.code)

    def _creation_given_up(self, event: CreationGivenUp) -> None:
        self.actors.give_up(event.actor_id)

    def _expect(self, record: TaskRecord) -> None:
        if record.returns > 0:
            self.objects.expect(record.result_id, record)
            for index in range(1, record.returns):
                self.objects.expect(return_id(record.task_id, index), record)
        elif record.stream is not None:
            self._streams.begin(record)

    def _resume(self, record: TaskRecord) -> None:
        if record.actor_id:
            self.actors.flush(self.actors.views[record.actor_id])
        else:
            self.tasks.ready(record, self._now)

    def _function_defined(self, event: FunctionDefined) -> None:
        self.links.define(event.digest, event.name, event.payload, event.maximum_calls)

    def _object_put(self, event: ObjectPut) -> None:
        self.objects.expect(event.object_id, None)
        self.objects.resolve(event.object_id, event.location, event.contained)

    def _release_actors(self) -> None:
        tokens, self.objects.forgotten_tokens = self.objects.forgotten_tokens, []
        for token in tokens:
            self.actors.release(token[:ACTOR_ID_BYTES])

    def _objects_wanted(self, event: ObjectsWanted) -> None:
        entries = self.objects.entries
        for object_id in event.object_ids:
            entry = entries[object_id]
            if entry.state == PENDING:
                entry.watched = True
                if entry.producer is None and not self.objects.owns(object_id):
                    self._ownership.fetch(object_id)

    def _object_missing(self, event: ObjectMissing) -> None:
        self._lost(event.object_id)

    def _lost(self, object_id: bytes) -> None:
        """An object that should be in the store is not: its owner has it computed again, or says why it cannot."""
        if self.objects.owns(object_id):
            self._lineage.lost(object_id, self._now)
        else:
            self._ownership.report_lost(object_id)

    def _dependency_lost(self, link: Link, message: DependencyLost) -> None:
        """A task or call did not begin, since what it takes was lost: it waits for that to be there again."""
        record = link.outstanding.pop(message.sequence, None)
        if record is None:
            return
        record.peer = None
        record.pushes -= 1
        for object_id in message.object_ids:
            self._lost(object_id)
        if record.actor_id:
            self.actors.again(record)
        else:
            self.tasks.begins_again(link, message.sequence, record, self._now)
        self.tasks.after_answers(link, self._now)

    def _refs_released(self, event: RefsReleased) -> None:
        for object_id in event.object_ids:
            self.objects.release(object_id)
        if self.objects.dropped_streams:
            for record in self._streams.close_dropped():
                self._cancel(record, force=False, recursive=False)

    def _value_taken(self, event: ValueTaken) -> None:
        self._streams.take(event.stream)

    def _hold_requested(self, event: HoldRequested) -> None:
        self._ownership.hold(event.object_id, event.holder)

    def _cancel_requested(self, event: CancelRequested) -> None:
        entry = self.objects.entries.get(event.object_id)
        record = entry.producer if entry is not None else None
        if record is not None:
            self._cancel(record, event.force, event.recursive)

    def _cancel(self, record: TaskRecord, force: bool, recursive: bool) -> None:
        if record.actor_id:
            self.actors.cancel(record, recursive)
        else:
            self.tasks.cancel(record, force, recursive)

    def _cancel_children(self, task_id: bytes, force: bool) -> None:
        """Cancel what a task that runs here, and is being cancelled, has submitted."""
        producers = [entry.producer for entry in self.objects.entries.values() if entry.producer is not None]
        for record in dict.fromkeys(producers):
            if record.parent == task_id and not record.cancelled:
                self._cancel(record, force, recursive=True)

    # ------------------------------------------------------------------------------------------- messages

    def _received(self, event: Received) -> None:
        message = event.message
        if type(message) is list:
            link = self.links.by_peer.get(event.peer)
            if link is not None:
                self._batch(link, message)
            return
        if event.peer == self.outbox.scheduler:
            self._from_scheduler(event.peer, message)
        else:
            self.outbox.actions.append(FinishCall(event.peer, message))

    def _batch(self, link: Link, messages: list[Any]) -> None:
        answered = False
        for message in messages:
            kind = type(message)
            if kind is TaskReturned:
                record = link.outstanding.pop(message.sequence, None)
                if record is not None:
                    answered = True
                    self._settlement.returned(record, message.value)
                    if not record.actor_id:
                        self.tasks.answered(link, message.sequence, message.microseconds, self._now)
            elif kind is TaskStored or kind is TaskRaised:
                answered = self._other_answer(link, message) or answered
            elif kind is TaskOutput:
                record = link.outstanding.get(message.sequence)
                if record is not None:
                    self.outbox.actions.append(ShowOutput(record, message.kind, message.payload, message.source))
            elif kind is TasksTakenBack:
                self._taken_back(link, message)
            else:
                self._about_objects(link, message)
        if answered:
            self.tasks.after_answers(link, self._now)

    def _other_answer(self, link: Link, message: Any) -> bool:
        record = link.outstanding.pop(message.sequence, None)
        if record is None:
            return False
        if not record.actor_id:
            self.tasks.answered(link, message.sequence, message.microseconds, self._now)
        if type(message) is TaskStored:
            self._settlement.stored(record, message)
        elif not (message.retry and record.retry_exceptions and self._retry(record)):
            self._settlement.raised(record, message)
        elif message.contained:
            self._settlement.tried_again(message)
        return True

    def _retry(self, record: TaskRecord) -> bool:
        return self.actors.retry(record) if record.actor_id else self.tasks.retry(record, self._now)

    def _taken_back(self, link: Link, message: TasksTakenBack) -> None:
        self.tasks.taken_back(link, message, self._now)

    def _about_objects(self, link: Link, message: Any) -> None:
        if isinstance(message, TaskYielded):
            self._streams.yielded(link, message)
        elif isinstance(message, FetchObject):
            self._ownership.asked(link.peer, message)
        elif isinstance(message, AddHold):
            self._ownership.holder_came(link.peer, message)
        elif isinstance(message, DropHolds):
            self._ownership.holds_dropped(link.process_id, message)
        elif isinstance(message, ObjectValue):
            self._ownership.value_came(message)
        elif isinstance(message, HoldAdded):
            self._ownership.hold_added(message)
        elif isinstance(message, DependencyLost):
            self._dependency_lost(link, message)
        elif isinstance(message, WorkerRetires):
            self.tasks.retires(link, self._now)
        else:  # what only a worker understands: its shell takes it
            if isinstance(message, CancelTask) and message.recursive and message.task_id:
                self._cancel_children(message.task_id, message.force)
            self.outbox.actions.append(FinishCall(link.peer, message))

    def _from_scheduler(self, peer: Peer, message: Any) -> None:
        if isinstance(message, LeaseGranted):
            self.tasks.granted(message, self._now)
        elif isinstance(message, LeaseLost):
            self.tasks.lost(message, self._now)
        elif isinstance(message, LeaseRecalled):
            self.tasks.recalled(message, self._now)
        elif isinstance(message, DemandRefused):
            self.tasks.refused(message)
        else:
            if isinstance(message, ActorChanged):
                self.actors.changed(message, self._now)
            elif isinstance(message, Failed):
                self.actors.refused(message)
                if not message.request:  # which of our messages it could not read is not known
                    self._demands_refused(DemandsRefused(message.kind, message.text))
            self.outbox.actions.append(FinishCall(peer, message))

    # ----------------------------------------------------------------------------------------------- peers

    def _peer_connected(self, event: PeerConnected) -> None:
        link = self.links.opened(event.peer, event.process_id)
        self._ownership.channel_opened(link)
        self.tasks.channel_opened(link, self._now)
        self.actors.channel_opened(link)

    def _peer_lost(self, event: PeerLost) -> None:
        if event.peer == self.outbox.scheduler:
            self.outbox.scheduler = None
            return
        if event.peer == self.outbox.agent:
            self.outbox.agent = None
            return
        link = self.links.lost(event.peer)
        if link is None:
            return
        self.objects.drop_asker(event.peer)
        self.tasks.channel_lost(link, self._now)
        self.actors.channel_lost(link, self._now)
        if link.process_id not in self.links.by_process:
            self._ownership.process_lost(link.process_id)

    def _connect_failed(self, event: ConnectFailed) -> None:
        self.links.failed(event.process_id)
        self.tasks.connect_failed(event.process_id, event.cause, self._now)
        self.actors.connect_failed(event.process_id, self._now)
        self._ownership.process_lost(event.process_id)

    def _scheduler_linked(self, event: SchedulerLinked) -> None:
        self.outbox.scheduler = event.peer
        self.tasks.relink()
        self.actors.relink()

    def _send_failed(self, event: SendFailed) -> None:
        """What a message was about fails, at whoever waits for it: a task here, a task's answer at its caller."""
        message = event.message
        link = self.links.by_peer.get(event.peer)
        if link is None:
            return
        error = error_payload("SerializationError", f"{type(message).__name__} cannot be sent: {event.text}")
        if isinstance(message, TaskReturned | TaskStored | TaskRaised):
            self.outbox.send(event.peer, TaskRaised(message.sequence, error, 0, retry=False))
        elif isinstance(message, RunTask | CallMethod):
            self._batch(link, [TaskRaised(message.sequence, error, 0, retry=False)])
        elif isinstance(message, DeclareFunction):
            link.declared.discard(message.digest)
            waiting = [number for number, record in link.outstanding.items() if record.function == message.digest]
            self._batch(link, [TaskRaised(number, error, 0, retry=False) for number in waiting])

    def _demands_refused(self, event: DemandsRefused) -> None:
        for key, queue in self.tasks.queues.items():
            if queue.demand or queue.ready:
                self.tasks.refused(DemandRefused(key, event.kind, event.text))
        self.actors.refuse_all(event.kind, event.text)

    def _agent_linked(self, event: AgentLinked) -> None:
        self.outbox.agent = event.peer

    def _deadline_reached(self, _event: DeadlineReached) -> None:
        now = self._now
        if self.tasks.deadline is not None and self.tasks.deadline <= now:
            self.tasks.deadline_reached(now)
        if self.actors.deadline is not None and self.actors.deadline <= now:
            self.actors.deadline_reached(now)

    # ------------------------------------------------------------------------------------------ inspection

    def check_invariants(self) -> None:
        """Raise `InternalError` if the state contradicts itself."""
        problems = [
            *self.objects.check_invariants(),
            *self._streams.check_invariants(),
            *self._lineage.check_invariants(),
        ]
        for queue in self.tasks.queues.values():
            for lease in queue.leases.values():
                busy = bool(lease.outstanding)
                if busy and lease.grant.lease_id in queue.idle:
                    problems.append(f"lease {lease.grant.lease_id} is idle and has tasks outstanding")
                if lease.peer is not None:
                    link = self.links.by_peer.get(lease.peer)
                    if link is None or any(link.outstanding.get(s) is not r for s, r in lease.outstanding.items()):
                        problems.append(f"lease {lease.grant.lease_id} and its channel disagree")
            problems.extend(f"{record} is ready and pushed" for record in queue.ready if record.peer is not None)
        if problems:
            raise self._story.broken("; ".join(problems))

    def statistics(self) -> ClientStatistics:
        """Return how much of everything there is."""
        return ClientStatistics(
            ready=sum(len(queue.ready) for queue in self.tasks.queues.values()),
            outstanding=sum(len(link.outstanding) for link in self.links.by_peer.values()),
            leases=len(self.tasks.leases),
            objects=len(self.objects.entries),
            actors=len(self.actors.views),
            channels=len(self.links.by_peer),
        )
