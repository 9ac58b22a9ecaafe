"""Where in shared memory objects lie: segments of a few sizes, used again and again.

Fresh shared memory is slow to touch for the first time, so a segment whose object is gone is kept warm for a while
and given to the next object of about its size. Large objects have a segment each; its size is one of eight steps
per doubling, so that at most an eighth is lost and sizes meet again. Small objects share a *slab*: each writing
process has slabs of its own, so that no living process can write where another's objects lie.

The allocator only counts. The bytes themselves are made (`CreateSegment`) and given back (`DestroySegment`) by the
shell; a placement in a segment that is still being made is valid, but not `ready`.

What is counted: `total_bytes` is the memory of all segments there are, and never more than the capacity;
`used_bytes` is what objects have reserved of it. Segments without an object are *warm*: at most `warm_bytes` of them,
none for longer than `warm_s`, and fewer whenever the memory is wanted otherwise.

So that the first object finds warm memory too, some segments are *prepared*: made in the background, a moment after
somebody began to use the store, when less than `prepared_bytes` is warm. One is large, and cut to the size of the
object that takes it; the others are slabs. They go when nobody has used the store for `warm_s`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
from sortedcontainers import SortedDict, SortedKeyList

from atoll.nodeagent.core.events import CreateSegment, CutSegment, DestroySegment
from atoll.nodeagent.core.outbox import Outbox
from atoll.protocol.machine import Instant, Peer
from atoll.resources import format_bytes

PAGE_BYTES = 4096
ALIGNMENT_BYTES = 64
SLAB_BYTES = 8 * 2**20
STEPS_PER_DOUBLING = 8
WARM_S = 60.0
PREPARED_SLABS = 4
PREPARE_AFTER_S = 0.1
"""Whoever begins to use the store has other things to do first, and needs the processors for them."""

PREPARE_AGAIN_S = 10.0
"""The host had no memory to spare: so long none is asked for."""


class StoreFullError(Exception):
    """There is no room; the message is one line for the user, with both sizes."""


class Placement(msgspec.Struct, frozen=True):
    """Where an object lies: `size_bytes` are reserved at `offset` of a segment."""

    segment_id: int
    offset: int
    size_bytes: int


@dataclass(slots=True)
class Segment:
    """A piece of shared memory.

    Attributes:
        segment_id: Never used twice, so that whoever maps it may remember it by this number.
        size_bytes: Of the whole.
        ready: Whether its memory is reserved.
        slab: Whether small objects share it.
        writer: Who writes in it; for a warm one, who did.
        used_bytes: Reserved for objects.
        extents: Free pieces of a slab: offset to size.
        warm_since: Since when it has no object; None while it has one.
        prepared: Whether it never had one.
    """

    segment_id: int
    size_bytes: int
    ready: bool
    slab: bool
    writer: Peer | None
    used_bytes: int = 0
    extents: SortedDict = field(default_factory=SortedDict)
    warm_since: Instant | None = None
    prepared: bool = False


def size_class(size_bytes: int) -> int:
    """Return the smallest segment size that holds so many bytes: eight steps per doubling, in whole pages."""
    if size_bytes <= PAGE_BYTES:
        return PAGE_BYTES
    doubling = 1 << ((size_bytes - 1).bit_length() - 1)
    step = max(PAGE_BYTES, doubling // STEPS_PER_DOUBLING)
    return _round_up(size_bytes, step)


def _round_up(size: int, step: int) -> int:
    return -(-size // step) * step


class SegmentAllocator:
    """Places objects in segments.

    Args:
        capacity_bytes: All segments together are never larger.
        outbox: Where the wishes for segments go.
        warm_bytes: Segments without objects are never larger together; a quarter of the capacity if None.
        warm_s: How long a segment without an object is kept.
        slab_bytes: The size of a slab; a sixteenth of the capacity if that is less.
        prepared_bytes: So much is to be warm before it is needed; never more than may be warm.
    """

    def __init__(
        self,
        capacity_bytes: int,
        outbox: Outbox,
        *,
        warm_bytes: int | None = None,
        warm_s: float = WARM_S,
        slab_bytes: int = SLAB_BYTES,
        prepared_bytes: int = 0,
    ) -> None:
        self.capacity_bytes = capacity_bytes // PAGE_BYTES * PAGE_BYTES
        self.total_bytes = 0
        self.used_bytes = 0
        self._outbox = outbox
        self._warm_limit = self.capacity_bytes // 4 if warm_bytes is None else warm_bytes
        self._warm_s = warm_s
        self._warm_bytes = 0
        self._slab_bytes = max(PAGE_BYTES, min(slab_bytes, self.capacity_bytes // 16) // PAGE_BYTES * PAGE_BYTES)
        self._small_bytes = self._slab_bytes // 8
        self._segments: dict[int, Segment] = {}
        self._warm: SortedKeyList = SortedKeyList(key=lambda segment: (segment.size_bytes, segment.segment_id))
        self._free: dict[Peer | None, SortedKeyList] = {}
        """The free extents of each writer's slabs, as (size, segment id, offset); under None, of those whose writer
        is gone."""
        self._next_id = 1
        self._prepared_limit = min(prepared_bytes, self._warm_limit)
        self._prepare_at: Instant | None = None
        self._prepare_not_before = Instant(0.0)
        self._active_at = Instant(0.0)

    # ----------------------------------------------------------------------------------------------- asking

    def segment(self, segment_id: int) -> Segment | None:
        """Return a segment that exists or is being made."""
        return self._segments.get(segment_id)

    def segments(self) -> Iterator[Segment]:
        """Yield all segments, oldest first."""
        return iter(self._segments.values())

    @property
    def warm_bytes(self) -> int:
        """The memory of segments without objects."""
        return self._warm_bytes

    @property
    def available_bytes(self) -> int:
        """What could become segments of other sizes: not taken yet, or without objects."""
        return self.capacity_bytes - self.total_bytes + self._warm_bytes

    def room_for(self, size_bytes: int) -> int:
        """Return the memory that an object of a size takes at least."""
        needed = _round_up(max(size_bytes, 1), ALIGNMENT_BYTES)
        return needed if needed <= self._small_bytes else _round_up(needed, PAGE_BYTES)

    def fits(self, size_bytes: int) -> bool:
        """Whether an object of a size can be placed when nothing else is there."""
        return self.room_for(size_bytes) <= self.capacity_bytes

    def state_for(self, size_bytes: int) -> str:
        """Return what an object needs and what there is, for people."""
        return (
            f"the object needs {format_bytes(size_bytes)}; the store holds at most "
            f"{format_bytes(self.capacity_bytes)} ({format_bytes(self.capacity_bytes - self.used_bytes)} free)"
        )

    def next_deadline(self) -> Instant | None:
        """Return when a warm segment is to be given back, or one to be prepared."""
        instants = [self._warm_until(segment) for segment in self._warm]
        if self._prepare_at is not None:
            instants.append(self._prepare_at)
        return min(instants, default=None)

    def _warm_until(self, segment: Segment) -> Instant:
        assert segment.warm_since is not None, "a segment with objects is not warm"
        return Instant((self._active_at if segment.prepared else segment.warm_since) + self._warm_s)

    # ------------------------------------------------------------------------------------------- preparing

    def active(self, now: Instant) -> None:
        """Somebody uses the store, or is about to."""
        self._active_at = now
        if self._prepare_at is None and self._warm_bytes + self._slab_bytes <= self._prepared_limit:
            self._prepare_at = Instant(max(now + PREPARE_AFTER_S, self._prepare_not_before))

    def _prepare(self) -> None:
        """Have segments made in the background, until as much is warm as should be."""
        large = self._prepared_limit - PREPARED_SLABS * self._slab_bytes
        while self._warm_bytes + self._slab_bytes <= self._prepared_limit:
            there = any(segment.prepared and segment.size_bytes >= large for segment in self._warm)
            wants_large = large > 0 and not there and self._warm_bytes + large <= self._prepared_limit
            size = (large if wants_large else self._slab_bytes) // PAGE_BYTES * PAGE_BYTES
            if self.total_bytes + size > self.capacity_bytes:
                return
            segment = self._create(size, None, background=True)
            segment.prepared = True
            segment.warm_since = self._active_at
            self._warm.add(segment)
            self._warm_bytes += size

    # -------------------------------------------------------------------------------------------- placing

    def allocate(self, size_bytes: int, writer: Peer) -> Placement:
        """Reserve room for an object that `writer` will write.

        Raises:
            StoreFullError: There is none now, or there never can be; nothing has changed.
        """
        needed = _round_up(max(size_bytes, 1), ALIGNMENT_BYTES)
        if needed > self.capacity_bytes:
            raise StoreFullError(
                f"{self.state_for(size_bytes)}: it can never fit; raise ATOLL_STORE_CAPACITY_BYTES or split the value"
            )
        if needed <= self._small_bytes:
            placement = self._allocate_small(needed, writer)
            if placement is not None:
                return placement
        segment = self._acquire(size_class(needed), _round_up(needed, PAGE_BYTES), writer)
        if segment is None:
            raise StoreFullError(f"{self.state_for(size_bytes)}: drop references or cache names that are not needed")
        segment.slab = False
        segment.used_bytes = segment.size_bytes
        self.used_bytes += segment.size_bytes
        return Placement(segment.segment_id, 0, segment.size_bytes)

    def _allocate_small(self, needed: int, writer: Peer) -> Placement | None:
        found = self._best_extent(self._free.get(writer), needed) or self._adopt_slab(needed, writer)
        if found is None:
            segment = self._acquire(self._slab_bytes, self._slab_bytes, writer)
            if segment is None:
                return None
            segment.slab = True
            self._add_extent(segment, 0, segment.size_bytes)
            found = (segment.size_bytes, segment.segment_id, 0)
        size, segment_id, offset = found
        segment = self._segments[segment_id]
        self._remove_extent(segment, offset)
        if size > needed:
            self._add_extent(segment, offset + needed, size - needed)
        segment.used_bytes += needed
        self.used_bytes += needed
        return Placement(segment_id, offset, needed)

    @staticmethod
    def _best_extent(extents: SortedKeyList | None, needed: int) -> tuple[int, int, int] | None:
        if extents is None:
            return None
        position = extents.bisect_left((needed, 0, 0))
        return extents[position] if position < len(extents) else None

    def _adopt_slab(self, needed: int, writer: Peer) -> tuple[int, int, int] | None:
        """Find room in a slab whose writer is gone, and make it this writer's."""
        found = self._best_extent(self._free.get(None), needed)
        if found is not None:
            self._move_slab(self._segments[found[1]], writer)
        return found

    def _move_slab(self, segment: Segment, writer: Peer | None) -> None:
        extents = list(segment.extents.items())
        for offset, _size in extents:
            self._remove_extent(segment, offset)
        segment.writer = writer
        for offset, size in extents:
            self._add_extent(segment, offset, size)

    def _add_extent(self, segment: Segment, offset: int, size: int) -> None:
        segment.extents[offset] = size
        known = self._free.get(segment.writer)
        if known is None:
            known = self._free[segment.writer] = SortedKeyList(key=lambda extent: extent)
        known.add((size, segment.segment_id, offset))

    def _remove_extent(self, segment: Segment, offset: int) -> int:
        size: int = segment.extents.pop(offset)
        known = self._free[segment.writer]
        known.remove((size, segment.segment_id, offset))
        if not known:
            del self._free[segment.writer]
        return size

    # ------------------------------------------------------------------------------------------- segments

    def _acquire(self, preferred: int, least: int, writer: Peer) -> Segment | None:
        """Return a segment without objects: a warm one of about the size, else a new one; None if there is no room."""
        warm = self._warm_fit(least, preferred, writer) or self._cut(preferred)
        if warm is not None:
            if warm.warm_since is not None:
                self._cool(warm)
            warm.writer = writer
            return warm
        for size in (preferred, least):
            if self.total_bytes - self._warm_bytes + size <= self.capacity_bytes:
                while self.total_bytes + size > self.capacity_bytes:
                    self._destroy(self._warm[-1])
                return self._create(size, writer)
        return None

    def _warm_fit(self, least: int, preferred: int, writer: Peer) -> Segment | None:
        """Return the smallest warm segment that fits and wastes at most a quarter; rather one that `writer` knows."""
        best: Segment | None = None
        for segment in self._warm.irange_key((least, 0), (preferred + preferred // 4, 0)):
            if segment.prepared and not segment.ready:
                continue  # it is made when nobody needs the processors, which may take long
            if segment.writer == writer:
                found: Segment = segment
                return found
            best = best or segment
        return best

    def _cut(self, preferred: int) -> Segment | None:
        """Return a prepared segment that is larger, cut to the size. What it loses is prepared anew."""
        for segment in self._warm.irange_key((preferred, 0), (4 * preferred, 0)):
            if segment.prepared and segment.ready:
                self._cool(segment)
                self.total_bytes -= segment.size_bytes - preferred
                segment.size_bytes = preferred
                self._outbox.do(CutSegment(segment.segment_id, preferred))
                found: Segment = segment
                return found
        return None

    def _create(self, size: int, writer: Peer | None, *, background: bool = False) -> Segment:
        segment = Segment(self._next_id, size, ready=False, slab=False, writer=writer)
        self._next_id += 1
        self._segments[segment.segment_id] = segment
        self.total_bytes += size
        self._outbox.do(CreateSegment(segment.segment_id, size, background))
        return segment

    def _destroy(self, segment: Segment) -> None:
        if segment.warm_since is not None:
            self._cool(segment)
        del self._segments[segment.segment_id]
        self.total_bytes -= segment.size_bytes
        self._outbox.do(DestroySegment(segment.segment_id))

    def _cool(self, segment: Segment) -> None:
        self._warm.remove(segment)
        self._warm_bytes -= segment.size_bytes
        segment.warm_since = None
        segment.prepared = False

    def created(self, segment_id: int) -> None:
        """The segment's memory is there. One that was given up meanwhile is destroyed already."""
        segment = self._segments.get(segment_id)
        if segment is not None:
            segment.ready = True

    def failed(self, segment_id: int, now: Instant) -> None:
        """The segment's memory could not be had. Its placements are void: the caller has freed none of them."""
        segment = self._segments.pop(segment_id, None)
        if segment is None:
            return
        if segment.prepared:
            self._prepare_not_before = Instant(now + PREPARE_AGAIN_S)
            self._prepare_at = None
        for offset in list(segment.extents):
            self._remove_extent(segment, offset)
        if segment.warm_since is not None:
            self._cool(segment)
        self.total_bytes -= segment.size_bytes
        self.used_bytes -= segment.used_bytes

    # --------------------------------------------------------------------------------------------- freeing

    def free(self, placement: Placement, now: Instant, *, bounded: bool = True) -> None:
        """Take back what `allocate` gave. Nobody reads or writes there any more.

        If not `bounded`, more may be warm than there should be, until `bound_warm`: somebody takes it in a moment.
        """
        segment = self._segments[placement.segment_id]
        segment.used_bytes -= placement.size_bytes
        self.used_bytes -= placement.size_bytes
        if segment.slab:
            self._free_slot(segment, placement)
        if segment.used_bytes == 0:
            self._retire(segment, now)
            if bounded:
                self.bound_warm()

    def _free_slot(self, segment: Segment, placement: Placement) -> None:
        offset, size = placement.offset, placement.size_bytes
        extents = segment.extents
        position = extents.bisect_left(offset)
        if position < len(extents) and extents.keys()[position] == offset + size:
            size += self._remove_extent(segment, offset + size)
        if position > 0:
            before = extents.keys()[position - 1]
            if before + extents[before] == offset:
                size += self._remove_extent(segment, before)
                offset = before
        self._add_extent(segment, offset, size)

    def _retire(self, segment: Segment, now: Instant) -> None:
        for offset in list(segment.extents):
            self._remove_extent(segment, offset)
        segment.slab = False
        segment.warm_since = now
        self._warm.add(segment)
        self._warm_bytes += segment.size_bytes

    def bound_warm(self) -> None:
        """Give back the segments that came out of use first, until no more are warm than there should be."""
        while self._warm_bytes > self._warm_limit:
            self._destroy(min(self._warm, key=lambda warm: (warm.warm_since, warm.segment_id)))

    def give_back_warm(self, now: Instant) -> bool:
        """The host is nearly full: give back all that is without objects. Returns whether there was any."""
        warm = list(self._warm)
        for segment in warm:
            self._destroy(segment)
        self._prepare_not_before = Instant(now + PREPARE_AGAIN_S)
        self._prepare_at = None
        return bool(warm)

    def writer_gone(self, writer: Peer) -> None:
        """The process writes no more: others may fill its slabs."""
        for segment_id in dict.fromkeys(extent[1] for extent in self._free.get(writer, ())):
            self._move_slab(self._segments[segment_id], None)
        for segment in self._segments.values():
            if segment.writer == writer:
                segment.writer = None

    def trim(self, now: Instant) -> None:
        """Give back the segments that have been warm for long enough, and prepare those that are wanted."""
        for segment in [segment for segment in self._warm if self._warm_until(segment) <= now]:
            self._destroy(segment)
        if self._prepare_at is not None and self._prepare_at <= now:
            self._prepare_at = None
            self._prepare()

    def release_all(self) -> None:
        """Give everything back, objects or not."""
        for segment in list(self._segments.values()):
            self._destroy(segment)

    # ---------------------------------------------------------------------------------------------- checks

    def broken_invariant(self) -> str | None:
        """Return what does not add up, or None."""
        total = used = warm = 0
        for segment in self._segments.values():
            total += segment.size_bytes
            used += segment.used_bytes
            if segment.warm_since is not None:
                warm += segment.size_bytes
                if segment.used_bytes or segment.slab or segment not in self._warm:
                    return f"warm segment {segment} is in use or not among the warm ones"
            if segment.slab:
                free = sum(segment.extents.values())
                if free + segment.used_bytes != segment.size_bytes:
                    return f"slab {segment.segment_id}: {free} free and {segment.used_bytes} used are not the whole"
                ends = -1
                for offset, size in segment.extents.items():
                    if offset <= ends:
                        return f"slab {segment.segment_id}: free extents touch at {offset}"
                    ends = offset + size
        if (total, used, warm) != (self.total_bytes, self.used_bytes, self._warm_bytes):
            counted = (self.total_bytes, self.used_bytes, self._warm_bytes)
            return f"counted {counted} bytes in total, used, warm; there are {(total, used, warm)}"
        if total > self.capacity_bytes:
            return f"{total} bytes in segments, more than the capacity of {self.capacity_bytes}"
        if warm > self._warm_limit:
            return f"{warm} bytes warm, more than the limit of {self._warm_limit}"
        known = sum(len(extents) for extents in self._free.values())
        if known != sum(len(segment.extents) for segment in self._segments.values()):
            return "the index of free extents and the slabs differ"
        return None
