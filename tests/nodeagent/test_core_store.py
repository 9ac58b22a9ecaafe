"""The object store of the agent's core, event by event."""

from __future__ import annotations

import pytest

from atoll.nodeagent.core.events import CreateSegment, DestroySegment, SegmentFailed, SendWithSegments
from atoll.nodeagent.core.outbox import Outbox
from atoll.nodeagent.core.segments import SegmentAllocator, StoreFullError, size_class
from atoll.protocol.machine import Instant, Peer, PeerConnected
from atoll.protocol.messages import (
    AbortObject,
    AdoptObject,
    AttachProcess,
    CreateObject,
    DeleteObjects,
    DropObject,
    Failed,
    GetObject,
    JobEnded,
    NodeRegistered,
    ObjectCreated,
    ObjectFound,
    ObjectGone,
    ObjectSealed,
    ReleaseObjects,
    SealObject,
    StartLease,
)
from atoll.protocol.values import SchedulingClass
from tests.nodeagent.core_driver import MIB, SCHEDULER, CoreDriver


@pytest.fixture
def driver() -> CoreDriver:
    return CoreDriver()


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


def test_attaching_under_another_id_is_refused(driver: CoreDriver) -> None:
    peer = driver.connect(attach=False)
    driver.message(peer, AttachProcess(1, b"somebody", 1))
    assert driver.said(Failed, peer)


def test_a_writer_waits_for_memory_and_gets_the_descriptor_once(driver: CoreDriver) -> None:
    peer = driver.connect()
    driver.message(peer, CreateObject(1, MINE, 3 * MIB))
    assert driver.said(ObjectCreated, peer) == [], "the memory is not reserved yet"
    assert driver.take(CreateSegment) == [CreateSegment(1, 3 * MIB)]
    driver.make_segments()
    (sent,) = driver.take(SendWithSegments)
    assert sent.segments == [(1, True), (1, False)]
    assert sent.message == ObjectCreated(1, 1, 3 * MIB, 0, True)
    driver.message(peer, AbortObject(MINE))
    again = create(driver, peer, MINE, 3 * MIB - 5)
    assert (again.segment_id, again.has_descriptor) == (1, False)


def test_readers_get_a_read_only_descriptor_once_also_who_wrote_it(driver: CoreDriver) -> None:
    writer, reader = driver.connect(), driver.connect(process_id=b"client-2")
    created = put(driver, writer, MINE, 3 * MIB)
    driver.take(SendWithSegments)
    driver.message(reader, GetObject(2, MINE))
    (sent,) = driver.take(SendWithSegments)
    assert sent.segments == [(created.segment_id, False)]
    for peer in (reader, writer):
        found = get(driver, peer, MINE)
        assert isinstance(found, ObjectFound)
        assert not found.has_descriptor
        assert (found.size_bytes, found.layout) == (3 * MIB, b"how")


def test_an_unsealed_object_cannot_be_got_and_only_its_writer_seals(driver: CoreDriver) -> None:
    writer, other = driver.connect(), driver.connect(process_id=b"client-2")
    create(driver, writer, MINE, 10)
    failed = get(driver, other, MINE)
    assert isinstance(failed, Failed)
    assert failed.kind == "ObjectLostError"
    driver.message(other, SealObject(3, MINE, b"", pin=False))
    assert driver.said(Failed, other)[0].kind == "ObjectLostError"
    driver.message(other, AbortObject(MINE))
    driver.message(writer, SealObject(4, MINE, b"", pin=False))
    assert driver.said(ObjectSealed, writer)


def test_a_pinned_object_outlives_its_deletion(driver: CoreDriver) -> None:
    writer, reader = driver.connect(), driver.connect(process_id=b"client-2")
    created = put(driver, writer, MINE, 3 * MIB)
    get(driver, reader, MINE)
    get(driver, reader, MINE)
    driver.message(writer, DeleteObjects([MINE]))
    for _pin in range(2):
        assert driver.core.store.used_bytes == 3 * MIB
        other = create(driver, writer, object_id(b"client-1", 2), 3 * MIB)
        assert other.segment_id != created.segment_id
        driver.message(writer, AbortObject(object_id(b"client-1", 2)))
        driver.message(reader, ReleaseObjects([MINE]))
    assert driver.core.store.used_bytes == 0
    assert isinstance(get(driver, reader, MINE), Failed)


