"""Objects of the agent's core, event by event: who may write them, and who reads them."""

from __future__ import annotations

import pytest

from atoll.nodeagent.core.events import CreateSegment, DestroySegment, SegmentFailed, SendWithSegments
from atoll.protocol.messages import (
    AbortObject,
    AdoptObject,
    AttachProcess,
    CreateObject,
    DeleteObjects,
    Failed,
    GetObject,
    ObjectCreated,
    ObjectFound,
    ObjectGone,
    ObjectSealed,
    ReleaseObjects,
    SealObject,
    SegmentNotTaken,
)
from tests.nodeagent.core_driver import MIB, MINE, SCHEDULER, CoreDriver, create, get, object_id, put


@pytest.fixture
def driver() -> CoreDriver:
    return CoreDriver()


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


def test_who_could_not_map_a_segment_is_sent_its_descriptors_again(driver: CoreDriver) -> None:
    writer = driver.connect()
    created = create(driver, writer, MINE, 3 * MIB)
    driver.message(writer, SegmentNotTaken(created.segment_id))
    driver.message(writer, AbortObject(MINE))
    again = create(driver, writer, MINE, 3 * MIB)
    assert (again.segment_id, again.has_descriptor) == (created.segment_id, True)


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


@pytest.mark.parametrize("sealed", [False, True])
def test_an_attempt_that_its_caller_has_lost_does_not_replace_the_value_of_the_next(
    driver: CoreDriver, sealed: bool
) -> None:
    lost, second, reader = (driver.connect(process_id=b"worker-%d" % number) for number in (1, 2, 3))
    driver.message(second, CreateObject(1, MINE, 3 * MIB, 2))
    driver.make_segments()
    if sealed:
        driver.message(second, SealObject(2, MINE, b"of the second", pin=False))
    driver.message(lost, CreateObject(7, MINE, 3 * MIB, 1))
    assert [(failed.request, failed.kind) for failed in driver.said(Failed, lost)] == [(7, "ObjectLostError")]
    driver.message(lost, SealObject(8, MINE, b"of the first", pin=False))
    driver.message(lost, AbortObject(MINE))
    driver.message(lost, DeleteObjects([MINE]))
    if not sealed:
        driver.message(second, SealObject(2, MINE, b"of the second", pin=False))
    assert driver.said(ObjectSealed, second) == [ObjectSealed(2)]
    found = get(driver, reader, MINE)
    assert isinstance(found, ObjectFound)
    assert found.layout == b"of the second"
    third = driver.connect(process_id=b"worker-4")
    driver.message(reader, ReleaseObjects([MINE]))
    driver.message(third, CreateObject(1, MINE, 2 * MIB, 3))
    driver.make_segments()
    driver.message(third, SealObject(2, MINE, b"of the third", pin=False))
    found = get(driver, reader, MINE)
    assert isinstance(found, ObjectFound)
    assert found.layout == b"of the third"


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
