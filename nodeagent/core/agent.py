"""The whole of the agent's core: one table from what comes to who handles it.

Who may say what is decided here: only the scheduler starts and ends leases, only an attached process uses the store,
only a worker that this agent forked may say that it has started. Whoever says something else is answered with
`Failed` where the message has a request number, and its connection is closed where it has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from atoll.exceptions import ProtocolError
from atoll.nodeagent.core.actors import Actors
from atoll.nodeagent.core.device_watch import DeviceWatch
from atoll.nodeagent.core.events import (
    AgentUnreachable,
    DestroySegment,
    DeviceMemoryMeasured,
    DeviceRecord,
    DevicesCheckpointed,
    DevicesClaimed,
    Exit,
    ForkFailed,
    MemoryMeasured,
    NodeObserved,
    ObjectRestored,
    ObjectsSpilled,
    ProcessExited,
    RestoreFailed,
    SegmentCreated,
    SegmentFailed,
    SpillFailed,
    StopRequested,
    WorkerForked,
    ZygoteDied,
    ZygoteReady,
)
from atoll.nodeagent.core.leases import Leases
from atoll.nodeagent.core.node import AgentStatistics, NodeDescription
from atoll.nodeagent.core.outbox import Outbox
from atoll.nodeagent.core.room import PATIENCE_S
from atoll.nodeagent.core.samples import Samples
from atoll.nodeagent.core.scheduler_link import SchedulerLink
from atoll.nodeagent.core.segments import SLAB_BYTES, WARM_S, SegmentAllocator
from atoll.nodeagent.core.store import ObjectStore
from atoll.nodeagent.core.transfers import Transfers
from atoll.nodeagent.core.workers import WorkerPool
from atoll.protocol.leave_messages import (
    DevicesOffloaded,
    DevicesRestored,
    DevicesReturned,
    WantDevices,
)
from atoll.protocol.machine import (
    Action,
    ClosePeer,
    DeadlineReached,
    Event,
    Instant,
    Peer,
    PeerConnected,
    PeerLost,
    Received,
    Story,
)
from atoll.protocol.messages import (
    AbortObject,
    ActorConstructed,
    AdoptObject,
    AttachProcess,
    CreateObject,
    DefineEnvironment,
    DeleteObjects,
    DropObject,
    EndLease,
    EvacuateObjects,
    Failed,
    FetchObject,
    GetObject,
    JobEnded,
    KeepObjects,
    NodeLocated,
    NodeRegistered,
    ObjectOffered,
    ObjectPiece,
    ObjectsKept,
    ProcessAttached,
    ReadPiece,
    ReleaseDevice,
    ReleaseObjects,
    ReportDeviceFault,
    ReportSpans,
    ReturnPins,
    SealObject,
    SegmentNotTaken,
    SpansRecorded,
    StartActor,
    StartLease,
    StopNode,
    WorkerStarted,
)
from atoll.resources import CPU, MEMORY, UNITS_PER_ONE

Handler = Callable[[Any, Instant], None]
MessageHandler = Callable[[Peer, Any, Instant], None]


class AgentCore:
    """The node agent as a machine.

    Args:
        node: What the node is.
        new_worker_id: Makes ids for workers.
        now: When it begins.
        slab_bytes: The size of segments that small objects share.
        prepared_bytes: So much memory is made ready before somebody needs it.
        give_back_s: Memory without objects is given back to the host after so long.
        patience_s: How long somebody waits for room in a full store while nothing moves.
        kept_free_bytes: Memory that is kept free on the host; what is usual for its size if 0.
        no_checkpoint: Why the driver cannot give up what a process has on its devices; empty if it can.
        device_records: What agents before this one held against devices.
    """

    def __init__(
        self,
        node: NodeDescription,
        new_worker_id: Callable[[], bytes],
        now: Instant,
        *,
        slab_bytes: int = SLAB_BYTES,
        prepared_bytes: int = 0,
        give_back_s: float = WARM_S,
        patience_s: float = PATIENCE_S,
        kept_free_bytes: int = 0,
        no_checkpoint: str = "",
        device_records: Iterable[DeviceRecord] = (),
    ) -> None:
        self.node = node
        self._outbox = Outbox()
        self._allocator = SegmentAllocator(
            node.store_capacity_bytes,
            self._outbox,
            warm_s=give_back_s,
            slab_bytes=slab_bytes,
            prepared_bytes=prepared_bytes,
        )
        self.store = ObjectStore(self._allocator, self._outbox, patience_s)
        self.transfers = Transfers(node.node_id, self.store, self._outbox)
        cpus = node.resources.get(CPU, 0) // UNITS_PER_ONE
        self.pool = WorkerPool(cpus, self._outbox, new_worker_id)
        offered_bytes = node.resources.get(MEMORY, 0) // UNITS_PER_ONE
        self.leases = Leases(self.pool, self._outbox, offered_bytes, kept_free_bytes, self._make_room)
        self.actors = Actors(self.leases, self._outbox, no_checkpoint)
        self.leases.devices.health.recall(device_records, now)
        self._story = Story()
        self._roles: dict[Peer, tuple[str, bytes]] = {}
        self.samples = Samples(self._outbox, self.pool, self.leases, self.store, self.transfers)
        self._device_watch = DeviceWatch(self.leases, self.actors, self.samples)
        self._link = SchedulerLink(
            node,
            self._outbox,
            self.leases,
            self.actors,
            self.store.lifetimes,
            self.transfers,
            self.samples,
            now,
        )
        self._exiting = False
        self._events = self._event_table()
        self._from_scheduler = self._scheduler_table()
        self._from_process = self._process_table()
        self._from_worker = self._worker_table()
        self._from_agent = self._agent_table()

    def _event_table(self) -> dict[type, Handler]:
        return {
            PeerConnected: self._peer_connected,
            PeerLost: self._peer_lost,
            Received: self._received,
            DeadlineReached: self._deadline_reached,
            ZygoteReady: self._zygote_ready,
            ZygoteDied: self._zygote_died,
            WorkerForked: lambda event, now: self.pool.forked(event),
            ForkFailed: self._fork_failed,
            ProcessExited: self._process_exited,
            SegmentCreated: self.store.segment_created,
            SegmentFailed: self.store.segment_failed,
            ObjectsSpilled: self.store.spilled,
            SpillFailed: self.store.spill_failed,
            ObjectRestored: self.store.restored,
            RestoreFailed: self.store.restore_failed,
            DeviceMemoryMeasured: self._device_watch.measured,
            DevicesClaimed: self._device_watch.claimed,
            DevicesCheckpointed: self.actors.checkpointed,
            NodeObserved: self._device_watch.observed,
            MemoryMeasured: self.leases.memory.measured,
            AgentUnreachable: self.transfers.unreachable,
            StopRequested: lambda event, now: self._exit(event.cause),
        }

    def _scheduler_table(self) -> dict[type, Handler]:
        return {
            NodeRegistered: self._link.registered,
            DefineEnvironment: lambda m, now: self.pool.define(m.digest, m.environment, m.prepare, now),
            StartLease: self._start_lease,
            EndLease: self.leases.end,
            StartActor: lambda message, now: self.actors.start(message),
            DevicesReturned: self.actors.returned,
            AdoptObject: lambda message, now: self.store.lifetimes.adopt(message),
            DropObject: self.store.lifetimes.drop,
            JobEnded: self._job_ended,
            ReleaseDevice: self._device_watch.released,
            EvacuateObjects: lambda message, now: self.transfers.evacuate(message),
            NodeLocated: self.transfers.located,
            StopNode: lambda message, now: self._exit("the cluster is stopped"),
            Failed: self._scheduler_refused,
        }

    def _process_table(self) -> dict[type, MessageHandler]:
        return {
            CreateObject: self.store.create,
            SealObject: self.store.seal,
            AbortObject: self.store.abort,
            GetObject: self.store.get,
            ReleaseObjects: self._release,
            SegmentNotTaken: lambda peer, message, now: self.store.not_taken(peer, message.segment_id),
            DeleteObjects: self._delete,
        }

    def _agent_table(self) -> dict[type, MessageHandler]:
        """What agents of other nodes may say."""
        return {
            FetchObject: lambda peer, m, now: self.store.get(peer, GetObject(m.request, m.object_id), now),
            ReadPiece: lambda peer, message, now: self.transfers.read_piece(peer, message),
            ReleaseObjects: self.store.release,
            DeleteObjects: lambda peer, message, now: self.store.lifetimes.delete_elsewhere(message.object_ids, now),
            KeepObjects: lambda peer, message, now: self.transfers.keep(peer, self._roles[peer][1], message),
            ObjectOffered: self.transfers.offered,
            ObjectPiece: self.transfers.piece_came,
            ObjectsKept: lambda peer, message, now: self.transfers.objects_kept(peer, message),
            ReturnPins: lambda peer, message, now: None,  # what is being copied is let go when it is
            Failed: self.transfers.refused,
        }

    def _worker_table(self) -> dict[type, MessageHandler]:
        return {
            ActorConstructed: self.actors.constructed,
            DevicesOffloaded: self.actors.offloaded,
            DevicesRestored: self.actors.restored,
            WantDevices: lambda peer, message, now: self.actors.wanted(peer, message),
            ReportSpans: self._spans_reported,
            ReportDeviceFault: self._device_watch.fault_reported,
        }

    # -------------------------------------------------------------------------------------------- the machine

    def start(self) -> list[Action]:
        """Return what is to be done first."""
        self._link.dial()
        return self._outbox.take()

    def handle(self, event: Event, now: Instant) -> list[Action]:
        """Take one event and return what is to be done about it, in order."""
        self._story.remember(event, now)
        if self._exiting:
            return []
        handler = self._events.get(type(event))
        if handler is None:
            raise self._story.broken(f"a node agent has no use for {type(event).__name__}")
        handler(event, now)
        self.store.settle(now)
        actions = self._outbox.take()
        destroyed = [action.segment_id for action in actions if isinstance(action, DestroySegment)]
        if destroyed and not self._exiting:
            self.store.forget_destroyed(destroyed)
            actions += self._outbox.take()
        return actions

    def next_deadline(self) -> Instant | None:
        """Return when `DeadlineReached` is wanted, or None for never."""
        if self._exiting:
            return None
        instants = [
            self.pool.next_deadline(),
            self.leases.next_deadline(),
            self.actors.next_deadline(),
            self._allocator.next_deadline(),
            self.store.next_deadline(),
            self.samples.next_deadline(),
            self._link.next_deadline(),
        ]
        return min((instant for instant in instants if instant is not None), default=None)

    def _deadline_reached(self, event: DeadlineReached, now: Instant) -> None:
        cause = self._link.end(now)
        if cause:
            self._exit(cause)
            return
        self.pool.tick(now)
        self.leases.tick(now)
        self.actors.tick(now)
        self._allocator.trim(now)
        self.store.tick(now)
        self.samples.tick(now)

    def _exit(self, cause: str) -> None:
        self._exiting = True
        self._allocator.release_all()
        self._outbox.do(Exit(cause))

    # -------------------------------------------------------------------------------------------- connections

    def _peer_connected(self, event: PeerConnected, now: Instant) -> None:
        self._roles[event.peer] = (event.role, event.process_id)
        if event.role == "scheduler":
            self._link.connected(event.peer, now)
        elif event.role == "agent":
            self.store.attach(event.peer, event.process_id, agent=True)
            self.transfers.connected(event.peer, event.process_id)

    def _peer_lost(self, event: PeerLost, now: Instant) -> None:
        self._roles.pop(event.peer, None)
        self._forget(event.peer, now)

    def _forget(self, peer: Peer, now: Instant) -> None:
        """A connection is gone, or nothing more is taken from it."""
        if peer == self._outbox.scheduler:
            self._link.lost(now)
            return
        self.transfers.lost(peer, now)
        worker = self.pool.disconnected(peer, now)
        if worker is not None:
            self.leases.worker_disconnected(worker)
        self.store.detach(peer, now)

    def _received(self, event: Received, now: Instant) -> None:
        peer, message = event.peer, event.message
        role, process_id = self._roles.get(peer, ("", b""))
        if not role:
            return
        if role == "scheduler":
            handler = self._from_scheduler.get(type(message))
            if handler is None or peer != self._outbox.scheduler:
                self._refuse(peer, message, now)
            else:
                handler(message, now)
        elif role == "agent":
            from_agent = self._from_agent.get(type(message))
            if from_agent is None:
                self._refuse(peer, message, now)
            else:
                from_agent(peer, message, now)
        elif type(message) is AttachProcess:
            self._attach(peer, process_id, message, now)
        elif type(message) is WorkerStarted:
            self._worker_started(peer, process_id, message, now)
        elif type(message) in self._from_process and self.store.is_attached(peer):
            self._from_process[type(message)](peer, message, now)
        elif type(message) in self._from_worker:
            self._from_worker[type(message)](peer, message, now)
        else:
            self._refuse(peer, message, now)

    def _spans_reported(self, peer: Peer, message: ReportSpans, now: Instant) -> None:
        self.actors.busy(peer, now)
        self._outbox.tell_scheduler(SpansRecorded(self.leases.with_peaks(peer, message.spans)))

    def _release(self, peer: Peer, message: ReleaseObjects, now: Instant) -> None:
        self.transfers.withdraw(peer, message.object_ids)
        self.store.release(peer, message, now)

    def _delete(self, peer: Peer, message: DeleteObjects, now: Instant) -> None:
        self.store.lifetimes.delete(peer, message, now)
        self.transfers.delete(message.object_ids, message.nodes)

    def _refuse(self, peer: Peer, message: Any, now: Instant) -> None:
        text = f"a node agent does not take {type(message).__name__} from here"
        request = getattr(message, "request", None)
        if request is not None:
            self._outbox.send(peer, Failed(request, ProtocolError.__name__, text))
            return
        self._roles.pop(peer, None)
        self._outbox.do(ClosePeer(peer, text))
        self._forget(peer, now)

    def _attach(self, peer: Peer, process_id: bytes, message: AttachProcess, now: Instant) -> None:
        if message.process_id != process_id:
            text = "a process attaches under the id that it proved"
            self._outbox.send(peer, Failed(message.request, ProtocolError.__name__, text))
            return
        self.store.attach(peer, process_id)
        self._allocator.active(now)
        self._outbox.send(peer, ProcessAttached(message.request, self.node.node_id, self.store.capacity_bytes))

    def _scheduler_refused(self, message: Failed, now: Instant) -> None:
        self._exit(f"the scheduler refused this node: {message.text}")

    # -------------------------------------------------------------------------------------------- leases, workers

    def _start_lease(self, message: StartLease, now: Instant) -> None:
        if message.holder == message.job:
            self.store.lifetimes.goes_on(message.job)
        self._allocator.active(now)
        self.leases.start(message, now)
        self.samples.hasten(now)

    def _worker_started(self, peer: Peer, process_id: bytes, message: WorkerStarted, now: Instant) -> None:
        worker = self.pool.worker(process_id)
        if worker is None or worker.started:
            self._refuse(peer, message, now)
            return
        self.pool.started(worker, peer, message.address, message.pid, now)
        self.leases.worker_started(worker, now)

    def _process_exited(self, event: ProcessExited, now: Instant) -> None:
        worker = self.pool.worker(event.worker_id)
        if worker is None:
            return
        self.pool.exited(worker, now)
        self.actors.worker_gone(worker)
        self.leases.worker_exited(worker, event, now)

    def _fork_failed(self, event: ForkFailed, now: Instant) -> None:
        self._process_exited(ProcessExited(event.worker_id, None, None, event.text), now)

    def _zygote_ready(self, event: ZygoteReady, now: Instant) -> None:
        """Nothing to decide: forks were asked for already. It is in the story."""

    def _zygote_died(self, event: ZygoteDied, now: Instant) -> None:
        lost = self.pool.zygote_died(event, now)
        for worker in lost:
            self.actors.worker_gone(worker)
        self.leases.zygote_died(event, lost, now)

    def _job_ended(self, message: JobEnded, now: Instant) -> None:
        self.pool.job_ended(message.job, now)
        self.store.lifetimes.job_ended(message.job, now)

    # -------------------------------------------------------------------------------------------- memory

    def _make_room(self, now: Instant) -> bool:
        """Give back what is kept only to be quick; return whether there was any."""
        warm = self._allocator.give_back_warm(now)
        return self.pool.retire_used(now) or warm

    # -------------------------------------------------------------------------------------------- people, tests

    def statistics(self) -> AgentStatistics:
        """Return what the agent does now, in numbers."""
        workers: dict[str, int] = {}
        for worker in self.pool.workers():
            workers[worker.state] = workers.get(worker.state, 0) + 1
        leases: dict[str, int] = {}
        for lease in self.leases.leases():
            leases[lease.state] = leases.get(lease.state, 0) + 1
        return AgentStatistics(
            workers=workers,
            leases=leases,
            objects=len(self.store.objects()),
            used_bytes=self._allocator.used_bytes,
            segment_bytes=self._allocator.total_bytes,
            warm_bytes=self._allocator.warm_bytes,
            attached=sum(1 for peer in self._roles if self.store.is_attached(peer)),
            spilled_bytes=self.store.spilled_bytes,
            spill_files=self.store.spill_files,
            waiting_for_room=self.store.waiting,
        )

    def check_invariants(self) -> None:
        """Raise `InternalError` if the state contradicts itself."""
        if self._exiting:
            return
        for part in (self._allocator, self.store, self.pool, self.leases, self.actors, self.transfers):
            broken = part.broken_invariant()
            if broken is not None:
                raise self._story.broken(broken)