def test_a_seal_with_a_pin_holds_until_it_is_released(driver: CoreDriver) -> None:
    writer = driver.connect()
    put(driver, writer, MINE, pin=True)
    driver.message(writer, DeleteObjects([MINE]))
    assert len(driver.core.store.objects()) == 1
    driver.message(writer, ReleaseObjects([MINE, MINE, b"?" * 20]))
    assert driver.core.store.objects() == []


def test_only_the_owner_or_the_maker_deletes(driver: CoreDriver) -> None:
    owner, maker, other = (driver.connect(process_id=p) for p in (b"client-1", b"worker-1", b"client-2"))
    put(driver, maker, MINE)
    driver.message(other, DeleteObjects([MINE]))
    assert len(driver.core.store.objects()) == 1
    driver.message(owner, DeleteObjects([MINE]))
    assert driver.core.store.objects() == []


def test_r6_what_a_dead_process_owned_goes_except_what_was_adopted(driver: CoreDriver) -> None:
    owner, reader = driver.connect(), driver.connect(process_id=b"client-2")
    named, anonymous, pinned = (object_id(b"client-1", n) for n in (1, 2, 3))
    for number in (named, anonymous, pinned):
        put(driver, owner, number)
    driver.message(SCHEDULER, AdoptObject(named, "flights"))
    get(driver, reader, pinned)
    driver.lose(owner)
    driver.message(SCHEDULER, JobEnded(b"client-1"))
    assert {o.object_id for o in driver.core.store.objects()} == {named, pinned}
    driver.lose(reader)
    assert [info.name for info in driver.core.store.describe(10)] == ["flights"]
    driver.message(SCHEDULER, DropObject(named))
    assert driver.core.store.objects() == []


def test_what_a_worker_writes_for_a_dead_owner_goes_when_it_is_sealed(driver: CoreDriver) -> None:
    worker = driver.connect(process_id=b"worker-1")
    driver.message(SCHEDULER, JobEnded(b"client-1"))
    put(driver, worker, MINE, pin=True)
    driver.message(worker, ReleaseObjects([MINE]))
    assert driver.core.store.objects() == []


def test_what_a_scheduler_does_not_adopt_again_is_given_up(driver: CoreDriver) -> None:
    """It gave the names up while the node was away."""
    owner = driver.connect()
    kept, lost = object_id(b"client-1", 1), object_id(b"client-1", 2)
    for number in (kept, lost):
        put(driver, owner, number)
        driver.message(SCHEDULER, AdoptObject(number, f"name {number[-1]}"))
    driver.lose(owner)
    driver.lose(SCHEDULER)
    driver.event(PeerConnected(SCHEDULER, "scheduler", b"schedule"))
    driver.message(SCHEDULER, AdoptObject(kept, "name 1"))
    assert len(driver.core.store.objects()) == 2
    driver.message(SCHEDULER, NodeRegistered(1))
    assert [o.object_id for o in driver.core.store.objects()] == [kept]


def test_a_client_that_the_scheduler_has_lost_and_that_is_attached_here_keeps_its_objects(driver: CoreDriver) -> None:
    owner, worker = driver.connect(), driver.connect(process_id=b"worker-1")
    put(driver, owner, MINE)
    driver.message(SCHEDULER, JobEnded(b"client-1"))
    later = object_id(b"client-1", 2)
    put(driver, worker, later)
    assert {o.object_id for o in driver.core.store.objects()} == {MINE, later}
    driver.lose(owner)
    assert driver.core.store.objects() == []


