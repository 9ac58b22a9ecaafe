"""SIMULATED shells of the daemons around their real cores: the scheduler's journal, the agent's processes."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from atoll.ids import OBJECT_ID_BYTES
from atoll.nodeagent.core.agent import AgentCore
from atoll.nodeagent.core.events import (
    AgentUnreachable,
    CheckpointDevices,
    ClaimDevices,
    CreateSegment,
    CutSegment,
    DeleteSpillFile,
    DestroySegment,
    DeviceMemory,
    DeviceMemoryMeasured,
    DevicesCheckpointed,
    DevicesClaimed,
    DialAgent,
    DialScheduler,
    ForkFailed,
    ForkWorker,
    KillWorker,
    MeasureDeviceMemory,
    MeasureMemory,
    MemoryMeasured,
    NodeObserved,
    ObserveNode,
    ProcessExited,
    RestoreCheckpoint,
    RestoreObject,
    SegmentCreated,
    SegmentFailed,
    SendPiece,
    SendWithSegments,
    SpillObjects,
    StartZygote,
    StopZygote,
    UnlockDevices,
    WorkerForked,
    WorkerMemory,
    WritePiece,
    ZygoteDied,
    ZygoteReady,
)
from atoll.nodeagent.core.events import Exit as AgentExit
from atoll.nodeagent.core.node import NodeDescription
from atoll.protocol.machine import Action, Instant, Peer, PeerConnected
from atoll.protocol.messages import ObjectPiece
from atoll.protocol.values import Device, DeviceSample
from atoll.resources import CPU, GPU, MEMORY, UNITS_PER_ONE
from atoll.scheduler.core.events import Exit, PersistRecord, RecordsRestored, RemoveRecord, Warn
from atoll.scheduler.core.scheduler import Scheduler
from atoll.testing import Machine
from tests.sim.client_process import WithSegment
from tests.sim.simulated_disk import SimulatedDisk
from tests.sim.simulated_store import Extent, Memory
from tests.sim.worker_process import WorkerProcess

if TYPE_CHECKING:
    from tests.sim.world import World

DIAL_AGAIN_S = 0.03
MIB = 2**20
HOST_BYTES = 16 * 2**30


class SimulatedJournal:
    """What outlives the scheduler's process. A record is whole or not there: SQLite's log has checksums.

    A record that was being written when the process died may be left torn: of a new key, as a record that cannot be
    read; of a known one, the record before it stays.
    """

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], bytes] = {}

    def read(self) -> list[tuple[str, str, bytes]]:
        """Return all records, oldest first."""
        return [(table, key, value) for (table, key), value in self.records.items()]

    def tear(self, action: PersistRecord) -> None:
        """The process dies while it writes a record."""
        self.records.setdefault((action.table, action.key), action.value[: len(action.value) // 2])


class SchedulerProcess(Machine):
    """The scheduler.

    Args:
        world: Where it lives.
        number: How often there was one before.
        journal: What they wrote down.
    """

    core: Scheduler

    def __init__(self, world: World, number: int, journal: SimulatedJournal) -> None:
        core = Scheduler(
            world.simulation.clock.now, wall_offset=0.0, cluster_id="simulated", version="0", rules=world.rules
        )
        super().__init__(
            world.simulation,
            f"scheduler-{number}",
            core,
            role="scheduler",
            process_id=b"sched%03d" % number,
            host=world.scheduler_host,
        )
        self.world = world
        self.journal = journal
        self.started_at = world.simulation.clock.now
        self.warnings: list[str] = []
        self.dies_writing = False
        world.simulation.add(self)
        self.after(0.0, "starts", self._start)

    def _start(self) -> None:
        self.deliver(RecordsRestored(self.journal.read()))
        self.network.listen(self, "scheduler")

    def carry_out(self, action: Action) -> None:
        if isinstance(action, PersistRecord) and self.dies_writing:
            self.simulation.faults["torn record"] += 1
            self.journal.tear(action)
            self.simulation.crash(self)
        elif isinstance(action, PersistRecord):
            self.journal.records[action.table, action.key] = action.value
        elif isinstance(action, RemoveRecord):
            self.journal.records.pop((action.table, action.key), None)
        elif isinstance(action, Warn):
            self.warnings.append(action.text)
            self.simulation.note(self.name, "warns", action.text)
        elif isinstance(action, Exit):
            self.simulation.stop(self)
        else:
            super().carry_out(action)


class Zygote:
    """SIMULATED: forks workers once it is ready, and kills those that it has forked, in the order it was told."""

    def __init__(self) -> None:
        self.ready = False
        self.orders: deque[ForkWorker | KillWorker] = deque()


class AgentProcess(Machine):
    """A node agent.

    Args:
        world: Where it lives.
        host: Its host.
        node_id: New for each agent.
        cpus: Of its node.
        gpus: Of its node, simulated.
        store_bytes: What its store holds at most.
    """

    core: AgentCore

    def __init__(self, world: World, host: str, node_id: bytes, cpus: int, gpus: int, store_bytes: int) -> None:
        self.devices = [
            Device(f"SIM-GPU-{host}-{index}", index, "simulated GPU", 16 * 2**30, simulated=True)
            for index in range(gpus)
        ]
        resources = {CPU: cpus * UNITS_PER_ONE, MEMORY: HOST_BYTES * UNITS_PER_ONE}
        if gpus:
            resources[GPU] = gpus * UNITS_PER_ONE
        node = NodeDescription(node_id, host, 1, f"agent/{host}", resources, self.devices, {}, store_bytes)
        core = AgentCore(node, world.new_worker_id, world.simulation.clock.now, prepared_bytes=2 * MIB)
        super().__init__(world.simulation, f"agent-{host}", core, role="agent", process_id=node_id, host=host)
        self.world = world
        self.random = world.simulation.random_for(f"agent-{node_id.hex()}")
        self._driver = world.simulation.random_for(f"driver-{node_id.hex()}")
        self._looking = world.simulation.random_for(f"looks-{node_id.hex()}")
        self.memory = Memory()
        self.disk = SimulatedDisk(self, self.memory, world.options)
        self.workers: dict[bytes, WorkerProcess] = {}
        self.scheduler_peer: Peer | None = None
        self._zygotes: dict[str, Zygote] = {}
        self._device_bytes: dict[str, dict[bytes, int]] = {device.uuid: {} for device in self.devices}
        self._full_until = 0.0
        self._pids = 100
        world.simulation.add(self)
        self.network.listen(self, f"agent/{host}")
        self.after(0.0, "starts", lambda: self.perform(self.core.start()))

    # ------------------------------------------------------------------------------------------- connections

    def connected(self, peer: Peer, role: str, process_id: bytes, tag: Any) -> None:
        if role == "scheduler":
            self.scheduler_peer = peer
        self.deliver(PeerConnected(peer, role, process_id))

    def lost(self, peer: Peer, cause: str) -> None:
        if peer == self.scheduler_peer:
            self.scheduler_peer = None
            for worker in self.workers.values():
                worker.cut_off_at = self.simulation.clock.now
        super().lost(peer, cause)

    def refused(self, tag: Any, cause: str) -> None:
        if isinstance(tag, bytes):
            self.deliver(AgentUnreachable(tag, cause))
        else:
            self.after(DIAL_AGAIN_S, "dials again", self._dial)

    def _dial(self) -> None:
        self.network.dial(self, "scheduler", "scheduler")

    def carry_out(self, action: Action) -> None:
        match action:
            case SendWithSegments():
                self.send(action.peer, WithSegment(action.message, self.memory))
            case StartZygote():
                self._start_zygote(action.digest)
            case StopZygote():
                self._zygotes.pop(action.digest, None)
            case ForkWorker() | KillWorker():
                self._order(action)
            case CreateSegment():
                self._create_segment(action)
            case SpillObjects() | RestoreObject() | DeleteSpillFile():
                self.disk.carry_out(action)
            case ClaimDevices() | UnlockDevices() | MeasureDeviceMemory():
                self._look_after_devices(action)
            case CheckpointDevices() | RestoreCheckpoint():
                self.after(self.random.uniform(0.01, 0.2), "checkpointed", lambda: self._checkpointed(action))
            case MeasureMemory():
                self.after(self._looking.uniform(2e-4, 2e-3), "looked", lambda: self._looked(action))
            case ObserveNode():
                observed = NodeObserved(10.0, 2**30, 2**33, [], [])
                self.after(self.random.uniform(1e-3, 5e-3), "observed", lambda: self.deliver(observed))
            case DialScheduler():
                self._dial()
            case AgentExit():
                self.simulation.note(self.name, "exits", action.cause)
                self.simulation.stop(self)
            case _:
                if not self._move_memory(action):
                    super().carry_out(action)

    def _move_memory(self, action: Action) -> bool:
        """Do what changes memory, or brings objects from node to node; False if it is something else."""
        match action:
            case DestroySegment():
                self.memory.sizes.pop(action.segment_id, None)
            case CutSegment():
                self.memory.sizes[action.segment_id] = action.size_bytes
            case DialAgent():
                self.network.dial(self, action.path, action.node_id)
            case SendPiece():
                piece = action.piece
                whose = self.memory.copy_out(Extent(piece.segment_id, piece.offset, piece.size_bytes))
                self.send(action.peer, ObjectPiece(action.request, whose.ljust(action.size_bytes, b"\0")))
            case WritePiece():
                self._write_piece(action)
            case _:
                return False
        return True

    def _write_piece(self, action: WritePiece) -> None:
        """Of an object's bytes the first say whose they are; a part that does not say so is of another object."""
        if action.offset == 0:
            piece = action.piece
            extent = Extent(piece.segment_id, piece.offset, piece.size_bytes)
            self.memory.write(self.name, extent, action.data[:OBJECT_ID_BYTES])
            self.world.outcomes["object fetched"] += 1

    # ------------------------------------------------------------------------------------------------ processes

    def _start_zygote(self, digest: str) -> None:
        zygote = self._zygotes[digest] = Zygote()
        if self.random.random() < self.world.options.failing_zygotes:
            self.simulation.faults["zygote does not start"] += 1
            self.after(0.05, "zygote fails", lambda: self.zygote_died(digest, zygote, was_ready=False))
        else:
            self.after(self.random.uniform(0.02, 0.2), "zygote ready", lambda: self._zygote_ready(digest, zygote))

    def _zygote_ready(self, digest: str, zygote: Zygote) -> None:
        if self._zygotes.get(digest) is zygote:
            zygote.ready = True
            self.deliver(ZygoteReady(digest))
            self._work(digest, zygote)

    def zygote_died(self, digest: str, zygote: Zygote | None = None, *, was_ready: bool) -> None:
        """The process that forks is gone, and what it has forked."""
        if digest not in self._zygotes or (zygote is not None and self._zygotes[digest] is not zygote):
            return
        del self._zygotes[digest]
        for worker in list(self.workers.values()):
            if worker.environment == digest:
                del self.workers[worker.process_id]
                self.simulation.crash(worker)
        kind = "WorkerCrashedError" if was_ready else "RuntimeEnvSetupError"
        self.deliver(ZygoteDied(digest, kind, "the zygote is gone", was_ready))

    def zygotes(self) -> list[str]:
        """Return the environments whose zygotes can fork."""
        return [digest for digest, zygote in self._zygotes.items() if zygote.ready]

    def _order(self, action: ForkWorker | KillWorker) -> None:
        for digest, zygote in self._zygotes.items():
            known = isinstance(action, KillWorker) and any(
                isinstance(order, ForkWorker) and order.worker_id == action.worker_id for order in zygote.orders
            )
            if known or (isinstance(action, ForkWorker) and digest == action.environment):
                zygote.orders.append(action)
                self._work(digest, zygote)
                return
        if isinstance(action, KillWorker) and action.worker_id in self.workers:
            worker = self.workers[action.worker_id]
            self.after(self.random.uniform(1e-4, 1e-2), "kills", lambda: self.simulation.crash(worker))

    def _work(self, digest: str, zygote: Zygote) -> None:
        if zygote.ready and zygote.orders:
            delay_s = self.random.uniform(5e-4, 4e-3)
            self.after(delay_s, "zygote works", lambda: self._do_next(digest, zygote))

    def _do_next(self, digest: str, zygote: Zygote) -> None:
        if self._zygotes.get(digest) is not zygote or not zygote.orders:
            return
        order = zygote.orders.popleft()
        if isinstance(order, ForkWorker):
            self._fork(order)
        elif order.worker_id in self.workers:
            self.simulation.crash(self.workers[order.worker_id])
        self._work(digest, zygote)

    def _fork(self, order: ForkWorker) -> None:
        if self.random.random() < self.world.options.failing_forks:
            self.simulation.faults["fork fails"] += 1
            self.deliver(ForkFailed(order.worker_id, "no process could be made"))
            return
        self._pids += 1
        self.deliver(WorkerForked(order.worker_id, self._pids))
        worker = WorkerProcess(self.world, self.host, order.worker_id, self._pids, order.environment, order.devices)
        self.workers[order.worker_id] = worker
        self.world.worker_began(worker, self)
        for uuid in order.devices:
            self.world.device_locks[uuid][order.worker_id] = None  # inherited
            self._device_bytes[uuid][order.worker_id] = self.random.randrange(4) * 256 * MIB

    def worker_ended(self, worker: WorkerProcess, crashed: bool) -> None:
        """A worker's process is gone: it is reaped a moment later, and a driver frees its memory when it likes."""
        if self.workers.pop(worker.process_id, None) is None:
            return  # it went with its zygote
        exited = ProcessExited(worker.process_id, None if crashed else 0, 9 if crashed else None)
        self.after(self.random.uniform(1e-4, 2e-3), "reaped", lambda: self.deliver(exited))

    def ended(self, crashed: bool) -> None:
        workers, self.workers = list(self.workers.values()), {}
        for worker in workers:
            dies_in_s = self.random.uniform(0.0, 5e-3)
            if worker.devices and self._driver.random() < 0.5:  # it hangs in the driver, as they do
                dies_in_s = self._driver.uniform(0.0, 2.0)
                self.simulation.pause(worker, dies_in_s + 1.0)
            self.simulation.after(dies_in_s, "dies", partial(self.simulation.crash, worker))
        for holders in self.world.device_locks.values():
            holders.pop(self.process_id, None)
        self.world.agent_ended(self)

    # --------------------------------------------------------------------------------------- memory and devices

    def _create_segment(self, action: CreateSegment) -> None:
        self.memory.sizes[action.segment_id] = action.size_bytes
        fails = self.random.random() < self.world.options.failing_segments

        def reserved() -> None:
            if action.segment_id not in self.memory.sizes:
                return  # given up meanwhile
            if fails:
                self.simulation.faults["segment fails"] += 1
                del self.memory.sizes[action.segment_id]
                self.deliver(SegmentFailed(action.segment_id, "no memory"))
            else:
                self.deliver(SegmentCreated(action.segment_id))

        self.after(self.random.uniform(1e-4, 3e-3), "reserved", reserved)

    def fill(self, for_s: float) -> None:
        """Something takes the host's memory for a while, and what runs has more of it than before."""
        self._full_until = self.simulation.clock.now + for_s

    def _checkpointed(self, action: CheckpointDevices | RestoreCheckpoint) -> None:
        """The driver has done it, or not; what could not be restored costs the actor."""
        fails = self.random.random() < 0.1
        for worker in self.workers.values():
            if fails and worker.pid == action.pid and isinstance(action, RestoreCheckpoint):
                self.world.killed_actors[worker.actor_id] = None
        self.deliver(DevicesCheckpointed(action.lease_id, "the driver could not" if fails else ""))

    def _looked(self, action: MeasureMemory) -> None:
        """Say what each worker has: some keep to little, and while the host is full some have much."""
        full = self.simulation.clock.now < self._full_until
        found = []
        for worker_id, _pid, exactly in action.workers:
            quick = 64 * MIB + (self._looking.randrange(4) * 256 * MIB if full else 0)
            exact = quick - self._looking.randrange(32) * MIB if exactly else None
            found.append(WorkerMemory(worker_id, quick, exact))
            worker = self.workers.get(worker_id)
            if full and worker is not None and worker.actor_id:
                self.world.killed_actors[worker.actor_id] = None
        self.deliver(MemoryMeasured(found, HOST_BYTES, 0 if full else HOST_BYTES // 2))

    def _look_after_devices(self, action: ClaimDevices | UnlockDevices | MeasureDeviceMemory) -> None:
        if isinstance(action, UnlockDevices):
            for uuid in action.uuids:
                self.world.device_locks.get(uuid, {}).pop(self.process_id, None)
        elif isinstance(action, ClaimDevices):
            self.after(self._driver.uniform(5e-4, 3e-3), "claimed", lambda: self._claim(action))
        else:
            self.after(self.random.uniform(5e-4, 3e-3), "measured", lambda: self._measured(action))

    def _claim(self, action: ClaimDevices) -> None:
        """Lock devices, all or none: a lock lasts as long as its agent, and as any worker that has inherited it."""
        refused = {}
        for uuid in action.uuids:
            holders = self.world.device_locks.setdefault(uuid, {})
            if holders and self.process_id not in holders:
                refused[uuid] = "held by a worker whose node agent has ended"
        if not refused:
            for uuid in action.uuids:
                self.world.device_locks[uuid][self.process_id] = None
        samples = [DeviceSample(uuid, 0.0, 0, trouble=refused.get(uuid, "")) for uuid in action.uuids]
        self.deliver(DevicesClaimed(action.lease_id, samples, self._memory_of(action.uuids, 0), refused))

    def _measured(self, action: MeasureDeviceMemory) -> None:
        self.deliver(DeviceMemoryMeasured(action.lease_id, self._memory_of(action.uuids, action.worker_pid)))

    def _memory_of(self, uuids: list[str], worker_pid: int) -> list[DeviceMemory]:
        by_pid = {worker.pid: worker.process_id for worker in self.workers.values()}
        found = []
        for uuid in uuids:
            held = self._device_bytes[uuid]
            for worker_id in [worker_id for worker_id in held if worker_id not in self.workers]:
                if self.random.random() < 0.6:  # the driver has freed a dead process's memory by now, or not yet
                    del held[worker_id]
            mine = held.get(by_pid.get(worker_pid, b""), 0)
            living = sum(amount for worker_id, amount in held.items() if worker_id in self.workers)
            found.append(DeviceMemory(uuid, sum(held.values()), mine, living - mine))
        return found


__all__ = ["AgentProcess", "Instant", "SchedulerProcess", "SimulatedJournal"]
