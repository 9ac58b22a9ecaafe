"""The node's store: who may write an object, and who reads it.

    CreateObject ─▶ waits for room ─▶ reserved ──segment there──▶ created ──SealObject──▶ sealed ──▶ gone
                         └──────────────┴── AbortObject, or the writer is lost ──────────────────────▲
                                                                         nobody wants it, no pin

How long an object lives is decided in `lifetimes.py`. A sealed object that nobody has pinned may lose its memory to
others once there is a copy of it on disk (`room.py`). Whoever asks for it then waits until it was read back.

An object that is written by two attempts of one task is the later one's. The memory of the first stays its own until it
seals, gives up or is lost: it may still be writing there.
"""

from __future__ import annotations

from collections.abc import Callable

from atoll.exceptions import ObjectLostError, ObjectStoreFullError, ProtocolError
from atoll.ids import OBJECT_ID_BYTES, PROCESS_ID_BYTES
from atoll.nodeagent.core.attachments import Attachments
from atoll.nodeagent.core.events import (
    ObjectRestored,
    ObjectsSpilled,
    RestoreFailed,
    RestoreObject,
    SegmentCreated,
    SegmentFailed,
    SendWithSegments,
    SpillFailed,
    SpillPiece,
)
from atoll.nodeagent.core.lifetimes import Lifetimes
from atoll.nodeagent.core.objects import ObjectIndex, StoredObject
from atoll.nodeagent.core.outbox import Outbox
from atoll.nodeagent.core.room import PATIENCE_S, Room
from atoll.nodeagent.core.segments import SegmentAllocator
from atoll.protocol.machine import Instant, Peer
from atoll.protocol.messages import (
    AbortObject,
    CreateObject,
    Failed,
    GetObject,
    Message,
    ObjectCreated,
    ObjectFound,
    ObjectOffered,
    ObjectSealed,
    ReleaseObjects,
    SealObject,
    SegmentsDestroyed,
)
from atoll.protocol.values import ObjectInfo


def _no_other_nodes(_peer: Peer, _message: GetObject, _now: Instant) -> None:
    raise AssertionError("a store asks for objects of other nodes once it is told how")


