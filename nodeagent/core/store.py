"""The objects of a node's shared memory: who may write, who reads, and when the bytes are used again.

    CreateObject ─▶ reserved ──segment there──▶ created ──SealObject──▶ sealed ──▶ (nobody wants it, no pin) gone
                       └───────────── AbortObject, or the writer is lost ──────────────────────────────────▲

An object is wanted while its owner has not deleted it, or while the cluster has adopted it (it has a name there).
The owner is read off the object's id. An object that nobody wants stays as long as a process has it pinned. Pins
belong to connections: what a process held goes when its connection does.

Descriptors travel once a connection: the store remembers which segments a peer can already read and which it can
write, separately, since a reader's descriptor is read-only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from atoll.exceptions import ObjectLostError, ObjectStoreFullError, ProtocolError
from atoll.ids import OBJECT_ID_BYTES, PROCESS_ID_BYTES
from atoll.nodeagent.core.events import SegmentCreated, SegmentFailed, SendWithSegments
from atoll.nodeagent.core.outbox import Outbox
from atoll.nodeagent.core.segments import Placement, SegmentAllocator, StoreFullError
from atoll.protocol.machine import Instant, Peer
from atoll.protocol.messages import (
    AbortObject,
    AdoptObject,
    CreateObject,
    DeleteObjects,
    DropObject,
    Failed,
    GetObject,
    Message,
    ObjectAdopted,
    ObjectCreated,
    ObjectFound,
    ObjectGone,
    ObjectSealed,
    ReleaseObjects,
    SealObject,
)
from atoll.protocol.values import ObjectInfo

_REMEMBERED_DEAD = 4096


@dataclass(slots=True)
class StoredObject:
    """An object.

    Attributes:
        object_id: Its id.
        size_bytes: As asked for; its placement may be larger.
        placement: Where it lies.
        writer: The connection that creates it, until it is sealed.
        creator: The process that created it.
        request: The `CreateObject` that waits for the segment, or None.
        sealed: Whether others can get it.
        layout: How to read it; opaque.
        pins: Connection to number of pins.
        owned: Whether its owner still wants it.
        name: Its name in the cluster, if the cluster has adopted it; None otherwise.
    """

    object_id: bytes
    size_bytes: int
    placement: Placement
    writer: Peer | None
    creator: bytes
    request: int | None
    owned: bool
    sealed: bool = False
    layout: bytes = b""
    pins: dict[Peer, int] = field(default_factory=dict)
    name: str | None = None

    @property
    def owner(self) -> bytes:
        """The process that the id names."""
        return self.object_id[:PROCESS_ID_BYTES]

    @property
    def wanted(self) -> bool:
        """Whether it must stay although nobody has it pinned."""
        return self.owned or self.name is not None or not self.sealed


class ObjectStore:
    """All objects of the node.

    Args:
        allocator: Places them.
        outbox: Where replies go.
    """

    def __init__(self, allocator: SegmentAllocator, outbox: Outbox) -> None:
        self._allocator = allocator
        self._outbox = outbox
        self._objects: dict[bytes, StoredObject] = {}
        self._processes: dict[Peer, bytes] = {}
        self._known: dict[Peer, dict[tuple[int, bool], None]] = {}
        self._pinned_by: dict[Peer, dict[bytes, None]] = {}
        self._dead: dict[bytes, None] = {}
        self._unconfirmed: dict[bytes, None] = {}

    # ----------------------------------------------------------------------------------------- connections

    def attach(self, peer: Peer, process_id: bytes) -> None:
        """A process will use the store through this connection."""
        self._processes[peer] = process_id
        self._dead.pop(process_id, None)
        self._known.setdefault(peer, {})
        self._pinned_by.setdefault(peer, {})

    def is_attached(self, peer: Peer) -> bool:
        """Whether the connection has attached."""
        return peer in self._processes

    def detach(self, peer: Peer, now: Instant) -> None:
        """The connection is gone: what it wrote and did not seal goes, and so do its pins.

        With the last connection of a process goes what it owned, except what the cluster has adopted.
        """
        process_id = self._processes.pop(peer, None)
        if process_id is None:
            return
        for stored in [o for o in self._objects.values() if o.writer == peer]:
            self._abort(stored, now)
        for object_id in self._pinned_by.pop(peer, {}):
            stored = self._objects[object_id]
            del stored.pins[peer]
            self._collect(stored, now)
        del self._known[peer]
        self._allocator.writer_gone(peer)
        if process_id not in self._processes.values():
            self.owner_gone(process_id, now)

    def job_ended(self, process_id: bytes, now: Instant) -> None:
        """The scheduler has lost a client. One that is attached here lives, and may come back to the scheduler."""
        if process_id not in self._processes.values():
            self.owner_gone(process_id, now)

    def job_goes_on(self, process_id: bytes) -> None:
        """A client that was lost has come back: what is made for it from now on is wanted."""
        self._dead.pop(process_id, None)

    def owner_gone(self, process_id: bytes, now: Instant) -> None:
        """A process is dead: nobody wants what it owned, unless the cluster does."""
        self._dead[process_id] = None
        if len(self._dead) > _REMEMBERED_DEAD:
            del self._dead[next(iter(self._dead))]
        for stored in [o for o in self._objects.values() if o.owner == process_id]:
            stored.owned = False
            self._collect(stored, now)

    # -------------------------------------------------------------------------------------------- writing

    def create(self, peer: Peer, message: CreateObject, now: Instant) -> None:
        """Reserve room and, when the segment is there, say where to write."""
        if len(message.object_id) != OBJECT_ID_BYTES or message.size_bytes < 0:
            self._fail(
                peer, message.request, ProtocolError, "an object needs an id of 20 bytes and a size of 0 or more"
            )
            return
        earlier = self._objects.get(message.object_id)
        if earlier is not None and earlier.pins:
            text = f"object {message.object_id.hex()} exists already and is in use"
            self._fail(peer, message.request, ProtocolError, text)
            return
        try:
            placement = self._allocator.allocate(message.size_bytes, peer)
        except StoreFullError as full:
            self._fail(peer, message.request, ObjectStoreFullError, str(full))
            return
        name = None
        if earlier is not None:
            # A task that is tried again writes its result again; the first attempt's bytes are nobody's.
            name = earlier.name
            self._remove(earlier, now)
        stored = StoredObject(
            object_id=message.object_id,
            size_bytes=message.size_bytes,
            placement=placement,
            writer=peer,
            creator=self._processes[peer],
            request=message.request,
            owned=message.object_id[:PROCESS_ID_BYTES] not in self._dead,
            name=name,
        )
        self._objects[stored.object_id] = stored
        self._answer_if_ready(stored)

    def _answer_if_ready(self, stored: StoredObject) -> None:
        placement = stored.placement
        segment = self._allocator.segment(placement.segment_id)
        assert segment is not None, "an object lies in a segment that does not exist"
        if not segment.ready or stored.request is None or stored.writer is None:
            return
        new = self._is_new_to(stored.writer, segment.segment_id, writable=True)
        reply = ObjectCreated(stored.request, segment.segment_id, segment.size_bytes, placement.offset, new)
        stored.request = None
        self._send(stored.writer, reply, segment.segment_id, new, writable=True)

    def segment_created(self, event: SegmentCreated, now: Instant) -> None:
        """Answer those who waited for the segment."""
        self._allocator.created(event.segment_id)
        for stored in self._in_segment(event.segment_id):
            self._answer_if_ready(stored)

    def segment_failed(self, event: SegmentFailed, now: Instant) -> None:
        """Tell those who waited that there is no memory."""
        for stored in self._in_segment(event.segment_id):
            del self._objects[stored.object_id]
            if stored.writer is not None and stored.request is not None:
                self._fail(stored.writer, stored.request, ObjectStoreFullError, event.text)
            self._tell_gone(stored)
        self._allocator.failed(event.segment_id)

    def _in_segment(self, segment_id: int) -> list[StoredObject]:
        return [o for o in self._objects.values() if o.placement.segment_id == segment_id]

    def seal(self, peer: Peer, message: SealObject, now: Instant) -> None:
        """Make an object readable; its writer writes no more."""
        stored = self._objects.get(message.object_id)
        if stored is None or stored.writer != peer or stored.request is not None:
            text = f"object {message.object_id.hex()} is not being written by this process"
            self._fail(peer, message.request, ObjectLostError, text)
            return
        stored.sealed = True
        stored.writer = None
        stored.layout = message.layout
        if message.pin:
            self._pin(stored, peer)
        self._outbox.send(peer, ObjectSealed(message.request))
        self._collect(stored, now)

    def abort(self, peer: Peer, message: AbortObject, now: Instant) -> None:
        """Give up an object that this peer is writing."""
        stored = self._objects.get(message.object_id)
        if stored is not None and stored.writer == peer:
            self._abort(stored, now)

    def _abort(self, stored: StoredObject, now: Instant) -> None:
        self._tell_gone(stored)
        self._remove(stored, now)

    # -------------------------------------------------------------------------------------------- reading

    def get(self, peer: Peer, message: GetObject) -> None:
        """Pin an object and say where it is."""
        stored = self._objects.get(message.object_id)
        if stored is None or not stored.sealed:
            state = "is not in the store of this node" if stored is None else "is not written yet"
            self._fail(peer, message.request, ObjectLostError, f"object {message.object_id.hex()} {state}")
            return
        self._pin(stored, peer)
        segment = self._allocator.segment(stored.placement.segment_id)
        assert segment is not None, "an object lies in a segment that does not exist"
        new = self._is_new_to(peer, segment.segment_id, writable=False)
        reply = ObjectFound(
            message.request,
            segment.segment_id,
            segment.size_bytes,
            stored.placement.offset,
            stored.size_bytes,
            stored.layout,
            new,
        )
        self._send(peer, reply, segment.segment_id, new, writable=False)

    def release(self, peer: Peer, message: ReleaseObjects, now: Instant) -> None:
        """Take one pin off each object."""
        for object_id in message.object_ids:
            stored = self._objects.get(object_id)
            if stored is None or peer not in stored.pins:
                continue
            stored.pins[peer] -= 1
            if stored.pins[peer] == 0:
                del stored.pins[peer]
                del self._pinned_by[peer][object_id]
                self._collect(stored, now)

    # ------------------------------------------------------------------------------------------- lifetime

    def delete(self, peer: Peer, message: DeleteObjects, now: Instant) -> None:
        """The owner, or who made an object for it, wants these no more. Others have no say."""
        process_id = self._processes[peer]
        for object_id in message.object_ids:
            stored = self._objects.get(object_id)
            if stored is None or process_id not in {stored.owner, stored.creator}:
                continue
            stored.owned = False
            if stored.writer == peer:
                self._abort(stored, now)
            else:
                self._collect(stored, now)

    def adopt(self, message: AdoptObject) -> None:
        """The cluster wants the object from now on."""
        stored = self._objects.get(message.object_id)
        if stored is None:
            self._outbox.tell_scheduler(ObjectGone(message.object_id))
        else:
            stored.name = message.name
            self._unconfirmed.pop(message.object_id, None)
            self._outbox.tell_scheduler(ObjectAdopted(message.object_id))

    def await_confirmations(self) -> None:
        """The node registers: the scheduler may have lost names, or given them up, while it was away."""
        self._unconfirmed = {stored.object_id: None for stored in self._objects.values() if stored.name is not None}

    def drop_unconfirmed(self, now: Instant) -> None:
        """The scheduler has named all that the cluster still has here."""
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        for object_id in unconfirmed:
            self.drop(DropObject(object_id), now)

    def drop(self, message: DropObject, now: Instant) -> None:
        """The cluster wants it no more; its owner may."""
        stored = self._objects.get(message.object_id)
        if stored is not None:
            stored.name = None
            self._collect(stored, now)

    def _pin(self, stored: StoredObject, peer: Peer) -> None:
        stored.pins[peer] = stored.pins.get(peer, 0) + 1
        self._pinned_by[peer][stored.object_id] = None

    def _collect(self, stored: StoredObject, now: Instant) -> None:
        if not stored.wanted and not stored.pins:
            self._remove(stored, now)

    def _remove(self, stored: StoredObject, now: Instant) -> None:
        assert not stored.pins, "the bytes of a pinned object are not used again"
        del self._objects[stored.object_id]
        self._allocator.free(stored.placement, now)

    def _tell_gone(self, stored: StoredObject) -> None:
        if stored.name is not None:
            self._outbox.tell_scheduler(ObjectGone(stored.object_id))

    # -------------------------------------------------------------------------------------------- replies

    def _is_new_to(self, peer: Peer, segment_id: int, *, writable: bool) -> bool:
        known = self._known[peer]
        if (segment_id, writable) in known:
            return False
        known[(segment_id, writable)] = None
        return True

    def _send(self, peer: Peer, message: Message, segment_id: int, new: bool, *, writable: bool) -> None:
        if new:
            self._outbox.do(SendWithSegments(peer, message, [(segment_id, writable)]))
        else:
            self._outbox.send(peer, message)

    def _fail(self, peer: Peer, request: int, kind: type[Exception], text: str) -> None:
        self._outbox.send(peer, Failed(request, kind.__name__, text))

    def forget_destroyed(self, segment_id: int) -> None:
        """No peer will be asked to know this segment again."""
        for known in self._known.values():
            known.pop((segment_id, True), None)
            known.pop((segment_id, False), None)

    # --------------------------------------------------------------------------------------------- people

    @property
    def used_bytes(self) -> int:
        """What objects have reserved."""
        return self._allocator.used_bytes

    @property
    def capacity_bytes(self) -> int:
        """What the store holds at most."""
        return self._allocator.capacity_bytes

    def objects(self) -> list[StoredObject]:
        """Return all objects, oldest first."""
        return list(self._objects.values())

    def describe(self, limit: int) -> list[ObjectInfo]:
        """Return the sealed objects as people look at them: those with names, then the largest, at most `limit`."""
        sealed = [o for o in self._objects.values() if o.sealed]
        if len(sealed) > limit:
            sealed.sort(key=lambda o: (o.name is None, -o.size_bytes))
            del sealed[limit:]
        return [
            ObjectInfo(o.object_id, o.size_bytes, len(o.pins), o.name or "", o.owner if o.owned else b"")
            for o in sealed
        ]

    def broken_invariant(self) -> str | None:
        """Return what does not add up, or None."""
        reserved = sum(o.placement.size_bytes for o in self._objects.values())
        if reserved != self._allocator.used_bytes:
            return f"objects reserve {reserved} bytes, the allocator counts {self._allocator.used_bytes}"
        ends: dict[int, int] = {}
        for stored in sorted(self._objects.values(), key=lambda o: (o.placement.segment_id, o.placement.offset)):
            placement = stored.placement
            if placement.offset < ends.get(placement.segment_id, 0):
                return f"two objects overlap in segment {placement.segment_id} at {placement.offset}"
            ends[placement.segment_id] = placement.offset + placement.size_bytes
            if placement.size_bytes < stored.size_bytes:
                return f"object {stored.object_id.hex()} is larger than its place"
            if stored.sealed and not stored.wanted and not stored.pins:
                return f"object {stored.object_id.hex()} is neither wanted nor pinned and still here"
            if not stored.sealed and (stored.pins or stored.writer is None):
                return f"object {stored.object_id.hex()} is not sealed, yet pinned or without a writer"
            for peer in stored.pins:
                if stored.object_id not in self._pinned_by.get(peer, {}):
                    return f"a pin of peer {peer} is not in its list"
        if sum(len(ids) for ids in self._pinned_by.values()) != sum(len(o.pins) for o in self._objects.values()):
            return "a peer's list has a pin that no object has"
        return None
