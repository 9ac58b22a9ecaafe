"""Tasks on leased workers: submitting, pushing, answers, lost workers, cancelling.

    submitted ─▶ waits for dependencies ─▶ ready ─▶ outstanding on a lease ─▶ ended
                                             ▲              │
                                             └── retried, taken back, worker lost

`dispatch` says which worker; here is what follows from it.
"""

from __future__ import annotations

import msgspec

from atoll.client.core.dispatch import KEEP_IDLE_S, ClassQueue, Lease
from atoll.client.core.links import Link, Links, Outbox
from atoll.client.core.locality import near
from atoll.client.core.records import TaskRecord
from atoll.client.core.settlement import Settlement
from atoll.protocol.channel_messages import CancelTask, TakeBackTasks, TasksTakenBack
from atoll.protocol.machine import Instant, Peer
from atoll.protocol.messages import (
    PREEMPTED,
    DemandRefused,
    LeaseGranted,
    LeaseLost,
    LeaseRecalled,
    ReturnLease,
    SetDemand,
)
from atoll.protocol.values import MemoryLoss, SchedulingClass
from atoll.resources import MEMORY, UNITS_PER_ONE

CAUSE_WITHIN_S = 1.0
"""How long a lost worker's tasks wait to hear from the scheduler why it died."""