def test_what_is_made_for_a_client_that_has_come_back_stays(driver: CoreDriver) -> None:
    """It is attached at another node, so nothing but its leases is heard of it here."""
    worker = driver.connect(process_id=b"worker-1")
    driver.define()
    driver.message(SCHEDULER, JobEnded(b"client-1"))
    wanted = SchedulingClass({"CPU": 10_000}, "e1")
    driver.message(SCHEDULER, StartLease(1, b"client-1", wanted, [], False, b"client-1"))
    put(driver, worker, MINE)
    assert [o.object_id for o in driver.core.store.objects()] == [MINE]


def test_r8_a_lost_writer_aborts_and_the_scheduler_hears_of_adopted_objects(driver: CoreDriver) -> None:
    writer = driver.connect()
    create(driver, writer, MINE, 3 * MIB)
    driver.message(SCHEDULER, AdoptObject(MINE, "flights"))
    driver.lose(writer)
    assert driver.core.store.used_bytes == 0
    assert driver.said(ObjectGone) == [ObjectGone(MINE)]
    driver.message(SCHEDULER, AdoptObject(MINE, "flights"))
    assert driver.said(ObjectGone) == [ObjectGone(MINE)]


def test_a_writer_that_is_lost_while_memory_is_reserved_leaves_nothing(driver: CoreDriver) -> None:
    writer = driver.connect()
    driver.message(writer, CreateObject(1, MINE, 60 * MIB))
    driver.lose(writer)
    driver.make_segments()
    assert driver.take(DestroySegment), "it is too large to be kept warm"
    assert driver.core.statistics().segment_bytes == 0


def test_a_task_tried_again_writes_its_result_again(driver: CoreDriver) -> None:
    first, second = driver.connect(process_id=b"worker-1"), driver.connect(process_id=b"worker-2")
    put(driver, first, MINE, 3 * MIB)
    put(driver, second, MINE, 2 * MIB)
    assert driver.core.store.used_bytes == 2 * MIB
    get(driver, first, MINE)
    driver.message(second, CreateObject(5, MINE, MIB))
    assert driver.said(Failed, second)[0].kind == "ProtocolError", "somebody reads it: its bytes stay"


def test_what_an_attempt_still_writes_is_not_used_again_before_it_has_ended(driver: CoreDriver) -> None:
    """Who owns the result has lost sight of the first attempt, which does not know and writes on."""
    first, second = driver.connect(process_id=b"worker-1"), driver.connect(process_id=b"worker-2")
    before = create(driver, first, MINE, 3 * MIB)
    other = put(driver, second, MINE, 3 * MIB)
    third = put(driver, second, object_id(b"client-1", 2), 3 * MIB)
    assert before.segment_id not in {other.segment_id, third.segment_id}
    driver.message(first, SealObject(7, MINE, b"how", pin=False))
    assert [(failed.request, failed.kind) for failed in driver.said(Failed, first)] == [(7, "ObjectLostError")]
    assert driver.core.store.used_bytes == 6 * MIB
    again = put(driver, second, object_id(b"client-1", 3), 3 * MIB)
    assert again.segment_id == before.segment_id


@pytest.mark.parametrize("lost", [False, True])
def test_an_attempt_that_gives_up_what_another_writes_takes_nothing_of_the_others(
    driver: CoreDriver, lost: bool
) -> None:
    first, second = driver.connect(process_id=b"worker-1"), driver.connect(process_id=b"worker-2")
    create(driver, first, MINE, 3 * MIB)
    create(driver, second, MINE, 3 * MIB)
    if lost:
        driver.lose(first)
    else:
        driver.message(first, AbortObject(MINE))
    assert driver.core.store.used_bytes == 3 * MIB
    driver.message(second, SealObject(10, MINE, b"how", pin=False))
    assert driver.said(ObjectSealed, second) == [ObjectSealed(10)]


