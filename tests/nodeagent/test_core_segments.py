"""Where objects lie in shared memory: the allocator alone."""

from __future__ import annotations

import pytest

from atoll.nodeagent.core.outbox import Outbox
from atoll.nodeagent.core.segments import SegmentAllocator, StoreFullError, size_class
from atoll.protocol.machine import Instant, Peer
from tests.nodeagent.core_driver import MIB


def test_size_classes_waste_at_most_an_eighth() -> None:
    for size in [1, 4096, 4097, 70_000, MIB, MIB + 1, 5 * MIB - 1, 100_000_000, 2**33 + 1]:
        given = size_class(size)
        assert given >= size
        assert given % 4096 == 0
        assert given - size <= max(4095, size // 8 + 1), size
    sizes = {size_class(size) for size in range(MIB + 1, 2 * MIB + 1, 4096)}
    assert len(sizes) == 8


def test_the_best_warm_segment_is_taken_and_a_too_large_one_is_not() -> None:
    allocator = SegmentAllocator(1024 * MIB, Outbox())
    writer = Peer(1)
    placements = [allocator.allocate(size * MIB, writer) for size in (10, 12, 40)]
    for placement in placements:
        allocator.created(placement.segment_id)
        allocator.free(placement, Instant(0.0))
    assert allocator.allocate(10 * MIB - 100, writer).segment_id == placements[0].segment_id
    assert allocator.allocate(10 * MIB, writer).segment_id == placements[1].segment_id
    assert allocator.allocate(10 * MIB, writer).segment_id not in {p.segment_id for p in placements}


def test_a_writer_gets_the_segment_that_it_has_mapped_already() -> None:
    allocator = SegmentAllocator(1024 * MIB, Outbox())
    placements = [allocator.allocate(10 * MIB, Peer(writer)) for writer in (1, 2, 3)]
    for placement in placements:
        allocator.free(placement, Instant(0.0))
    assert allocator.allocate(10 * MIB, Peer(2)).segment_id == placements[1].segment_id


def test_warm_memory_yields_when_it_is_wanted_otherwise() -> None:
    outbox = Outbox()
    allocator = SegmentAllocator(64 * MIB, outbox)
    placement = allocator.allocate(10 * MIB, Peer(1))
    allocator.free(placement, Instant(0.0))
    assert allocator.warm_bytes == 10 * MIB
    allocator.allocate(60 * MIB, Peer(1))
    assert allocator.warm_bytes == 0
    assert allocator.broken_invariant() is None


def test_a_nearly_full_store_takes_what_fits_exactly() -> None:
    allocator = SegmentAllocator(64 * MIB, Outbox())
    allocator.allocate(33 * MIB, Peer(1))
    left = allocator.capacity_bytes - allocator.total_bytes
    allocator.allocate(left, Peer(1))
    assert allocator.total_bytes == allocator.capacity_bytes
    with pytest.raises(StoreFullError, match="0 B free"):
        allocator.allocate(1, Peer(1))
