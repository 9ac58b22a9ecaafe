"""Room in a full store: who waits for it, what is copied to disk, and whose memory is given to others.

Whoever needs memory that is not free waits (`want`). Meanwhile, as long as the shortage lasts, in this order:

1. Memory of idle objects that have a copy on disk is given up at once.
2. Idle segments are copied to disk, longest out of use first, several together in one file. Idle means that every
   object in it is sealed and nobody has it pinned. An object that comes into use meanwhile keeps its memory, and its
   copy.
3. Processes are asked to let go of objects that they have pinned only to have them at hand.

A copy stays on disk as long as its object lives, so that it need not be written twice. A file goes with the last
object in it.

Who waits is served in the order of coming, except that who fits goes ahead of who does not. Nobody waits for ever:
when nothing has moved for a while, because all that is there is in use or the disk is full, waiting is over, with an
error that says so. As long as copies are being written, waiting goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from atoll.nodeagent.core.events import DeleteSpillFile, ObjectsSpilled, SpillFailed, SpillObjects, SpillPiece
from atoll.nodeagent.core.objects import ObjectIndex, SpillCopy, StoredObject
from atoll.nodeagent.core.outbox import Outbox
from atoll.nodeagent.core.segments import SegmentAllocator, StoreFullError
from atoll.protocol.machine import Instant, Peer
from atoll.protocol.messages import ReturnPins

PATIENCE_S = 5.0
"""How long somebody waits for room while nothing moves."""

SPILL_BATCH_BYTES = 64 * 2**20
"""Segments are copied together into one file up to this size: each file costs a wait for the disk."""

SLOW_DISK_S = 60.0
SLOW_DISK_BYTES_PER_S = 10 * 2**20
"""Of a disk that copies are being written to, so much is expected before waiting for it is over."""

ASK_BACK_EVERY_S = 0.05
DISK_AGAIN_S = 1.0
"""After a copy has failed, so long none is tried."""

RESTORER = Peer(0)
"""Stands for the agent itself, which writes what comes back from disk. No connection has this number."""


@dataclass(slots=True)
class Demand:
    """Somebody waits for memory.

    Attributes:
        stored: For which object.
        since: Since when.
    """

    stored: StoredObject
    since: Instant


class Room:
    """Makes room.

    Args:
        allocator: Places objects.
        index: The objects.
        outbox: Where wishes go.
        patience_s: How long somebody waits while nothing moves.
    """

    def __init__(self, allocator: SegmentAllocator, index: ObjectIndex, outbox: Outbox, patience_s: float) -> None:
        self._allocator = allocator
        self._index = index
        self._outbox = outbox
        self._patience_s = patience_s
        self._waiting: dict[bytes, Demand] = {}
        self._copying: dict[int, list[StoredObject]] = {}
        self._copying_bytes = 0
        self._files: dict[int, int] = {}
        self._next_file = 1
        self._moved_at = Instant(0.0)
        self._ask_back_at = Instant(0.0)
        self._disk_again_at = Instant(0.0)
        self._looked_at = Instant(0.0)
        self._disk_error = ""

    @property
    def waiting(self) -> int:
        """How many wait for room."""
        return len(self._waiting)

    @property
    def files(self) -> int:
        """How many spill files there are."""
        return len(self._files)

    # --------------------------------------------------------------------------------------------- demands

    def want(self, stored: StoredObject, now: Instant) -> None:
        """An object needs memory. `settle` says when it has some, `tick` when it will have none."""
        self._waiting[stored.object_id] = Demand(stored, now)

    def forget(self, stored: StoredObject) -> None:
        """It needs none any more."""
        demand = self._waiting.get(stored.object_id)
        if demand is not None and demand.stored is stored:
            del self._waiting[stored.object_id]

    def settle(self, now: Instant) -> list[StoredObject]:
        """Place whom there is room for, and see to it that there is more. Returns who was placed."""
        placed: list[StoredObject] = []
        self._looked_at = now
        while self._waiting:
            for demand in list(self._waiting.values()):
                if self._place(demand.stored):
                    del self._waiting[demand.stored.object_id]
                    placed.append(demand.stored)
            if not self._waiting or not self._give_up_copied(self._shortage(), now):
                break
        if self._waiting:
            # Memory may be missing in one piece although there is enough in all: then one more segment is made free.
            self._copy_idle(self._shortage() - self._copying_bytes if self._copying else max(1, self._shortage()), now)
            self._ask_back(self._shortage() - self._copying_bytes if self._copying else max(1, self._shortage()), now)
        self._allocator.bound_warm()
        return placed

    def _place(self, stored: StoredObject) -> bool:
        try:
            placement = self._allocator.allocate(stored.size_bytes, RESTORER if stored.sealed else self._writer(stored))
        except StoreFullError:
            return False
        stored.restoring = stored.sealed
        self._index.place(stored, placement)
        return True

    @staticmethod
    def _writer(stored: StoredObject) -> Peer:
        assert stored.writer is not None, "what is not sealed has a writer"
        return stored.writer

    def _shortage(self) -> int:
        """Return how much memory is missing for all who wait."""
        wanted = sum(self._allocator.room_for(demand.stored.size_bytes) for demand in self._waiting.values())
        return wanted - self._allocator.available_bytes

    # --------------------------------------------------------------------------------------------- making room

    def _give_up_copied(self, shortage: int, now: Instant) -> bool:
        """Take the memory of idle segments whose objects are all on disk. Tells whether there were any."""
        found = False
        for segment_id in list(self._index.idle_segments):
            if shortage <= 0 and found:
                break
            residents = self._index.residents(segment_id)
            if all(stored.copy is not None for stored in residents):
                found = True
                for stored in residents:
                    shortage -= self._evict(stored, now)
        return found

    def _evict(self, stored: StoredObject, now: Instant) -> int:
        assert stored.copy is not None, "an object without a copy on disk keeps its memory"
        assert stored.idle, "an object that is in use keeps its memory"
        placement = self._index.displace(stored)
        self._allocator.free(placement, now, bounded=False)
        return placement.size_bytes

    def _copy_idle(self, shortage: int, now: Instant) -> None:
        """Have idle segments copied to disk until enough is on the way."""
        if now < self._disk_again_at:
            return
        batch: list[StoredObject] = []
        batch_bytes = 0
        for segment_id in list(self._index.idle_segments):
            if shortage <= 0:
                break
            segment = self._allocator.segment(segment_id)
            assert segment is not None, "an object lies in a segment that does not exist"
            if batch and batch_bytes + segment.size_bytes > SPILL_BATCH_BYTES:
                self._start_copy(batch)
                batch, batch_bytes = [], 0
            batch += [stored for stored in self._index.residents(segment_id) if stored.copy is None]
            batch_bytes += segment.size_bytes
            shortage -= segment.size_bytes
        if batch:
            self._start_copy(batch)

    def _start_copy(self, batch: list[StoredObject]) -> None:
        file_id, self._next_file = self._next_file, self._next_file + 1
        pieces = []
        for stored in batch:
            placement = stored.placement
            assert placement is not None, "what is copied is in memory"
            pieces.append(SpillPiece(placement.segment_id, placement.offset, stored.size_bytes))
            self._copying_bytes += placement.size_bytes
            stored.copying = True
            self._index.note(stored)
        self._copying[file_id] = batch
        self._outbox.do(SpillObjects(file_id, pieces))

    def _ask_back(self, shortage: int, now: Instant) -> None:
        """Ask processes to let go of what they only have at hand, oldest first."""
        if shortage <= 0 or now < self._ask_back_at:
            return
        asked: dict[Peer, list[bytes]] = {}
        for stored in self._index.pinned.values():
            if shortage <= 0:
                break
            if stored.asked_back or stored.placement is None:
                continue
            stored.asked_back = True
            shortage -= stored.placement.size_bytes
            for peer in stored.pins:
                asked.setdefault(peer, []).append(stored.object_id)
        if asked:
            self._ask_back_at = Instant(now + ASK_BACK_EVERY_S)
        for peer, object_ids in asked.items():
            self._outbox.send(peer, ReturnPins(object_ids))

    # ------------------------------------------------------------------------------------------------ the disk

    def spilled(self, event: ObjectsSpilled, now: Instant) -> None:
        """Copies are safe on disk."""
        offset = 0
        for stored, checksum in zip(self._end_copy(event.file_id, now), event.checksums, strict=True):
            if self._lives(stored):
                stored.copy = SpillCopy(event.file_id, offset, stored.size_bytes, checksum)
                self._files[event.file_id] = self._files.get(event.file_id, 0) + 1
            offset += stored.size_bytes
        if event.file_id not in self._files:
            self._outbox.do(DeleteSpillFile(event.file_id))
        self._disk_error = ""

    def spill_failed(self, event: SpillFailed, now: Instant) -> None:
        """A copy could not be written, and nothing of it is left: its objects stay in memory."""
        moved_at = self._moved_at
        self._end_copy(event.file_id, now)
        self._moved_at = moved_at
        self._disk_error = event.text
        self._disk_again_at = Instant(now + DISK_AGAIN_S)

    def _end_copy(self, file_id: int, now: Instant) -> list[StoredObject]:
        self._moved_at = now
        batch = self._copying.pop(file_id)
        for stored in batch:
            stored.copying = False
            if self._lives(stored):
                self._index.note(stored)
        self._copying_bytes = sum(
            stored.placement.size_bytes
            for others in self._copying.values()
            for stored in others
            if stored.placement is not None
        )
        return batch

    def _lives(self, stored: StoredObject) -> bool:
        return self._index.by_id.get(stored.object_id) is stored

    def drop_copy(self, stored: StoredObject) -> None:
        """An object is gone, and its copy with it."""
        copy, stored.copy = stored.copy, None
        if copy is None:
            return
        self._files[copy.file_id] -= 1
        if not self._files[copy.file_id]:
            del self._files[copy.file_id]
            self._outbox.do(DeleteSpillFile(copy.file_id))

    # ------------------------------------------------------------------------------------------------- time

    def tick(self, now: Instant) -> list[tuple[StoredObject, str]]:
        """Return who has waited in vain, and what to say to them."""
        over = [demand.stored for demand in self._waiting.values() if self._ends_at(demand) <= now]
        for stored in over:
            del self._waiting[stored.object_id]
        return [(stored, self._refusal(stored)) for stored in over]

    def _ends_at(self, demand: Demand) -> Instant:
        patience_s = self._patience_s
        if self._copying:
            patience_s = SLOW_DISK_S + self._copying_bytes / SLOW_DISK_BYTES_PER_S
        return Instant(max(demand.since, self._moved_at) + patience_s)

    def _refusal(self, stored: StoredObject) -> str:
        if self._disk_error:
            why = f"nothing can be spilled: {self._disk_error}"
        else:
            why = "what is in it is in use and cannot be spilled"
        return (
            f"{self._allocator.state_for(stored.size_bytes)}, and {why} (waited {self._patience_s:g} s): "
            "drop arrays and references that are not needed, or raise ATOLL_STORE_CAPACITY_BYTES"
        )

    def next_deadline(self) -> Instant | None:
        """Return when to look again, or None while nobody waits."""
        return min(self._instants()) if self._waiting else None

    def _instants(self) -> Iterator[Instant]:
        for demand in self._waiting.values():
            yield self._ends_at(demand)
        for instant in (self._disk_again_at, self._ask_back_at):
            if instant > self._looked_at:
                yield instant

    def broken_invariant(self) -> str | None:
        """Return what does not add up, or None."""
        counts: dict[int, int] = {}
        copying = {stored.object_id: stored for batch in self._copying.values() for stored in batch}
        for stored in self._index.by_id.values():
            if stored.copy is not None:
                counts[stored.copy.file_id] = counts.get(stored.copy.file_id, 0) + 1
            if stored.copying and copying.get(stored.object_id) is not stored:
                return f"object {stored.object_id.hex()} is said to be copied, and nobody copies it"
            if stored.placement is None and stored.sealed and stored.copy is None and not stored.incoming:
                return f"object {stored.object_id.hex()} is neither in memory nor on disk"
            if stored.placement is not None and stored.object_id in self._waiting:
                return f"object {stored.object_id.hex()} has room and waits for it"
            if stored.readers and not stored.restoring and stored.object_id not in self._waiting:
                return f"somebody waits for object {stored.object_id.hex()}, and nobody reads it back"
        if counts != self._files:
            return f"spill files are said to hold {self._files} objects; they hold {counts}"
        return None