def test_an_attempt_that_waits_for_memory_hears_that_another_writes_its_result(driver: CoreDriver) -> None:
    first, second = driver.connect(process_id=b"worker-1"), driver.connect(process_id=b"worker-2")
    put(driver, second, object_id(b"client-1", 2), 60 * MIB, pin=True)
    driver.message(first, CreateObject(5, MINE, 10 * MIB))
    put(driver, second, MINE, MIB)
    (failed,) = driver.said(Failed, first)
    assert (failed.request, failed.kind) == (5, "ObjectLostError")


def test_r11_a_full_store_is_an_error_with_both_sizes(driver: CoreDriver) -> None:
    writer = driver.connect()
    put(driver, writer, MINE, 40 * MIB, pin=True)
    driver.message(writer, CreateObject(5, object_id(b"client-1", 2), 30 * MIB))
    assert driver.said(Failed, writer) == [], "who has it pinned may let go of it in time"
    driver.advance(5.0)
    (failed,) = driver.said(Failed, writer)
    assert failed.kind == "ObjectStoreFullError"
    assert failed.text.startswith("the object needs 30 MiB; the store holds at most 64 MiB (24 MiB free)")
    assert "\n" not in failed.text


def test_r12_an_object_larger_than_the_store_is_refused_at_once(driver: CoreDriver) -> None:
    writer = driver.connect()
    driver.message(writer, CreateObject(5, MINE, 30 * 2**30))
    (failed,) = driver.said(Failed, writer)
    assert "the object needs 30 GiB; the store holds at most 64 MiB (64 MiB free): it can never fit" in failed.text
    assert driver.take(CreateSegment) == []


def test_r11_memory_that_the_host_does_not_give_fails_all_who_wait_for_it(driver: CoreDriver) -> None:
    writer = driver.connect()
    for number in (1, 2):
        driver.message(writer, CreateObject(number, object_id(b"client-1", number), 100))
    (segment,) = driver.take(CreateSegment)
    del driver.making[segment.segment_id]
    driver.event(SegmentFailed(segment.segment_id, "the host has no memory left"))
    assert [(failed.request, failed.kind) for failed in driver.said(Failed, writer)] == [
        (1, "ObjectStoreFullError"),
        (2, "ObjectStoreFullError"),
    ]
    assert driver.core.statistics().segment_bytes == 0


def test_small_objects_of_a_process_share_a_slab_and_processes_do_not(driver: CoreDriver) -> None:
    one, two = driver.connect(), driver.connect(process_id=b"client-2")
    places = [put(driver, one, object_id(b"client-1", n), 100) for n in range(3)]
    assert [place.offset for place in places] == [0, 128, 256]
    assert len({place.segment_id for place in places}) == 1
    foreign = put(driver, two, object_id(b"client-2", 1), 100)
    assert foreign.segment_id != places[0].segment_id, "nobody may write where another's objects lie"
    driver.message(SCHEDULER, AdoptObject(object_id(b"client-1", 0), "kept"))
    driver.lose(one)
    three = driver.connect(process_id=b"client-3")
    adopted = put(driver, three, object_id(b"client-3", 1), 100)
    assert adopted.segment_id == places[0].segment_id, "its writer is gone: the slab has another one"
    assert adopted.offset == 128


def test_warm_segments_are_given_back_after_a_while(driver: CoreDriver) -> None:
    writer = driver.connect()
    put(driver, writer, MINE, 3 * MIB)
    driver.message(writer, DeleteObjects([MINE]))
    assert driver.core.statistics().warm_bytes == 3 * MIB
    driver.advance(61.0)
    assert driver.core.statistics().segment_bytes == 0
    assert len(driver.take(DestroySegment)) == 1


def test_empty_and_odd_sizes(driver: CoreDriver) -> None:
    writer = driver.connect()
    put(driver, writer, MINE, 0)
    assert driver.core.store.used_bytes == 64
    for number, size in ((b"short", 1), (object_id(b"client-1", 2), -1)):
        driver.message(writer, CreateObject(5, number, size))
        assert driver.said(Failed, writer)[0].kind == "ProtocolError"


# ---------------------------------------------------------------------------------------------------- allocator


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
