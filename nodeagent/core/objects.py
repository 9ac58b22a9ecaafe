"""The objects of a node's store and where each of them is: in shared memory, on disk, or both.

    being written ──sealed──▶ in memory ──copied to a file──▶ in memory and on disk
                                  ▲                               │ its memory is wanted, and nobody has it pinned
                                  └────── read back ─── on disk ◀─┘

Memory is given up by segments, since only a whole segment can be used for something else. So the index knows, for each
segment, whether anything in it is in use, and in which order the others came out of use.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from atoll.ids import OBJECT_ID_BYTES, PROCESS_ID_BYTES
from atoll.nodeagent.core.segments import Placement
from atoll.protocol.machine import Peer
from atoll.protocol.values import ObjectInfo


class SpillCopy(msgspec.Struct, frozen=True):
    """The copy of an object on disk.

    Attributes:
        file_id: The spill file.
        offset: Where in it.
        size_bytes: Of the object.
        checksum: Of its bytes, as whoever wrote it made it.
    """

    file_id: int
    offset: int
    size_bytes: int
    checksum: bytes


@dataclass(slots=True, eq=False)
class StoredObject:
    """An object.

    Attributes:
        object_id: Its id.
        size_bytes: As asked for; its placement may be larger.
        placement: Where in memory it lies; None while it waits for room, or is on disk only.
        writer: The connection that creates it, until it is sealed.
        creator: The process that created it.
        request: The `CreateObject` that waits for the memory, or None.
        owned: Whether its owner still wants it.
        sealed: Whether others can get it.
        layout: How to read it; opaque.
        pins: Connection to number of pins.
        name: Its name in the cluster, if the cluster has adopted it; None otherwise.
        copy: Its copy on disk, if there is one.
        copying: Whether it is being copied to disk.
        restoring: Whether its placement is being filled from disk.
        readers: Who waits until it is back from disk: connection and number of the request.
        asked_back: Whether those who have it pinned were asked to let go of it.
        incoming: Whether it is on its way from another node.
        meant_as: The id that its writer knows it by, if another attempt writes the object of that id now.
        attempt: Of the task whose result it is, as its caller counts them; 0 for what was put.
    """

    object_id: bytes
    size_bytes: int
    placement: Placement | None
    writer: Peer | None
    creator: bytes
    request: int | None
    owned: bool
    sealed: bool = False
    layout: bytes = b""
    pins: dict[Peer, int] = field(default_factory=dict)
    name: str | None = None
    copy: SpillCopy | None = None
    copying: bool = False
    restoring: bool = False
    readers: list[tuple[Peer, int]] = field(default_factory=list)
    asked_back: bool = False
    incoming: bool = False
    meant_as: bytes = b""
    attempt: int = 0

    @property
    def owner(self) -> bytes:
        """The process that the id names."""
        return self.object_id[:PROCESS_ID_BYTES]

    @property
    def wanted(self) -> bool:
        """Whether it must stay although nobody has it pinned."""
        return self.owned or self.name is not None or not self.sealed

    @property
    def in_use(self) -> bool:
        """Whether somebody reads it, or is about to, or its memory is being filled."""
        return bool(self.pins or self.readers or self.restoring)

    @property
    def idle(self) -> bool:
        """Whether its memory may be given to others once there is a copy on disk."""
        return self.sealed and not self.in_use and not self.copying


class ObjectIndex:
    """All objects of the node, by id and by segment.

    Attributes:
        by_id: All of them, oldest first.
        pinned: Those that somebody has pinned, in the order in which they came into use.
        idle_segments: Segments of which every object is idle, in the order in which they came out of use.
        spilled_bytes: The size of the objects that are on disk only.
        aside: Those whose writers do not know yet that another attempt writes them.
    """

    def __init__(self) -> None:
        self.by_id: dict[bytes, StoredObject] = {}
        self.aside: dict[bytes, StoredObject] = {}
        self._last_aside = 0
        self.pinned: dict[bytes, StoredObject] = {}
        self.idle_segments: dict[int, None] = {}
        self.spilled_bytes = 0
        self._residents: dict[int, dict[bytes, StoredObject]] = {}
        self._busy: dict[int, dict[bytes, None]] = {}

    def residents(self, segment_id: int) -> list[StoredObject]:
        """Return the objects that lie in a segment."""
        return list(self._residents.get(segment_id, {}).values())

    def place(self, stored: StoredObject, placement: Placement) -> None:
        """Note that an object has its memory."""
        if stored.sealed:
            self.spilled_bytes -= stored.size_bytes
        stored.placement = placement
        self._residents.setdefault(placement.segment_id, {})[stored.object_id] = stored
        self.note(stored)

    def displace(self, stored: StoredObject) -> Placement:
        """Note that an object has no memory any more, and return what it had."""
        placement = stored.placement
        assert placement is not None, "an object without memory has none to give up"
        segment_id = placement.segment_id
        stored.placement = None
        if stored.sealed:
            self.spilled_bytes += stored.size_bytes
        residents = self._residents[segment_id]
        del residents[stored.object_id]
        self._set_busy(segment_id, stored.object_id, busy=False)
        if not residents:
            del self._residents[segment_id]
            self.idle_segments.pop(segment_id, None)
        return placement

    def note(self, stored: StoredObject) -> None:
        """Look again whether an object is in use. To be called after each change of one that is in the index."""
        if stored.pins:
            self.pinned.setdefault(stored.object_id, stored)
        else:
            self.pinned.pop(stored.object_id, None)
        if stored.placement is not None:
            self._set_busy(stored.placement.segment_id, stored.object_id, busy=not stored.idle)

    def _set_busy(self, segment_id: int, object_id: bytes, *, busy: bool) -> None:
        found = self._busy.get(segment_id)
        if busy:
            if found is None:
                found = self._busy[segment_id] = {}
            found[object_id] = None
            self.idle_segments.pop(segment_id, None)
        elif found is not None and object_id in found:
            del found[object_id]
            if not found:
                del self._busy[segment_id]
                self.idle_segments[segment_id] = None

    def add_incoming(
        self,
        object_id: bytes,
        size_bytes: int,
        layout: bytes,
        readers: list[tuple[Peer, int]],
        *,
        owned: bool,
        name: str | None,
    ) -> StoredObject:
        """Take in an object that is on its way from another node; until it has memory, it counts as being on disk."""
        stored = StoredObject(
            object_id=object_id,
            size_bytes=size_bytes,
            placement=None,
            writer=None,
            creator=b"",
            request=None,
            owned=owned,
            sealed=True,
            layout=layout,
            name=name,
            readers=readers,
            incoming=True,
        )
        self.by_id[object_id] = stored
        self.spilled_bytes += size_bytes
        return stored

    def set_aside(self, stored: StoredObject) -> None:
        """Another attempt writes this object from now on; the memory stays this one's, under an id that nobody has."""
        placement = self.displace(stored)
        self.remove(stored)
        self._last_aside += 1
        stored.meant_as, stored.object_id = stored.object_id, self._last_aside.to_bytes(OBJECT_ID_BYTES)
        stored.owned, stored.name = False, None
        self.by_id[stored.object_id] = self.aside[stored.object_id] = stored
        self.place(stored, placement)

    def remove(self, stored: StoredObject) -> None:
        """Forget an object that has no memory any more."""
        assert stored.placement is None, "an object that is removed gives up its memory first"
        del self.by_id[stored.object_id]
        self.aside.pop(stored.object_id, None)
        self.pinned.pop(stored.object_id, None)
        if stored.sealed:
            self.spilled_bytes -= stored.size_bytes

    def describe(self, limit: int) -> list[ObjectInfo]:
        """Return the sealed objects as people look at them: those with names, then the largest, at most `limit`."""
        sealed = [o for o in self.by_id.values() if o.sealed and not o.incoming]
        if len(sealed) > limit:
            sealed.sort(key=lambda o: (o.name is None, -o.size_bytes))
            del sealed[limit:]
        return [
            ObjectInfo(o.object_id, o.size_bytes, len(o.pins), o.name or "", o.owner if o.owned else b"")
            for o in sealed
        ]

    def reserved_bytes(self) -> int:
        """Return what the places of all objects have together."""
        return sum(stored.placement.size_bytes for stored in self.by_id.values() if stored.placement is not None)

    def broken_invariant(self) -> str | None:
        """Return what does not add up, or None."""
        return self._misplaced() or self._miscounted()

    def _misplaced(self) -> str | None:
        """Return which objects do not lie where they can, or None."""
        placed = [(o, o.placement) for o in self.by_id.values() if o.placement is not None]
        ends: dict[int, int] = {}
        for stored, placement in sorted(placed, key=lambda pair: (pair[1].segment_id, pair[1].offset)):
            if placement.offset < ends.get(placement.segment_id, 0):
                return f"two objects overlap in segment {placement.segment_id} at {placement.offset}"
            ends[placement.segment_id] = placement.offset + placement.size_bytes
            if placement.size_bytes < stored.size_bytes:
                return f"object {stored.object_id.hex()} is larger than its place"
        return None

    def _miscounted(self) -> str | None:
        """Return what is said of the objects and is not so, or None."""
        spilled = 0
        idle: dict[int, bool] = {}
        for stored in self.by_id.values():
            if bool(stored.pins) != (stored.object_id in self.pinned):
                return f"object {stored.object_id.hex()} is pinned, and the index does not know, or the other way round"
            if stored.placement is None:
                spilled += stored.size_bytes if stored.sealed else 0
                continue
            segment_id = stored.placement.segment_id
            idle[segment_id] = idle.get(segment_id, True) and stored.idle
            if self._residents.get(segment_id, {}).get(stored.object_id) is not stored:
                return f"object {stored.object_id.hex()} is not among the residents of segment {segment_id}"
        if idle.keys() != self._residents.keys():
            return "the index knows other segments with objects than there are"
        if {segment_id for segment_id, is_idle in idle.items() if is_idle} != self.idle_segments.keys():
            return f"segments {list(self.idle_segments)} are said to be idle; {idle}"
        if spilled != self.spilled_bytes:
            return f"{self.spilled_bytes} bytes are said to be on disk only; there are {spilled}"
        return None
