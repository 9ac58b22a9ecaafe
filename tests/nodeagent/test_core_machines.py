"""The agent's core under whatever sequence of happenings hypothesis can think of.

A model beside it knows what must hold: no two live objects overlap, the bytes of a pinned object are not used again,
bytes are counted exactly; every lease has exactly one end, and a whole device one holder.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from atoll.nodeagent.core.events import (
    DeviceMemory,
    DeviceMemoryMeasured,
    ForkFailed,
    ForkWorker,
    KillWorker,
    MeasureDeviceMemory,
    ProcessExited,
    SegmentCreated,
    SegmentFailed,
    StartZygote,
    StopZygote,
    WorkerForked,
    ZygoteDied,
)
from atoll.protocol.machine import Peer
from atoll.protocol.messages import (
    AbortObject,
    AdoptObject,
    CreateObject,
    DeleteObjects,
    DropObject,
    EndLease,
    Failed,
    GetObject,
    LeaseEnded,
    LeaseFailed,
    LeaseStarted,
    ObjectCreated,
    ObjectFound,
    ObjectSealed,
    RegisterNode,
    ReleaseObjects,
    SealObject,
    StopWorker,
    WorkerStarted,
)
from tests.nodeagent.core_driver import DEVICES, MIB, SCHEDULER, CoreDriver, share

CAPACITY = 32 * MIB


@dataclass
class ModelObject:
    """What the model knows of an object."""

    object_id: bytes
    writer: Peer
    size: int
    segment: int = 0
    offset: int = 0
    created: bool = False
    sealed: bool = False
    wanted: bool = True
    adopted: bool = False
    pins: dict[Peer, int] = field(default_factory=dict)

    @property
    def lives(self) -> bool:
        return not self.sealed or self.wanted or self.adopted or bool(self.pins)


class StoreMachine(RuleBasedStateMachine):
    peers = Bundle("peers")
    ids = Bundle("ids")

    @initialize()
    def begin(self) -> None:
        self.driver = CoreDriver(CAPACITY)
        self.model: dict[bytes, ModelObject] = {}
        self.connected: dict[Peer, bytes] = {}
        self.numbers = 0

    def tidy(self) -> None:
        self.model = {i: o for i, o in self.model.items() if o.lives}

    @rule(target=peers)
    def connect(self) -> Peer:
        self.numbers += 1
        process_id = b"prc%05d" % self.numbers
        peer = self.driver.connect(process_id=process_id)
        self.connected[peer] = process_id
        return peer

    @rule(peer=consumes(peers))
    def lose(self, peer: Peer) -> None:
        process_id = self.connected.pop(peer)
        self.driver.lose(peer)
        for object_id, stored in list(self.model.items()):
            stored.pins.pop(peer, None)
            if stored.writer == peer and not stored.sealed:
                del self.model[object_id]
            if object_id.startswith(process_id):
                stored.wanted = False
        self.tidy()

    @rule(
        target=ids,
        peer=peers,
        size=st.one_of(st.integers(0, 3000), st.integers(0, 300_000), st.integers(MIB, 40 * MIB)),
        owner=st.one_of(st.none(), peers),
    )
    def create(self, peer: Peer, size: int, owner: Peer | None) -> bytes:
        self.numbers += 1
        prefix = self.connected.get(owner, b"gone-own") if owner is not None else self.connected[peer]
        object_id = prefix + self.numbers.to_bytes(12, "big")
        self.driver.message(peer, CreateObject(self.numbers, object_id, size))
        failed = self.driver.said(Failed, peer)
        if failed:
            assert failed[0].kind == "ObjectStoreFullError"
            used = sum(stored.size for stored in self.model.values())
            # Whatever would fit beside half of the store being used must not be refused.
            assert size + 2 * used > CAPACITY // 2 or len(self.connected) > 4
            return object_id
        self.model[object_id] = ModelObject(object_id, peer, size)
        self.collect_created()
        return object_id

    @precondition(lambda self: self.driver.making)
    @rule(data=st.data(), fails=st.integers(0, 5).map(lambda n: n == 0))
    def finish_segment(self, data: st.DataObject, fails: bool) -> None:
        segment_id = data.draw(st.sampled_from(sorted(self.driver.making)))
        size = self.driver.making.pop(segment_id)
        if not fails:
            self.driver.segments[segment_id] = size
            self.driver.event(SegmentCreated(segment_id))
            self.collect_created()
            return
        self.driver.event(SegmentFailed(segment_id, "no memory"))
        refused = {(peer, failed.request) for peer in self.connected for failed in self.driver.said(Failed, peer)}
        for object_id in list(self.model):
            number = int.from_bytes(object_id[8:], "big")
            if (self.model[object_id].writer, number) in refused:
                del self.model[object_id]

    def collect_created(self) -> None:
        for peer in self.connected:
            for created in self.driver.said(ObjectCreated, peer):
                (stored,) = [
                    o for o in self.model.values() if int.from_bytes(o.object_id[8:], "big") == created.request
                ]
                stored.created = True
                stored.segment, stored.offset = created.segment_id, created.offset
                assert created.offset % 64 == 0
                assert self.driver.segments[created.segment_id] == created.segment_bytes, "it is ready"
                self.check_place(stored)

    def check_place(self, new: ModelObject) -> None:
        assert new.offset + new.size <= self.driver.segments[new.segment]
        for other in self.model.values():
            if other is new or not other.created or other.segment != new.segment:
                continue
            apart = new.offset + new.size <= other.offset or other.offset + other.size <= new.offset
            assert apart or not new.size or not other.size, f"{new} overlaps {other}"

    @rule(object_id=ids, peer=peers, pin=st.booleans())
    def seal(self, object_id: bytes, peer: Peer, pin: bool) -> None:
        stored = self.model.get(object_id)
        self.driver.message(peer, SealObject(1, object_id, b"", pin))
        if stored is not None and stored.writer == peer and stored.created and not stored.sealed:
            assert self.driver.said(ObjectSealed, peer)
            stored.sealed = True
            if object_id.startswith(b"gone-own"):
                stored.wanted = True
            if pin:
                stored.pins[peer] = stored.pins.get(peer, 0) + 1
        else:
            assert self.driver.said(Failed, peer)
        self.tidy()

    @rule(object_id=ids, peer=peers)
    def get(self, object_id: bytes, peer: Peer) -> None:
        stored = self.model.get(object_id)
        self.driver.message(peer, GetObject(1, object_id))
        found = self.driver.said(ObjectFound, peer)
        if stored is None or not stored.sealed:
            assert not found
            assert self.driver.said(Failed, peer)
            return
        assert (found[0].segment_id, found[0].offset) == (stored.segment, stored.offset)
        assert found[0].size_bytes == stored.size
        stored.pins[peer] = stored.pins.get(peer, 0) + 1

    @rule(object_id=ids, peer=peers)
    def release(self, object_id: bytes, peer: Peer) -> None:
        self.driver.message(peer, ReleaseObjects([object_id]))
        stored = self.model.get(object_id)
        if stored is not None and peer in stored.pins:
            stored.pins[peer] -= 1
            if not stored.pins[peer]:
                del stored.pins[peer]
        self.tidy()

    @rule(object_id=ids, peer=peers)
    def delete(self, object_id: bytes, peer: Peer) -> None:
        self.driver.message(peer, DeleteObjects([object_id]))
        stored = self.model.get(object_id)
        if stored is None:
            return
        if object_id.startswith(self.connected[peer]) or stored.writer == peer:
            stored.wanted = False
            if stored.writer == peer and not stored.sealed:
                del self.model[object_id]
        self.tidy()

    @rule(object_id=ids, peer=peers)
    def abort(self, object_id: bytes, peer: Peer) -> None:
        self.driver.message(peer, AbortObject(object_id))
        stored = self.model.get(object_id)
        if stored is not None and stored.writer == peer and not stored.sealed:
            del self.model[object_id]

    @rule(object_id=ids)
    def adopt(self, object_id: bytes) -> None:
        self.driver.message(SCHEDULER, AdoptObject(object_id, "name"))
        if object_id in self.model:
            self.model[object_id].adopted = True

    @rule(object_id=ids)
    def drop(self, object_id: bytes) -> None:
        self.driver.message(SCHEDULER, DropObject(object_id))
        if object_id in self.model:
            self.model[object_id].adopted = False
        self.tidy()

    @rule(seconds=st.sampled_from([0.1, 5.0, 31.0]))
    def wait(self, seconds: float) -> None:
        self.driver.advance(seconds)

    @invariant()
    def the_same_objects_live(self) -> None:
        if not hasattr(self, "driver"):
            return
        there = {o.object_id for o in self.driver.core.store.objects()}
        assert there == set(self.model)
        statistics = self.driver.core.statistics()
        made = sum(self.driver.segments.values()) + sum(self.driver.making.values())
        assert statistics.segment_bytes == made <= CAPACITY
        for stored in self.model.values():
            if stored.created:
                assert stored.segment in self.driver.segments, "the segment of a live object is destroyed"


class WorkerMachine(RuleBasedStateMachine):
    """Leases, with and without devices, on workers that start, die and are killed at any moment."""

    @initialize()
    def begin(self) -> None:
        self.driver = CoreDriver()
        self.next_lease = 1
        self.open: dict[int, str] = {}
        self.devices: dict[int, list[int]] = {}
        self.asked: list[bytes] = []
        self.forked: dict[bytes, int] = {}
        self.connected: dict[bytes, Peer] = {}
        self.killed: set[bytes] = set()
        self.zygotes: set[str] = set()
        self.measuring: list[MeasureDeviceMemory] = []
        self.environments = ["e1", "e2"]
        self.driver.define("e1", prepare=True)
        self.driver.define("e2")
        self.take()

    def take(self) -> None:
        """Carry out what the core asked for, as far as that is done at once, and check what it said."""
        for action in self.driver.take(StartZygote):
            assert action.digest not in self.zygotes
            self.zygotes.add(action.digest)
        for fork in self.driver.take(ForkWorker):
            assert fork.environment in self.zygotes
            self.asked.append(fork.worker_id)
        for stop in self.driver.take(StopZygote):
            self.zygotes.remove(stop.digest)
        self.killed.update(kill.worker_id for kill in self.driver.take(KillWorker))
        self.measuring.extend(self.driver.take(MeasureDeviceMemory))
        for started in self.driver.said(LeaseStarted):
            assert self.open[started.lease_id] == "starting"
            self.open[started.lease_id] = "running"
        for failed in self.driver.said(LeaseFailed):
            assert self.open.pop(failed.lease_id) == "starting"
            self.devices.pop(failed.lease_id)
        for ended in self.driver.said(LeaseEnded):
            assert ended.lease_id in self.open, "a lease ends once"
            del self.open[ended.lease_id]
            self.devices.pop(ended.lease_id)

    def alive(self) -> list[bytes]:
        return [*self.asked, *self.forked, *self.connected]

    @rule(digest=st.sampled_from(["e1", "e2"]), device=st.integers(-2, 1), job=st.integers(1, 2), ded=st.booleans())
    def start_lease(self, digest: str, device: int, job: int, ded: bool) -> None:
        held = {index for devices in self.devices.values() for index in devices}
        if device in held:
            return
        lease_id, self.next_lease = self.next_lease, self.next_lease + 1
        self.open[lease_id] = "starting"
        self.devices[lease_id] = [device] if device >= 0 else []
        shares = [share(device)] if device >= 0 else []
        self.driver.start_lease(lease_id, shares, ded, job=b"job-%04d" % job, digest=digest)
        self.take()

    @precondition(lambda self: self.open)
    @rule(data=st.data(), kill=st.booleans())
    def end_lease(self, data: st.DataObject, kill: bool) -> None:
        lease_id = data.draw(st.sampled_from(sorted(self.open)))
        self.driver.message(SCHEDULER, EndLease(lease_id, kill))
        self.take()

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        worker_id = data.draw(st.sampled_from(self.asked))
        self.asked.remove(worker_id)
        if worker_id in self.killed:
            self.driver.event(ForkFailed(worker_id, "not wanted any more"))
        else:
            self.forked[worker_id] = 5000 + self.next_lease
            self.driver.event(WorkerForked(worker_id, self.forked[worker_id]))
        self.take()

    @precondition(lambda self: self.forked)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        worker_id = data.draw(st.sampled_from(sorted(self.forked)))
        pid = self.forked.pop(worker_id)
        peer = self.driver.connect("worker", worker_id)
        self.connected[worker_id] = peer
        self.driver.message(peer, WorkerStarted("/w", pid))
        self.take()

    @precondition(lambda self: self.forked or self.connected)
    @rule(data=st.data(), signal=st.sampled_from([9, 11]), disconnects_first=st.booleans())
    def exit(self, data: st.DataObject, signal: int, disconnects_first: bool) -> None:
        worker_id = data.draw(st.sampled_from(sorted([*self.forked, *self.connected])))
        self.forked.pop(worker_id, None)
        peer = self.connected.pop(worker_id, None)
        if peer is not None and disconnects_first:
            self.driver.lose(peer)
        self.driver.event(ProcessExited(worker_id, None, signal))
        if peer is not None and not disconnects_first:
            self.driver.lose(peer)
        self.take()

    @precondition(lambda self: self.zygotes)
    @rule(data=st.data(), was_ready=st.booleans())
    def zygote_dies(self, data: st.DataObject, was_ready: bool) -> None:
        digest = data.draw(st.sampled_from(sorted(self.zygotes)))
        self.zygotes.remove(digest)
        workers = [w.worker_id for w in self.driver.core.pool.workers() if w.key.environment == digest]
        self.driver.event(ZygoteDied(digest, "RuntimeEnvSetupError", "gone", was_ready))
        for worker_id in workers:
            if worker_id in self.asked:
                self.asked.remove(worker_id)
            self.forked.pop(worker_id, None)
            peer = self.connected.pop(worker_id, None)
            if peer is not None:
                self.driver.lose(peer)
        self.take()

    @precondition(lambda self: self.measuring)
    @rule(free=st.booleans())
    def measure(self, free: bool) -> None:
        wish = self.measuring.pop(0)
        held = 0 if free else 2**33
        found = [DeviceMemory(uuid, held, held if wish.worker_pid else 0, 0) for uuid in wish.uuids]
        self.driver.event(DeviceMemoryMeasured(wish.lease_id, found))
        self.take()

    @rule(seconds=st.sampled_from([0.2, 3.0, 40.0, 700.0]))
    def wait(self, seconds: float) -> None:
        self.driver.advance(seconds)
        for worker_id, peer in list(self.connected.items()):
            if self.driver.said(StopWorker, peer):
                del self.connected[worker_id]
                self.driver.lose(peer)
                self.driver.event(ProcessExited(worker_id, 0, None))
        self.take()

    @rule()
    def scheduler_returns(self) -> None:
        from atoll.protocol.machine import PeerConnected

        self.driver.lose(SCHEDULER)
        self.driver.said(RegisterNode)
        self.driver.event(PeerConnected(SCHEDULER, "scheduler", b"schedule"))
        (registered,) = self.driver.said(RegisterNode)
        living = {lease_id for lease_id, _worker_id, _address in registered.leases}
        assert living <= set(self.open)
        for lease_id in list(self.open):
            if self.open[lease_id] == "starting" and self.driver.core.leases.lease(lease_id) is None:
                del self.open[lease_id]
                self.devices.pop(lease_id)
        self.take()

    @invariant()
    def every_open_lease_is_known(self) -> None:
        if hasattr(self, "driver"):
            assert {lease.lease_id for lease in self.driver.core.leases.leases()} == set(self.open)
            assert len(DEVICES) == 2

    def teardown(self) -> None:
        """Whatever happened, everything ends once every process does."""
        if not hasattr(self, "driver"):
            return
        for lease_id in list(self.open):
            self.driver.message(SCHEDULER, EndLease(lease_id, kill=True))
        self.take()
        for _turn in range(20):
            for worker_id in self.alive():
                self.driver.event(ProcessExited(worker_id, None, 9))
            self.asked, self.forked, self.connected = [], {}, {}
            while self.measuring:
                self.free_all()
            self.driver.advance(6.0)
            self.take()
        assert self.open == {}

    def free_all(self) -> None:
        wish = self.measuring.pop(0)
        self.driver.event(DeviceMemoryMeasured(wish.lease_id, [DeviceMemory(uuid, 0, 0, 0) for uuid in wish.uuids]))
        self.take()


StoreMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
WorkerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestStore = StoreMachine.TestCase
TestWorkers = WorkerMachine.TestCase