class ObjectStore:
    """All objects of the node.

    Args:
        allocator: Places them.
        outbox: Where replies go.
        patience_s: How long somebody waits for room while nothing moves.

    Attributes:
        fetch: Has an object of another node brought here for a reader.
        incoming: Told when there is memory for an object that comes from another node.
        lifetimes: When objects go.
    """

    def __init__(self, allocator: SegmentAllocator, outbox: Outbox, patience_s: float = PATIENCE_S) -> None:
        self._allocator = allocator
        self._outbox = outbox
        self._index = ObjectIndex()
        self._objects = self._index.by_id
        self._room = Room(allocator, self._index, outbox, patience_s)
        self._attachments = Attachments()
        self.lifetimes = Lifetimes(self._index, self._attachments, allocator, self._room, outbox)
        self.fetch: Callable[[Peer, GetObject, Instant], None] = _no_other_nodes
        self.incoming: Callable[[StoredObject, SpillPiece], None] = lambda _stored, _piece: None

    # ----------------------------------------------------------------------------------------- connections

    def attach(self, peer: Peer, process_id: bytes, *, agent: bool = False) -> None:
        """A process will use the store through this connection; an agent is of another node, and maps nothing."""
        self._attachments.attach(peer, process_id, agent=agent)
        self.lifetimes.goes_on(process_id)

    def is_attached(self, peer: Peer) -> bool:
        """Whether the connection has attached."""
        return peer in self._attachments

    def detach(self, peer: Peer, now: Instant) -> None:
        """The connection is gone: what it wrote and did not seal goes, and so do its pins.

        With the last connection of a process goes what it owned, except what the cluster has adopted.
        """
        attachment = self._attachments.detach(peer)
        if attachment is None:
            return
        for stored in [o for o in self._objects.values() if o.writer == peer]:
            self.lifetimes.abort(stored, now)
        self.lifetimes.unpin_all(peer, attachment, now)
        for stored in [o for o in self._objects.values() if any(reader == peer for reader, _number in o.readers)]:
            stored.readers = [(reader, number) for reader, number in stored.readers if reader != peer]
            self._stop_waiting(stored, now)
        self._allocator.writer_gone(peer)
        self.lifetimes.job_ended(attachment.process_id, now)

    def not_taken(self, peer: Peer, segment_id: int) -> None:
        """A process could not map a segment: the next answer that names it brings its descriptor again."""
        self._attachments.not_taken(peer, segment_id)

    # -------------------------------------------------------------------------------------------- writing

    def create(self, peer: Peer, message: CreateObject, now: Instant) -> None:
        """Reserve room and, when the segment is there, say where to write."""
        if len(message.object_id) != OBJECT_ID_BYTES or message.size_bytes < 0:
            self._fail(
                peer, message.request, ProtocolError, "an object needs an id of 20 bytes and a size of 0 or more"
            )
            return
        earlier = self._objects.get(message.object_id)
        if earlier is not None and earlier.attempt > message.attempt:
            # A worker that its caller has lost goes on with an attempt that is nobody's.
            text = f"object {message.object_id.hex()} is a later attempt's: {earlier.attempt}, not {message.attempt}"
            self._fail(peer, message.request, ObjectLostError, text)
            return
        if earlier is not None and earlier.sealed and earlier.in_use and earlier.size_bytes == message.size_bytes:
            # A task runs again for another of its results; this one is there, and somebody looks at it.
            earlier.owned = not self.lifetimes.is_dead(earlier.owner)
            self._outbox.send(peer, ObjectSealed(message.request))
            return
        if earlier is not None and earlier.in_use:
            text = f"object {message.object_id.hex()} exists already and is in use"
            self._fail(peer, message.request, ProtocolError, text)
            return
        if not self._allocator.fits(message.size_bytes):
            text = (
                f"{self._allocator.state_for(message.size_bytes)}: it can never fit; "
                "raise ATOLL_STORE_CAPACITY_BYTES or split the value"
            )
            self._fail(peer, message.request, ObjectStoreFullError, text)
            return
        self._allocator.active(now)
        name = None
        if earlier is not None:
            # A task that is tried again writes its result again; the first attempt's bytes are nobody's.
            name = earlier.name
            self._supersede(earlier, peer, now)
        stored = StoredObject(
            object_id=message.object_id,
            size_bytes=message.size_bytes,
            placement=None,
            writer=peer,
            creator=self._attachments[peer].process_id,
            request=message.request,
            owned=not self.lifetimes.is_dead(message.object_id[:PROCESS_ID_BYTES]),
            name=name,
            attempt=message.attempt,
        )
        self._objects[stored.object_id] = stored
        self._room.want(stored, now)

    def _supersede(self, earlier: StoredObject, peer: Peer, now: Instant) -> None:
        """An object is written anew. An attempt before that still writes keeps its memory until it hears of it."""
        if earlier.writer is not None and earlier.request is not None:
            text = f"object {earlier.object_id.hex()} is written by another attempt"
            self._fail(earlier.writer, earlier.request, ObjectLostError, text)
        elif earlier.writer not in {None, peer}:
            self._index.set_aside(earlier)
            return
        self.lifetimes.remove(earlier, now)

    def _use_if_ready(self, stored: StoredObject) -> None:
        """Its memory is there, or will be: let it be written, by who creates it or from disk."""
        placement = stored.placement
        assert placement is not None, "an object is used when it has memory"
        segment = self._allocator.segment(placement.segment_id)
        assert segment is not None, "an object lies in a segment that does not exist"
        if not segment.ready:
            return
        if stored.restoring and stored.incoming:
            self.incoming(stored, SpillPiece(placement.segment_id, placement.offset, stored.size_bytes))
        elif stored.restoring and stored.copy is not None:
            copy = stored.copy
            piece = SpillPiece(placement.segment_id, placement.offset, stored.size_bytes)
            self._outbox.do(RestoreObject(stored.object_id, copy.file_id, copy.offset, copy.checksum, piece))
        if stored.request is None or stored.writer is None:
            return
        segment_id = segment.segment_id
        new = self._attachments.reach(stored.writer, segment_id, writable=True)
        reply = ObjectCreated(stored.request, segment_id, segment.size_bytes, placement.offset, new)
        stored.request = None
        if new:  # and one to read with, through which not even the writer can alter what is sealed
            self._attachments.reach(stored.writer, segment_id, writable=False)
        self._send(stored.writer, reply, [(segment_id, True), (segment_id, False)] if new else [])

    def segment_created(self, event: SegmentCreated, now: Instant) -> None:
        """Answer those who waited for the segment."""
        self._allocator.created(event.segment_id)
        for stored in self._index.residents(event.segment_id):
            self._use_if_ready(stored)

    def segment_failed(self, event: SegmentFailed, now: Instant) -> None:
        """Tell those who waited that there is no memory."""
        for stored in self._index.residents(event.segment_id):
            self._index.displace(stored)
            self._refuse(stored, event.text, now)
        self._allocator.failed(event.segment_id, now)

    def _refuse(self, stored: StoredObject, text: str, now: Instant) -> None:
        """There is no memory for an object: one that is being created is gone, one on disk stays there."""
        if stored.sealed:
            stored.restoring = False
            self._fail_readers(stored, ObjectStoreFullError, text)
            if stored.incoming:
                self.lifetimes.remove(stored, now, text)
                return
            self._index.note(stored)
            self.lifetimes.collect(stored, now)
            return
        if stored.writer is not None and stored.request is not None:
            self._fail(stored.writer, stored.request, ObjectStoreFullError, text)
        self.lifetimes.abort(stored, now)

    def seal(self, peer: Peer, message: SealObject, now: Instant) -> None:
        """Make an object readable; its writer writes no more."""
        stored = self._objects.get(message.object_id)
        if stored is None or stored.writer != peer or stored.request is not None:
            text = f"object {message.object_id.hex()} is not being written by this process"
            self._fail(peer, message.request, ObjectLostError, text)
            self._abort_aside(peer, message.object_id, now)
            return
        stored.sealed = True
        stored.writer = None
        stored.layout = message.layout
        self._index.note(stored)
        if message.pin:
            self.lifetimes.pin(stored, peer)
        self._outbox.send(peer, ObjectSealed(message.request))
        self.lifetimes.collect(stored, now)

    def abort(self, peer: Peer, message: AbortObject, now: Instant) -> None:
        """Give up an object that this peer is writing."""
        stored = self._objects.get(message.object_id)
        if stored is not None and stored.writer == peer:
            self.lifetimes.abort(stored, now)
        else:
            self._abort_aside(peer, message.object_id, now)

    def _abort_aside(self, peer: Peer, object_id: bytes, now: Instant) -> None:
        """A writer writes no more what another attempt has written instead."""
        for stored in list(self._index.aside.values()):
            if stored.writer == peer and stored.meant_as == object_id:
                self.lifetimes.abort(stored, now)

    # -------------------------------------------------------------------------------------------- reading

    def get(self, peer: Peer, message: GetObject, now: Instant) -> None:
        """Pin an object and say where it is, when it is in memory."""
        stored = self._objects.get(message.object_id)
        if stored is None and message.node_id and not self._attachments.is_agent(peer):
            self.fetch(peer, message, now)
            return
        if stored is None or not stored.sealed:
            state = "is not in the store of this node" if stored is None else "is not written yet"
            self._fail(peer, message.request, ObjectLostError, f"object {message.object_id.hex()} {state}")
            return
        if stored.placement is not None and not stored.restoring:
            self._found(stored, peer, message.request)
            return
        stored.readers.append((peer, message.request))
        if stored.placement is None:
            self._room.want(stored, now)

    def _found(self, stored: StoredObject, peer: Peer, request: int) -> None:
        self.lifetimes.pin(stored, peer)
        placement = stored.placement
        assert placement is not None, "what is read is in memory"
        segment = self._allocator.segment(placement.segment_id)
        assert segment is not None, "an object lies in a segment that does not exist"
        if self._attachments.is_agent(peer):
            self._outbox.send(peer, ObjectOffered(request, stored.size_bytes, stored.layout))
            return
        new = self._attachments.reach(peer, segment.segment_id, writable=False)
        reply = ObjectFound(
            request,
            segment.segment_id,
            segment.size_bytes,
            placement.offset,
            stored.size_bytes,
            stored.layout,
            new,
        )
        self._send(peer, reply, [(segment.segment_id, False)] if new else [])

    def release(self, peer: Peer, message: ReleaseObjects, now: Instant) -> None:
        """Take one pin off each object, or one wish to have it."""
        for object_id in message.object_ids:
            stored = self._objects.get(object_id)
            if stored is None or self.lifetimes.unpin(stored, peer, now):
                continue
            wish = next((wish for wish in stored.readers if wish[0] == peer), None)
            if wish is not None:
                stored.readers.remove(wish)
                self._stop_waiting(stored, now)

    # --------------------------------------------------------------------------------------------- other nodes

    def begin_incoming(
        self, object_id: bytes, size_bytes: int, layout: bytes, readers: list[tuple[Peer, int]], kept_as: str | None
    ) -> StoredObject | str | None:
        """Take in an object that another node offers.

        Args:
            object_id: The object.
            size_bytes: Its size.
            layout: How to read it.
            readers: Who waits for it.
            kept_as: Its name in the cluster, or nothing, if it stays when they are gone; None for a reader's copy.

        Returns:
            The object; why it can never be here; or None if it is here already, or nobody wants it any more.
        """
        owned = kept_as is not None and not self.lifetimes.is_dead(object_id[:PROCESS_ID_BYTES])
        if object_id in self._objects or not (readers or owned or kept_as):
            return None
        if not self._allocator.fits(size_bytes):
            return f"{self._allocator.state_for(size_bytes)}: it can never fit"
        return self._index.add_incoming(object_id, size_bytes, layout, readers, owned=owned, name=kept_as or None)

    def want_room(self, stored: StoredObject, now: Instant) -> None:
        """Memory is needed for what comes from another node."""
        self._room.want(stored, now)

    def piece_of(self, peer: Peer, object_id: bytes) -> SpillPiece | None:
        """Return where an object lies that an agent has pinned, or None."""
        stored = self._objects.get(object_id)
        if stored is None or peer not in stored.pins or stored.placement is None:
            return None
        return SpillPiece(stored.placement.segment_id, stored.placement.offset, stored.size_bytes)

    # ------------------------------------------------------------------------------------------ memory and disk

    def settle(self, now: Instant) -> None:
        """Serve those who wait for room, as far as there is some. To be called after every event."""
        if self._room.waiting:
            for stored in self._room.settle(now):
                self._use_if_ready(stored)

    def tick(self, now: Instant) -> None:
        """Refuse those who have waited in vain."""
        for stored, text in self._room.tick(now):
            self._refuse(stored, text, now)

    def next_deadline(self) -> Instant | None:
        """Return when `tick` has something to do."""
        return self._room.next_deadline()

    def spilled(self, event: ObjectsSpilled, now: Instant) -> None:
        """Copies of objects are on disk; `settle` may take their memory."""
        self._room.spilled(event, now)

    def spill_failed(self, event: SpillFailed, now: Instant) -> None:
        """They are not: the objects stay where they are."""
        self._room.spill_failed(event, now)

    def restored(self, event: ObjectRestored, now: Instant) -> None:
        """An object is in memory again: whoever waited for it gets it."""
        stored = self._objects[event.object_id]
        stored.restoring = False
        readers, stored.readers = stored.readers, []
        for peer, request in readers:
            self._found(stored, peer, request)
        self._index.note(stored)
        self.lifetimes.collect(stored, now)

    def restore_failed(self, event: RestoreFailed, now: Instant) -> None:
        """An object is lost: its bytes were nowhere but in that file."""
        stored = self._objects[event.object_id]
        stored.restoring = False
        self._fail_readers(stored, ObjectLostError, f"object {event.object_id.hex()} is lost: {event.text}")
        self.lifetimes.abort(stored, now)

    def _fail_readers(self, stored: StoredObject, kind: type[Exception], text: str) -> None:
        readers, stored.readers = stored.readers, []
        for peer, request in readers:
            self._fail(peer, request, kind, text)

    def _stop_waiting(self, stored: StoredObject, now: Instant) -> None:
        """One who waited for an object that is not in memory does not any more."""
        kept = stored.incoming and stored.wanted  # it comes here to stay, whether somebody reads it or not
        if not stored.readers and not stored.restoring and not kept:
            self._room.forget(stored)
        self._index.note(stored)
        self.lifetimes.collect(stored, now)

    # -------------------------------------------------------------------------------------------- replies

    def _send(self, peer: Peer, message: Message, segments: list[tuple[int, bool]]) -> None:
        if segments:
            self._outbox.do(SendWithSegments(peer, message, segments))
        else:
            self._outbox.send(peer, message)

    def _fail(self, peer: Peer, request: int, kind: type[Exception], text: str) -> None:
        self._outbox.send(peer, Failed(request, kind.__name__, text))

    def forget_destroyed(self, segment_ids: list[int]) -> None:
        """Tell those who have mapped these segments that they are no more."""
        for peer, gone in self._attachments.forget_segments(segment_ids):
            self._outbox.send(peer, SegmentsDestroyed(gone))

    # --------------------------------------------------------------------------------------------- people

    @property
    def used_bytes(self) -> int:
        """What objects have reserved."""
        return self._allocator.used_bytes

    @property
    def capacity_bytes(self) -> int:
        """What the store holds at most."""
        return self._allocator.capacity_bytes

    @property
    def spilled_bytes(self) -> int:
        """The size of the objects that are on disk only."""
        return self._index.spilled_bytes

    @property
    def spill_files(self) -> int:
        """How many spill files there are."""
        return self._room.files

    @property
    def waiting(self) -> int:
        """How many objects wait for room."""
        return self._room.waiting

    def objects(self) -> list[StoredObject]:
        """Return all objects, oldest first."""
        return list(self._objects.values())

    def describe(self, limit: int) -> list[ObjectInfo]:
        """Return the sealed objects as people look at them: those with names, then the largest, at most `limit`."""
        return self._index.describe(limit)

    def broken_invariant(self) -> str | None:
        """Return what does not add up, or None."""
        reserved = self._index.reserved_bytes()
        if reserved != self._allocator.used_bytes:
            return f"objects reserve {reserved} bytes, the allocator counts {self._allocator.used_bytes}"
        for stored in self._objects.values():
            if not stored.sealed and (stored.in_use or stored.writer is None):
                return f"object {stored.object_id.hex()} is not sealed, yet in use or without a writer"
            if stored.pins and (stored.placement is None or stored.restoring):
                return f"object {stored.object_id.hex()} is pinned and not in memory"
        parts = (self.lifetimes, self._index, self._room)
        return next((broken for part in parts if (broken := part.broken_invariant())), None)
