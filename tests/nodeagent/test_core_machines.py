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
    ReturnPins,
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
    readers: list[Peer] = field(default_factory=list)
    restoring: bool = False

    @property
    def lives(self) -> bool:
        return not self.sealed or self.wanted or self.adopted or bool(self.pins) or self.waited_for

    @property
    def waited_for(self) -> bool:
        return bool(self.readers) or self.restoring


class StoreMachine(RuleBasedStateMachine):
    peers = Bundle("peers")
    ids = Bundle("ids")

    @initialize()
    def begin(self) -> None:
        self.driver = CoreDriver(CAPACITY, prepared_bytes=8 * MIB)
        self.model: dict[bytes, ModelObject] = {}
        self.memory: dict[tuple[int, int], bytes] = {}  # which object's bytes lie where
        self.disk: dict[tuple[int, int], bytes] = {}
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
            stored.readers = [reader for reader in stored.readers if reader != peer]
            if stored.writer == peer and not stored.sealed:
                del self.model[object_id]
            if object_id.startswith(process_id):
                stored.wanted = False
        self.look()

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
        self.model[object_id] = ModelObject(object_id, peer, size)
        self.driver.message(peer, CreateObject(self.numbers, object_id, size))
        failed = self.driver.said(Failed, peer)
        if failed:
            assert size > CAPACITY, "only what can never fit is refused at once"
            del self.model[object_id]
            return object_id
        self.look()
        return object_id

    @rule(target=ids, peer=peers, size=st.sampled_from([500, MIB, 4 * MIB, 9 * MIB, 15 * MIB]), pin=st.booleans())
    def put(self, peer: Peer, size: int, pin: bool) -> bytes:
        """An object as most of them are: its memory is there, and it is sealed."""
        object_id = self.create(peer, size, peer)
        self.driver.make_segments()
        self.look()
        if object_id in self.model and self.model[object_id].created:
            self.seal(object_id, peer, pin)
        return object_id

    @precondition(lambda self: self.driver.making)
    @rule(data=st.data(), fails=st.integers(0, 5).map(lambda n: n == 0))
    def finish_segment(self, data: st.DataObject, fails: bool) -> None:
        segment_id = data.draw(st.sampled_from(sorted(self.driver.making)))
        size = self.driver.making.pop(segment_id)
        if not fails:
            self.driver.segments[segment_id] = size
            self.driver.event(SegmentCreated(segment_id))
        else:
            self.driver.event(SegmentFailed(segment_id, "no memory"))
        self.look()

    def of_request(self, number: int) -> ModelObject:
        (stored,) = [o for o in self.model.values() if int.from_bytes(o.object_id[8:], "big") == number]
        return stored

    def look(self) -> None:
        """Take in what the core has told and asked for."""
        for stored in self.model.values():
            stored.restoring = stored.object_id in self.driver.restoring
        for peer in self.connected:
            for created in self.driver.said(ObjectCreated, peer):
                self.see_created(self.of_request(created.request), created)
            for found in self.driver.said(ObjectFound, peer):
                self.see_found(self.of_request(found.request), peer, found)
            for failed in self.driver.said(Failed, peer):
                stored = self.of_request(failed.request)
                if peer in stored.readers:
                    stored.readers.remove(peer)
                else:
                    assert failed.kind == "ObjectStoreFullError"
                    assert stored.writer == peer
                    assert not stored.created
                    del self.model[stored.object_id]
        self.tidy()

    def see_created(self, stored: ModelObject, created: ObjectCreated) -> None:
        stored.created = True
        stored.segment, stored.offset = created.segment_id, created.offset
        assert created.offset % 64 == 0
        size = self.driver.segments[created.segment_id]
        assert created.segment_bytes == size, "it is ready"
        assert created.offset + stored.size <= size
        self.fill(created.segment_id, created.offset, stored.object_id, stored.size)

    def see_found(self, stored: ModelObject, peer: Peer, found: ObjectFound) -> None:
        assert found.size_bytes == stored.size
        assert self.driver.segments[found.segment_id] == found.segment_bytes
        assert self.memory[found.segment_id, found.offset] == stored.object_id, "another object's bytes are there"
        stored.readers.remove(peer)
        stored.pins[peer] = stored.pins.get(peer, 0) + 1
        stored.segment, stored.offset = found.segment_id, found.offset

    def fill(self, segment_id: int, offset: int, object_id: bytes, size: int) -> None:
        """Bytes are written, by a process or from disk: over nobody's who is being written or read."""
        for place, other_id in list(self.memory.items()):
            other = self.model.get(other_id)
            other_size = other.size if other is not None else 1
            if place[0] == segment_id and offset < place[1] + other_size and place[1] < offset + max(size, 1):
                in_use = other is not None and other_id != object_id and (other.pins or not other.sealed)
                mine = in_use and (other.segment, other.offset) == place  # type: ignore[union-attr]
                assert not mine or not size or not other_size, f"{object_id.hex()} is written over {other}"
                del self.memory[place]
        self.memory[segment_id, offset] = object_id

    @precondition(lambda self: self.driver.spilling)
    @rule(data=st.data(), fails=st.integers(0, 4).map(lambda n: n == 0))
    def finish_spill(self, data: st.DataObject, fails: bool) -> None:
        self.spill(data.draw(st.sampled_from(sorted(self.driver.spilling))), fails)

    def spill(self, file_id: int, fails: bool = False) -> None:
        offset = 0
        for piece in self.driver.spilling[file_id].pieces:
            # Of an object that was given up meanwhile, whatever lies there now is copied.
            self.disk[file_id, offset] = self.memory.get((piece.segment_id, piece.offset), b"")
            offset += piece.size_bytes
        self.driver.finish_spill(file_id, "the disk is full" if fails else "")
        self.look()

    @precondition(lambda self: self.driver.restoring)
    @rule(data=st.data(), fails=st.integers(0, 4).map(lambda n: n == 0))
    def finish_restore(self, data: st.DataObject, fails: bool) -> None:
        object_id = data.draw(st.sampled_from(sorted(self.driver.restoring)))
        action = self.driver.restoring[object_id]
        stored = self.model[object_id]
        self.fill(
            action.piece.segment_id, action.piece.offset, self.disk[action.file_id, action.file_offset], stored.size
        )
        self.driver.finish_restore(object_id, "it is damaged" if fails else "")
        stored.restoring = False
        if fails:
            for peer in stored.readers:
                assert self.driver.said(Failed, peer)
            assert not stored.pins
            del self.model[object_id]
        self.look()

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
        self.driver.message(peer, GetObject(int.from_bytes(object_id[8:], "big"), object_id))
        if stored is None or not stored.sealed:
            assert not self.driver.said(ObjectFound, peer)
            assert self.driver.said(Failed, peer)
            return
        stored.readers.append(peer)
        self.look()

    @precondition(lambda self: any(stored.sealed for stored in self.model.values()))
    @rule(data=st.data(), peer=peers)
    def get_what_is_there(self, data: st.DataObject, peer: Peer) -> None:
        self.get(data.draw(st.sampled_from([o.object_id for o in self.model.values() if o.sealed])), peer)

    @rule(target=ids, peer=peers)
    def fill_the_store(self, peer: Peer) -> bytes:
        """Three of these are more than the store holds: what nobody has pinned is spilled."""
        object_id = self.put(peer, 13 * MIB, pin=False)
        for file_id in list(self.driver.spilling):
            self.spill(file_id)
        return object_id

    @rule(object_id=ids, peer=peers)
    def release(self, object_id: bytes, peer: Peer) -> None:
        self.driver.message(peer, ReleaseObjects([object_id]))
        stored = self.model.get(object_id)
        if stored is not None and peer in stored.pins:
            stored.pins[peer] -= 1
            if not stored.pins[peer]:
                del stored.pins[peer]
        elif stored is not None and peer in stored.readers:
            stored.readers.remove(peer)
        self.look()

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
        self.look()

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

    @rule(seconds=st.sampled_from([0.1, 5.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.driver.advance(seconds)
        self.look()

    @precondition(lambda self: self.connected)
    @rule()
    def pins_are_returned(self) -> None:
        """Whoever is asked back what is only at hand returns it."""
        for peer in self.connected:
            for asked in self.driver.said(ReturnPins, peer):
                for object_id in asked.object_ids:
                    self.release(object_id, peer)

    @invariant()
    def the_same_objects_live(self) -> None:
        if not hasattr(self, "driver"):
            return
        there = {o.object_id for o in self.driver.core.store.objects()}
        assert there == set(self.model)
        assert set(self.driver.files) | set(self.driver.spilling) >= {
            o.copy.file_id for o in self.driver.core.store.objects() if o.copy is not None
        }
        statistics = self.driver.core.statistics()
        made = sum(self.driver.segments.values()) + sum(self.driver.making.values())
        assert statistics.segment_bytes == made <= CAPACITY
        for stored in self.model.values():
            if stored.pins or (stored.created and not stored.sealed):
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
    @rule(data=st.data(), transient=st.booleans())
    def zygote_dies(self, data: st.DataObject, transient: bool) -> None:
        digest = data.draw(st.sampled_from(sorted(self.zygotes)))
        self.zygotes.remove(digest)
        workers = [w.worker_id for w in self.driver.core.pool.workers() if w.key.environment == digest]
        self.driver.event(ZygoteDied(digest, "RuntimeEnvSetupError", "gone", transient))
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
