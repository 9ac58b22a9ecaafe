"""How long the objects of a node's store live: who wants them, who has them pinned, and when their bytes are free.

    owner: made ──▶ DeleteObjects, or its last connection is lost ──┐
    name:  AdoptObject ──▶ DropObject, or not adopted again ────────┼──▶ nobody wants it, and no pin ──▶ gone
    pins:  found, or sealed with a pin ──▶ ReleaseObjects, or lost ─┘

An object is wanted while its owner has not deleted it, or while the cluster has adopted it (it has a name there).
The owner is read off the object's id. An object that nobody wants stays as long as a process has it pinned.
"""

from __future__ import annotations

from collections.abc import Callable

from atoll.nodeagent.core.attachments import Attachment, Attachments
from atoll.nodeagent.core.objects import ObjectIndex, StoredObject
from atoll.nodeagent.core.outbox import Outbox
from atoll.nodeagent.core.room import Room
from atoll.nodeagent.core.segments import SegmentAllocator
from atoll.protocol.machine import Instant, Peer
from atoll.protocol.messages import AdoptObject, DeleteObjects, DropObject, ObjectAdopted, ObjectGone

_REMEMBERED_DEAD = 4096


class Lifetimes:
    """Decides when objects go.

    Args:
        index: The objects.
        attachments: Who uses them.
        allocator: Takes their memory back.
        room: Takes their copies on disk back, and their wishes for memory.
        outbox: Where the scheduler is told of names.

    Attributes:
        incoming_gone: Told when an object that comes from another node is given up, and why.
    """

    def __init__(
        self, index: ObjectIndex, attachments: Attachments, allocator: SegmentAllocator, room: Room, outbox: Outbox
    ) -> None:
        self._index = index
        self._objects = index.by_id
        self._attachments = attachments
        self._allocator = allocator
        self._room = room
        self._outbox = outbox
        self._dead: dict[bytes, None] = {}
        self._unconfirmed: dict[bytes, None] = {}
        self.incoming_gone: Callable[[StoredObject, str], None] = lambda _stored, _text: None

    # ---------------------------------------------------------------------------------------------- owners

    def is_dead(self, process_id: bytes) -> bool:
        """Whether a process is known to be gone, so that it wants nothing that is made for it."""
        return process_id in self._dead

    def goes_on(self, process_id: bytes) -> None:
        """A process is there, perhaps again: what is made for it from now on is wanted."""
        self._dead.pop(process_id, None)

    def job_ended(self, process_id: bytes, now: Instant) -> None:
        """The scheduler has lost a client. One that is attached here lives, and may come back to the scheduler."""
        if not self._attachments.is_there(process_id):
            self.owner_gone(process_id, now)

    def owner_gone(self, process_id: bytes, now: Instant) -> None:
        """A process is dead: nobody wants what it owned, unless the cluster does."""
        self._dead[process_id] = None
        if len(self._dead) > _REMEMBERED_DEAD:
            del self._dead[next(iter(self._dead))]
        for stored in [o for o in self._objects.values() if o.owner == process_id]:
            stored.owned = False
            self.collect(stored, now)

    def delete(self, peer: Peer, message: DeleteObjects, now: Instant) -> None:
        """The owner, or who made an object for it, wants these no more. Others have no say."""
        process_id = self._attachments[peer].process_id
        for object_id in message.object_ids:
            stored = self._objects.get(object_id)
            if stored is None or process_id not in {stored.owner, stored.creator}:
                continue
            stored.owned = False
            if stored.writer == peer:
                self.abort(stored, now)
            else:
                self.collect(stored, now)

    def delete_elsewhere(self, object_ids: list[bytes], now: Instant) -> None:
        """The owner, on another node, wants these no more."""
        for object_id in object_ids:
            stored = self._objects.get(object_id)
            if stored is not None:
                stored.owned = False
                self.collect(stored, now)

    # ----------------------------------------------------------------------------------------------- names

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
            self.collect(stored, now)

    def lasting(self) -> list[StoredObject]:
        """Return the objects that are more than readers' copies."""
        return [o for o in self._objects.values() if o.sealed and not o.incoming and (o.owned or o.name is not None)]

    def take_over(self, object_id: bytes, name: str | None) -> bool:
        """Another node leaves: what is here as a reader's copy stays from now on. False if it is not here."""
        stored = self._objects.get(object_id)
        if stored is None or not stored.sealed or stored.incoming:
            return False
        stored.owned = not self.is_dead(stored.owner)
        stored.name = stored.name or name
        self._index.note(stored)
        return True

    # ------------------------------------------------------------------------------------------------ pins

    def pin(self, stored: StoredObject, peer: Peer) -> None:
        """A process looks at an object from now on."""
        stored.pins[peer] = stored.pins.get(peer, 0) + 1
        stored.asked_back = False
        self._attachments[peer].pinned[stored.object_id] = None
        self._index.note(stored)

    def unpin(self, stored: StoredObject, peer: Peer, now: Instant) -> bool:
        """Take one pin off an object. False if the process has none."""
        if peer not in stored.pins:
            return False
        stored.pins[peer] -= 1
        if not stored.pins[peer]:
            del stored.pins[peer]
            del self._attachments[peer].pinned[stored.object_id]
            self.collect(stored, now)
        return True

    def unpin_all(self, peer: Peer, attachment: Attachment, now: Instant) -> None:
        """A connection is gone: so are its pins."""
        for object_id in attachment.pinned:
            stored = self._objects[object_id]
            del stored.pins[peer]
            self.collect(stored, now)

    # ------------------------------------------------------------------------------------------------- end

    def collect(self, stored: StoredObject, now: Instant) -> None:
        """Something about an object has changed: take its bytes back if nobody wants or reads it any more."""
        if not stored.wanted and not stored.in_use:
            self.remove(stored, now)
        else:
            self._index.note(stored)

    def abort(self, stored: StoredObject, now: Instant) -> None:
        """An object will never be there, or is lost, wanted or not."""
        if stored.name is not None:
            self._outbox.tell_scheduler(ObjectGone(stored.object_id))
        self.remove(stored, now)

    def remove(self, stored: StoredObject, now: Instant, why: str = "nobody wants it any more") -> None:
        """Take an object's bytes back."""
        assert not stored.in_use, "the bytes of an object that is in use are not used again"
        self._room.forget(stored)
        if stored.placement is not None:
            self._allocator.free(self._index.displace(stored), now)
        self._room.drop_copy(stored)
        self._index.remove(stored)
        if stored.incoming:
            self.incoming_gone(stored, why)

    def broken_invariant(self) -> str | None:
        """Return what does not hold, or None."""
        for stored in self._objects.values():
            if stored.sealed and not stored.wanted and not stored.in_use:
                return f"object {stored.object_id.hex()} is neither wanted nor in use and still here"
            for peer in stored.pins:
                if stored.object_id not in self._attachments.pinned_by(peer):
                    return f"a pin of peer {peer} is not in its list"
        pinned = sum(len(attachment.pinned) for _peer, attachment in self._attachments.items())
        if pinned != sum(len(stored.pins) for stored in self._objects.values()):
            return "a peer's list has a pin that no object has"
        return None
