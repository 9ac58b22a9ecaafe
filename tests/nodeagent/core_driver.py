"""A core of an agent with a shell around it that carries nothing out: tests say what happened."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import TypeVar

from atoll.nodeagent.core.agent import AgentCore
from atoll.nodeagent.core.events import (
    ClaimDevices,
    CreateSegment,
    CutSegment,
    DeleteSpillFile,
    DestroySegment,
    DeviceMemory,
    DeviceRecord,
    DevicesClaimed,
    ForkWorker,
    KillWorker,
    ObjectRestored,
    ObjectsSpilled,
    ProcessExited,
    RestoreFailed,
    RestoreObject,
    SegmentCreated,
    SpillFailed,
    SpillObjects,
    UnlockDevices,
    WorkerForked,
)
from atoll.nodeagent.core.node import NodeDescription
from atoll.protocol.machine import (
    Action,
    DeadlineReached,
    Event,
    Instant,
    Peer,
    PeerConnected,
    PeerLost,
    Received,
    Send,
)
from atoll.protocol.messages import (
    AttachProcess,
    CreateObject,
    DefineEnvironment,
    Failed,
    GetObject,
    Message,
    ObjectCreated,
    ObjectFound,
    ObjectSealed,
    SealObject,
    StartLease,
    WorkerStarted,
)
from atoll.protocol.values import Device, DeviceSample, DeviceShare, Environment, Outsider, SchedulingClass

MIB = 2**20
SCHEDULER = Peer(1)
JOB = b"job-0001"
ENVIRONMENT = Environment("/usr/bin/python3", [], "/", {})
DEVICES = [Device(f"GPU-{index}", index, "Test device", 16 * 2**30) for index in range(2)]
ActionT = TypeVar("ActionT", bound=Action)
MessageT = TypeVar("MessageT", bound=Message)


def share(index: int, units: int = 10_000) -> DeviceShare:
    return DeviceShare(f"GPU-{index}", index, units)


class CoreDriver:
    """Feeds a core, checks its invariants after every event, remembers its actions."""

    def __init__(
        self,
        capacity: int = 64 * MIB,
        cpus: int = 2,
        connected: bool = True,
        prepared_bytes: int = 0,
        memory_bytes: int = 16 * 2**30,
        no_checkpoint: str = "",
        device_records: Iterable[DeviceRecord] = (),
    ) -> None:
        ids = count(1)
        node = NodeDescription(
            b"node-001",
            "here",
            1,
            "/a.sock",
            {"CPU": 10_000 * cpus, "memory": 10_000 * memory_bytes},
            DEVICES,
            {},
            store_capacity_bytes=capacity,
        )
        self.now = 100.0
        self.core = AgentCore(
            node,
            lambda: b"wk%06d" % next(ids),
            Instant(self.now),
            prepared_bytes=prepared_bytes,
            no_checkpoint=no_checkpoint,
            device_records=device_records,
        )
        self.actions: list[Action] = list(self.core.start())
        self.segments: dict[int, int] = {}
        self.making: dict[int, int] = {}
        self.spilling: dict[int, SpillObjects] = {}
        self.restoring: dict[bytes, RestoreObject] = {}
        self.files: dict[int, SpillObjects] = {}
        self.peers = count(2)
        self.answers_claims = True
        self.in_use: dict[str, int] = {}
        self.locked: dict[str, None] = {}
        if connected:
            self.event(PeerConnected(SCHEDULER, "scheduler", b"schedule"))

    # ------------------------------------------------------------------------------------------------- feeding

    def event(self, event: Event) -> list[Action]:
        actions = self.core.handle(event, Instant(self.now))
        for action in actions:
            if isinstance(action, CreateSegment):
                self.making[action.segment_id] = action.size_bytes
            elif isinstance(action, DestroySegment):
                assert (self.making.pop(action.segment_id, 0) or self.segments.pop(action.segment_id, 0)) > 0
            elif isinstance(action, CutSegment):
                assert action.size_bytes < self.segments[action.segment_id]
                self.segments[action.segment_id] = action.size_bytes
            elif isinstance(action, SpillObjects):
                assert action.pieces
                self.spilling[action.file_id] = action
            elif isinstance(action, RestoreObject):
                assert action.file_id in self.files
                self.restoring[action.object_id] = action
            elif isinstance(action, DeleteSpillFile):
                del self.files[action.file_id]
                assert action.file_id not in {restore.file_id for restore in self.restoring.values()}
        self.core.check_invariants()
        self.actions.extend(actions)
        for action in actions:
            if isinstance(action, ClaimDevices) and self.answers_claims:
                self.claim(action)
            elif isinstance(action, UnlockDevices):
                for uuid in action.uuids:
                    self.locked.pop(uuid, None)
        return actions

    def claim(self, action: ClaimDevices, refused: dict[str, str] | None = None, foreign: int = 0) -> None:
        """Devices are locked, or another cluster has them, or somebody else's memory lies on them."""
        if not refused:
            self.locked.update(dict.fromkeys(action.uuids))
        memory = [DeviceMemory(uuid, self.in_use.get(uuid, 0) + foreign, 0, foreign) for uuid in action.uuids]
        outsiders = [Outsider(123, foreign, "guest")] if foreign else []
        samples = [
            DeviceSample(uuid, 0.0, self.in_use.get(uuid, 0), foreign, outsiders, (refused or {}).get(uuid, ""))
            for uuid in action.uuids
        ]
        self.event(DevicesClaimed(action.lease_id, samples, memory, refused or {}))

    def message(self, peer: Peer, message: Message) -> list[Action]:
        return self.event(Received(peer, message))

    def advance(self, seconds: float) -> None:
        """Let time pass, meeting every deadline on the way."""
        end = self.now + seconds
        while (deadline := self.core.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, float(deadline))
            before = deadline
            self.event(DeadlineReached())
            after = self.core.next_deadline()
            assert after is None or after > before or after > self.now, "a deadline that was met is wanted again"
        self.now = end

    def make_segments(self) -> None:
        """All segments that were asked for are there."""
        for segment_id, size in list(self.making.items()):
            if self.making.pop(segment_id, 0):
                self.segments[segment_id] = size
                self.event(SegmentCreated(segment_id))

    def finish_spill(self, file_id: int, failure: str = "") -> None:
        """A spill file is written, or could not be."""
        action = self.spilling.pop(file_id)
        if failure:
            self.event(SpillFailed(file_id, failure))
            return
        self.files[file_id] = action
        self.event(ObjectsSpilled(file_id, [b"sum%d" % number for number in range(len(action.pieces))]))

    def finish_restore(self, object_id: bytes, failure: str = "") -> None:
        """An object is read back, or its file is not what it was."""
        del self.restoring[object_id]
        self.event(RestoreFailed(object_id, failure) if failure else ObjectRestored(object_id))

    def work_disk(self) -> None:
        """Whatever the disk is to do is done, and memory is there, until nothing is left to do."""
        while self.spilling or self.restoring or self.making:
            self.make_segments()
            for file_id in list(self.spilling):
                self.finish_spill(file_id)
            for object_id in list(self.restoring):
                self.finish_restore(object_id)

    # ------------------------------------------------------------------------------------------------- looking

    def take(self, kind: type[ActionT]) -> list[ActionT]:
        """Return the actions of a kind since they were last taken."""
        found = [action for action in self.actions if isinstance(action, kind)]
        self.actions = [action for action in self.actions if not isinstance(action, kind)]
        return found

    def said(self, kind: type[MessageT], peer: Peer = SCHEDULER) -> list[MessageT]:
        """Return the messages of a kind to a peer since they were last taken."""
        found = []
        rest: list[Action] = []
        for action in self.actions:
            message = getattr(action, "message", None)
            if isinstance(message, kind) and getattr(action, "peer", None) == peer:
                found.append(message)
            else:
                rest.append(action)
        self.actions = rest
        return found

    def sends(self) -> list[Send]:
        return self.take(Send)

    # ------------------------------------------------------------------------------------------------- happenings

    def connect(self, role: str = "client", process_id: bytes = b"client-1", attach: bool = True) -> Peer:
        peer = Peer(next(self.peers))
        self.event(PeerConnected(peer, role, process_id))
        if attach:
            self.message(peer, AttachProcess(1, process_id, 1))
        return peer

    def lose(self, peer: Peer) -> None:
        self.event(PeerLost(peer))

    def define(self, digest: str = "e1", prepare: bool = False) -> None:
        self.message(SCHEDULER, DefineEnvironment(digest, ENVIRONMENT, prepare))

    def start_lease(
        self,
        lease_id: int,
        devices: list[DeviceShare] | None = None,
        dedicated: bool = False,
        job: bytes = JOB,
        digest: str = "e1",
        cpus: int = 1,
        memory_bytes: int = 0,
        preemptible: bool = False,
    ) -> None:
        wanted = SchedulingClass({"CPU": 10_000 * cpus}, digest, preemptible=preemptible)
        if memory_bytes:
            wanted.resources["memory"] = 10_000 * memory_bytes
        self.message(SCHEDULER, StartLease(lease_id, job, wanted, devices or [], dedicated))

    def forks(self) -> list[ForkWorker]:
        return self.take(ForkWorker)

    def run_worker(self, worker_id: bytes, pid: int = 4000) -> Peer:
        """A worker that was asked for is forked and starts."""
        self.event(WorkerForked(worker_id, pid))
        peer = self.connect("worker", worker_id)
        self.message(peer, WorkerStarted(f"/{worker_id.hex()}", pid))
        return peer

    def run_all(self) -> dict[bytes, Peer]:
        return {fork.worker_id: self.run_worker(fork.worker_id) for fork in self.forks()}

    def exit_killed(self) -> list[bytes]:
        """Whatever was to be killed is gone."""
        killed = [action.worker_id for action in self.take(KillWorker)]
        for worker_id in killed:
            self.event(ProcessExited(worker_id, None, 9))
        return killed


# ------------------------------------------------------------------------------------------------------- objects


def object_id(owner: bytes, number: int) -> bytes:
    return owner + number.to_bytes(12, "big")


MINE = object_id(b"client-1", 1)


def create(driver: CoreDriver, peer: Peer, number: bytes, size: int, request: int = 9) -> ObjectCreated:
    driver.message(peer, CreateObject(request, number, size))
    driver.make_segments()
    (created,) = driver.said(ObjectCreated, peer)
    return created


def put(driver: CoreDriver, peer: Peer, number: bytes, size: int = MIB, pin: bool = False) -> ObjectCreated:
    created = create(driver, peer, number, size)
    driver.message(peer, SealObject(10, number, b"how", pin))
    assert driver.said(ObjectSealed, peer) == [ObjectSealed(10)]
    return created


def get(driver: CoreDriver, peer: Peer, number: bytes) -> ObjectFound | Failed:
    driver.message(peer, GetObject(11, number))
    found = driver.said(ObjectFound, peer)
    return found[0] if found else driver.said(Failed, peer)[0]