class Tasks:
    """All tasks of a client that are not calls to actors.

    Args:
        outbox: Where actions go.
        links: The channels to workers.
        settlement: Where tasks end.
    """

    def __init__(self, outbox: Outbox, links: Links, settlement: Settlement) -> None:
        self._outbox = outbox
        self._links = links
        self._settlement = settlement
        self.queues: dict[int, ClassQueue] = {}
        self._keys: dict[object, int] = {}
        self.leases: dict[int, Lease] = {}
        self._by_worker: dict[bytes, Lease] = {}
        self._by_peer: dict[Peer, Lease] = {}
        self._lost: dict[int, tuple[Lease, Instant]] = {}
        self._causes: dict[int, LeaseLost] = {}
        self.deadline: Instant | None = None

    def class_key(self, shape: SchedulingClass) -> int:
        """Return the client's number for a scheduling class."""
        frozen = _hashable(shape)
        key = self._keys.get(frozen)
        if key is None:
            key = self._keys[frozen] = len(self._keys) + 1
            self.queues[key] = ClassQueue(key, shape)
        return key

    def _near_key(self, record: TaskRecord) -> int:
        """Return the class of a task that had better go where most of what it takes is."""
        shape = self.queues[record.class_key].shape
        wanted = near(record.dependencies or (), self._settlement.entries)
        return record.class_key if wanted == shape.near else self.class_key(msgspec.structs.replace(shape, near=wanted))

    # ------------------------------------------------------------------------------------------ submitting

    def submit(self, record: TaskRecord, now: Instant) -> None:
        """Take a new task."""
        if record.dependencies and self._settlement.wait_for_dependencies(record):
            return
        self.ready(record, now)

    def ready(self, record: TaskRecord, now: Instant) -> None:
        """Take a task whose dependencies all have values."""
        if record.dependencies and self._settlement.several_nodes:
            record.class_key = self._near_key(record)
        queue = self.queues[record.class_key]
        if queue.full:  # until there is an answer, or another lease, nothing can be pushed
            queue.ready.append(record)
            self._update_demand(queue)
        elif queue.idle and not queue.ready and self._can_begin(record):
            self._push(queue, queue.latest_idle(), record, now)
        else:
            queue.ready.append(record)
            self._fill(queue, now)

    def _fill(self, queue: ClassQueue, now: Instant) -> None:
        """Push what can be pushed, and ask for as many leases as the rest could use."""
        ready = queue.ready
        queue.full = False
        if not ready:
            if queue.demand:
                self._update_demand(queue)
            return
        while ready:
            if not self._can_begin(ready[0]):
                self.submit(ready.popleft(), now)
                continue
            lease = queue.choose(ready[0], now)
            if lease is None:
                queue.full = True
                break
            self._push(queue, lease, ready.popleft(), now)
        self._update_demand(queue)

    def _can_begin(self, record: TaskRecord) -> bool:
        """Whether what a task takes is still there: it may have been lost since, while the task waited or ran."""
        return not record.dependencies or self._settlement.has_values(record.dependencies)

    def _push(self, queue: ClassQueue, lease: Lease, record: TaskRecord, now: Instant) -> None:
        outstanding = lease.outstanding
        if not outstanding:
            queue.idle.pop(lease.grant.lease_id, None)
            lease.progress = now
            lease.taken = record.alone
        elif len(outstanding) == 1:
            self._wake_at(Instant(now + queue.stalled_after_s))
        assert lease.link is not None
        self._links.push(lease.link, record)
        outstanding[record.sequence] = record

    def _update_demand(self, queue: ClassQueue) -> None:
        wanted = queue.wanted_demand()
        held = queue.demand
        if wanted == held or (0 < wanted < held) or (held and wanted < 2 * held and wanted):
            return
        queue.demand = wanted
        self._outbox.tell_scheduler(SetDemand(queue.key, queue.shape, wanted))

    # ---------------------------------------------------------------------------------------------- leases

    def relink(self) -> None:
        """Say again what is wanted, to a scheduler that may have been restarted."""
        for queue in self.queues.values():
            queue.demand = queue.wanted_demand()
            if queue.demand:
                self._outbox.tell_scheduler(SetDemand(queue.key, queue.shape, queue.demand))

    def granted(self, grant: LeaseGranted, now: Instant) -> None:
        """Take a lease; its worker is used as soon as the channel stands. One that we have said we do not want goes."""
        if grant.lease_id in self.leases:
            return
        queue = self.queues.get(grant.demand_key)
        if queue is None:
            self._outbox.tell_scheduler(ReturnLease(grant.lease_id, discard=grant.lease_id in self._lost))
            return
        queue.demand = max(0, queue.demand - 1)
        self._settlement.note_node(grant.node_id)
        lease = Lease(grant, queue, now)
        queue.leases[grant.lease_id] = lease
        self.leases[grant.lease_id] = lease
        self._by_worker[grant.worker_id] = lease
        link = self._links.want(grant.worker_id, grant.address)
        if link is not None:
            self.channel_opened(link, now)

    def channel_opened(self, link: Link, now: Instant) -> None:
        """Use the worker at the other end if it is leased to us."""
        lease = self._by_worker.get(link.process_id)
        if lease is None or lease.peer is not None:
            return
        lease.peer = link.peer
        lease.link = link
        self._by_peer[link.peer] = lease
        self._became_idle(lease, now)
        self._fill(lease.queue, now)
        self._share(lease.queue)

    def refused(self, refusal: DemandRefused) -> None:
        """Fail all tasks of a class that can never be placed."""
        queue = self.queues[refusal.demand_key]
        queue.demand = 0
        while queue.ready:
            self._settlement.failed_with(queue.ready.popleft(), refusal.kind, refusal.text)

    def recalled(self, recall: LeaseRecalled, now: Instant) -> None:
        """Push nothing more on a lease; return it at once if it is idle, else when it has drained."""
        lease = self.leases.get(recall.lease_id)
        if lease is None:
            return
        lease.recalled = True
        if lease.peer is not None and len(lease.outstanding) > 1 and not lease.taking_back:
            self._take_back(lease, len(lease.outstanding))
        if not lease.outstanding:
            self._return(lease)
            self._fill(lease.queue, now)

    def retires(self, link: Link, now: Instant) -> None:
        """A worker takes no more tasks: its lease is returned when it has drained, and it is used no more."""
        lease = self._by_peer.get(link.peer)
        if lease is None:
            return
        lease.recalled = lease.discard = True
        if not lease.outstanding:
            self._return(lease)
            self._fill(lease.queue, now)

    def _return(self, lease: Lease) -> None:
        self._drop(lease)
        self._outbox.tell_scheduler(ReturnLease(lease.grant.lease_id, discard=lease.discard))

    def _drop(self, lease: Lease) -> None:
        lease_id = lease.grant.lease_id
        self.leases.pop(lease_id, None)
        lease.queue.leases.pop(lease_id, None)
        lease.queue.idle.pop(lease_id, None)
        if self._by_worker.get(lease.grant.worker_id) is lease:
            del self._by_worker[lease.grant.worker_id]
        if lease.peer is not None:
            self._by_peer.pop(lease.peer, None)

    def _became_idle(self, lease: Lease, now: Instant) -> None:
        lease.idle_since = now
        if lease.recalled:
            self._return(lease)
            return
        lease.queue.idle[lease.grant.lease_id] = lease
        if self.deadline is None:
            self.deadline = Instant(now + KEEP_IDLE_S)

    def begins_again(self, link: Link, sequence: int, record: TaskRecord, now: Instant) -> None:
        """A pushed task did not begin, since what it takes was not there: it waits for that and is pushed again."""
        lease = self._by_peer.get(link.peer)
        if lease is not None:
            lease.outstanding.pop(sequence, None)
            lease.progress = now
        if record.cancelled:
            self._settlement.failed_with(record, "TaskCancelledError", f"{record.name} was cancelled")
        else:
            self.submit(record, now)

    # --------------------------------------------------------------------------------------------- answers

    def answered(self, link: Link, sequence: int, microseconds: int, now: Instant) -> None:
        """Note that a pushed task has ended, and how long it ran."""
        lease = self._by_peer.get(link.peer)
        if lease is None:
            return
        lease.outstanding.pop(sequence, None)
        lease.progress = now
        lease.queue.learn(microseconds * 1e-6)

    def after_answers(self, link: Link, now: Instant) -> None:
        """Give the worker more to do; called once after a batch of answers."""
        lease = self._by_peer.get(link.peer)
        if lease is None:
            return
        queue = lease.queue
        queue.full = False
        if not lease.outstanding:
            self._became_idle(lease, now)
        if queue.ready or queue.demand:
            self._fill(queue, now)
        self._share(queue)

    def _share(self, queue: ClassQueue) -> None:
        """Let an idle worker have some of what waits behind the task of another."""
        share = queue.to_share()
        if share is not None:
            self._take_back(*share)

    def _take_back(self, lease: Lease, count: int) -> None:
        assert lease.peer is not None
        lease.taking_back = True
        self._outbox.send(lease.peer, TakeBackTasks(count))

    def taken_back(self, link: Link, answer: TasksTakenBack, now: Instant) -> None:
        """Queue again what a worker has given back, before what came later."""
        lease = self._by_peer.get(link.peer)
        if lease is not None:
            lease.taking_back = False
        queue = lease.queue if lease is not None else None
        for sequence in sorted(answer.sequences, reverse=True):
            record = link.outstanding.pop(sequence, None)
            if record is None:
                continue
            if lease is not None:
                lease.outstanding.pop(sequence, None)
            record.peer = None
            record.pushes -= 1
            if record.cancelled:
                self._settlement.failed_with(record, "TaskCancelledError", f"{record.name} was cancelled")
                continue
            queue = self.queues[record.class_key]
            queue.ready.appendleft(record)
        if lease is not None and not lease.outstanding:
            self._became_idle(lease, now)
        if queue is not None:
            self._fill(queue, now)
            self._share(queue)

    def retry(self, record: TaskRecord, now: Instant) -> bool:
        """Queue a task again if it may be tried once more; False if not."""
        if record.cancelled or record.retries_left == 0:
            return False
        if record.retries_left > 0:
            record.retries_left -= 1
        record.attempt += 1
        record.peer = None
        record.alone = record.alone or record.retries_left == 0
        self.ready(record, now)
        return True

    # ---------------------------------------------------------------------------------------- lost workers

    def channel_lost(self, link: Link, now: Instant) -> None:
        """A worker's channel is gone: its tasks wait for the reason, then are retried or fail."""
        lease = self._by_peer.pop(link.peer, None)
        if lease is None:
            return
        lease_id = lease.grant.lease_id
        self._drop(lease)
        lease.peer = lease.link = None
        cause = self._causes.pop(lease_id, None)
        if cause is not None or not lease.outstanding:
            self._worker_lost(lease, cause or LeaseLost(lease_id, "", ""), now)
            if cause is None:
                self._outbox.tell_scheduler(ReturnLease(lease_id, discard=True))
            return
        self._lost[lease_id] = (lease, Instant(now + CAUSE_WITHIN_S))
        self._wake_at(Instant(now + CAUSE_WITHIN_S))

    def connect_failed(self, process_id: bytes, cause: str, now: Instant) -> None:
        """A leased worker cannot be reached: give the lease back and ask for another."""
        lease = self._by_worker.get(process_id)
        if lease is None or lease.peer is not None:
            return
        self._drop(lease)
        self._outbox.tell_scheduler(ReturnLease(lease.grant.lease_id, discard=True))
        queue = lease.queue
        if cause.startswith("VersionMismatchError"):
            while queue.ready:
                self._settlement.failed_with(queue.ready.popleft(), "VersionMismatchError", cause)
        self._fill(queue, now)

    def lost(self, loss: LeaseLost, now: Instant) -> None:
        """The scheduler says why a worker is gone. Answers that are still in the channel are read first."""
        waiting = self._lost.pop(loss.lease_id, None)
        if waiting is not None:
            self._worker_lost(waiting[0], loss, now)
            return
        lease = self.leases.get(loss.lease_id)
        if lease is None:
            return
        if lease.peer is None:
            self._drop(lease)
            self._worker_lost(lease, loss, now)
        else:
            self._causes[loss.lease_id] = loss

    def _worker_lost(self, lease: Lease, loss: LeaseLost, now: Instant) -> None:
        """Retry or fail what was outstanding. One task pays an attempt; of several, none does: see `dispatch`."""
        kind = loss.kind or "WorkerCrashedError"
        text = loss.text or f"the worker of pid unknown on {lease.grant.node_name or 'this node'} died"
        records = list(lease.outstanding.values())
        lease.outstanding.clear()
        if kind == PREEMPTED:
            for record in reversed(records):
                self._again(lease.queue, record)
        elif len(records) == 1 and loss.memory is not None:
            self._out_of_memory(records[0], text, loss.memory, now)
        elif len(records) == 1:
            record = records[0]
            attempt = record.attempt + 1
            if not self.retry(record, now):
                if record.cancelled:
                    kind, text = "TaskCancelledError", f"{record.name} was cancelled"
                text = f"{record.name}: {text} (attempt {attempt})"
                if kind == "WorkerCrashedError":
                    self._settlement.crashed(record, text)
                else:
                    self._settlement.failed_with(record, kind, text)
        else:
            for record in reversed(records):
                self._again_alone(lease.queue, record)
        self._fill(lease.queue, now)

    def _out_of_memory(self, record: TaskRecord, text: str, loss: MemoryLoss, now: Instant) -> None:
        """Run a task again with more memory set aside, where that helps, or fail it.

        That costs no attempt: more is set aside each time, and what a node has is soon reached. A task that has used
        more than somebody has asked for would do so again, and is not repeated.
        """
        if record.cancelled:
            self._settlement.failed_with(record, "TaskCancelledError", f"{record.name} was cancelled")
        elif loss.again_bytes and record.retries_left:
            shape = self.queues[record.class_key].shape
            amounts = {**shape.resources, MEMORY: loss.again_bytes * UNITS_PER_ONE}
            auto = [*shape.auto, *([] if MEMORY in shape.auto else [MEMORY])]
            record.class_key = self.class_key(msgspec.structs.replace(shape, resources=amounts, auto=auto))
            record.attempt += 1
            record.peer = None
            self.ready(record, now)
        else:
            self._settlement.out_of_memory(record, f"{record.name}: {text} (attempt {record.attempt + 1})", loss)

    def _again_alone(self, queue: ClassQueue, record: TaskRecord) -> None:
        record.alone = True
        self._again(queue, record)

    def _again(self, queue: ClassQueue, record: TaskRecord) -> None:
        record.peer = None
        if record.cancelled:
            self._settlement.failed_with(record, "TaskCancelledError", f"{record.name} was cancelled")
        else:
            queue.ready.appendleft(record)

    # ------------------------------------------------------------------------------------------ cancelling

    def cancel(self, record: TaskRecord, force: bool, recursive: bool) -> None:
        """Cancel a task wherever it is."""
        record.cancelled = True
        if record.peer is not None:
            self._outbox.send(record.peer, CancelTask(record.sequence, force, recursive, record.task_id))
            return
        if record.unresolved > 0:
            record.unresolved = -1
        queue = self.queues.get(record.class_key)
        if queue is not None and record in queue.ready:
            queue.ready.remove(record)
            self._update_demand(queue)
        self._settlement.failed_with(record, "TaskCancelledError", f"{record.name} was cancelled before it began")

    # ------------------------------------------------------------------------------------------- deadlines

    def _wake_at(self, instant: Instant) -> None:
        if self.deadline is None or instant < self.deadline:
            self.deadline = instant

    def deadline_reached(self, now: Instant) -> None:
        """Return leases that have been idle for long, and give up waiting for reasons."""
        self.deadline = None
        for lease_id, (lease, until) in list(self._lost.items()):
            if until <= now:
                del self._lost[lease_id]
                self._outbox.tell_scheduler(ReturnLease(lease_id, discard=True))
                self._worker_lost(lease, LeaseLost(lease_id, "", ""), now)
            else:
                self._wake_at(until)
        for queue in self.queues.values():
            for lease in queue.stalled(now):
                self._take_back(lease, len(lease.outstanding) - 1)
            if any(len(lease.outstanding) > 1 for lease in queue.leases.values()):
                self._wake_at(Instant(now + queue.stalled_after_s))
            for lease in list(queue.idle.values()):
                until = Instant(lease.idle_since + KEEP_IDLE_S)
                if until <= now:
                    self._return(lease)
                else:
                    self._wake_at(until)


def _hashable(shape: SchedulingClass) -> object:
    """Return what must be equal for two tasks to run on the same leases: all but the name that people see.

    What takes as much as its code has needed shares leases only with the same code.
    """
    return _encode_shape(msgspec.structs.replace(shape, label="", code=shape.code if shape.auto else b""))


_encode_shape = msgspec.msgpack.Encoder(order="deterministic").encode
