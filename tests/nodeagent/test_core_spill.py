"""A full store, event by event: what is copied to disk, whose memory is taken, who waits and for how long."""

from __future__ import annotations

import pytest

from atoll.nodeagent.core.events import DeleteSpillFile, DestroySegment, SpillObjects
from atoll.protocol.machine import Peer
from atoll.protocol.messages import (
    AbortObject,
    AdoptObject,
    CreateObject,
    DeleteObjects,
    Failed,
    GetObject,
    ObjectCreated,
    ObjectFound,
    ObjectGone,
    ReleaseObjects,
    ReturnPins,
    SealObject,
    SegmentsDestroyed,
)
from tests.nodeagent.core_driver import MIB, SCHEDULER, CoreDriver


@pytest.fixture
def driver() -> CoreDriver:
    return CoreDriver(capacity=64 * MIB)


def numbered(number: int) -> bytes:
    return b"client-1" + number.to_bytes(12, "big")


def put(driver: CoreDriver, peer: Peer, number: int, size: int, pin: bool = False) -> None:
    driver.message(peer, CreateObject(number, numbered(number), size))
    driver.make_segments()
    assert driver.said(ObjectCreated, peer)
    driver.message(peer, SealObject(number, numbered(number), b"how", pin))


def full(driver: CoreDriver, pin: bool = False) -> Peer:
    """A store of 64 MiB with three objects of 20 MiB."""
    writer = driver.connect()
    for number in (1, 2, 3):
        put(driver, writer, number, 20 * MIB, pin)
    return writer


def spilled(driver: CoreDriver) -> list[int]:
    """The sizes in each file that is being written."""
    return [len(action.pieces) for action in driver.take(SpillObjects)]


def test_a_put_into_a_full_store_waits_until_the_object_longest_out_of_use_is_on_disk(driver: CoreDriver) -> None:
    writer = full(driver)
    driver.message(writer, GetObject(9, numbered(1)))
    driver.message(writer, ReleaseObjects([numbered(1)]))
    driver.message(writer, CreateObject(4, numbered(4), 20 * MIB))
    assert driver.said(ObjectCreated, writer) == [], "its memory is not free before the copy is on disk"
    ((file_id, action),) = driver.spilling.items()
    assert [piece.size_bytes for piece in action.pieces] == [20 * MIB]
    driver.finish_spill(file_id)
    driver.make_segments()
    assert driver.said(ObjectCreated, writer)
    in_memory = {o.object_id: o.placement is not None for o in driver.core.store.objects()}
    assert in_memory == {numbered(1): True, numbered(2): False, numbered(3): True, numbered(4): True}
    assert driver.core.statistics().spilled_bytes == 20 * MIB


def test_what_is_on_disk_comes_back_to_all_who_ask_for_it_with_one_read(driver: CoreDriver) -> None:
    writer = full(driver)
    put_more(driver, writer)
    readers = [driver.connect(process_id=b"client-%d" % number) for number in (2, 3)]
    for reader in readers:
        driver.message(reader, GetObject(7, numbered(1)))
        assert driver.said(ObjectFound, reader) == []
    driver.work_disk()
    for reader in readers:
        (found,) = driver.said(ObjectFound, reader)
        assert (found.request, found.size_bytes, found.layout) == (7, 20 * MIB, b"how")


def put_more(driver: CoreDriver, writer: Peer) -> None:
    driver.message(writer, CreateObject(4, numbered(4), 20 * MIB))
    driver.work_disk()
    assert driver.said(ObjectCreated, writer)
    driver.message(writer, SealObject(4, numbered(4), b"how", pin=False))


def test_a_copy_is_written_once_and_its_file_goes_with_the_object(driver: CoreDriver) -> None:
    writer = full(driver)
    put_more(driver, writer)
    driver.message(writer, GetObject(7, numbered(1)))
    driver.work_disk()
    driver.message(writer, ReleaseObjects([numbered(1)]))
    driver.take(SpillObjects)
    for number in (2, 3, 4):
        driver.message(writer, GetObject(number, numbered(number)))
        driver.work_disk()
    ids = [piece for action in driver.take(SpillObjects) for piece in action.pieces]
    assert len(ids) == 0, "there were copies of all that had to leave"
    driver.message(writer, DeleteObjects([numbered(1)]))
    assert [action.file_id for action in driver.take(DeleteSpillFile)] == [1]
    assert driver.core.statistics().spill_files == len(driver.files)


def test_a_pinned_object_is_neither_copied_nor_moved(driver: CoreDriver) -> None:
    writer = full(driver)
    reader = driver.connect(process_id=b"client-2")
    for number in (1, 2):
        driver.message(reader, GetObject(number, numbered(number)))
    driver.message(writer, CreateObject(4, numbered(4), 50 * MIB))
    assert spilled(driver) == [1], "only what nobody has pinned"
    driver.work_disk()
    assert driver.said(ObjectCreated, writer) == []
    driver.message(reader, ReleaseObjects([numbered(1), numbered(2)]))
    driver.work_disk()
    assert driver.said(ObjectCreated, writer)


def test_an_object_that_comes_into_use_while_it_is_copied_keeps_its_memory(driver: CoreDriver) -> None:
    writer = full(driver)
    driver.message(writer, CreateObject(4, numbered(4), 20 * MIB))
    (file_id,) = driver.spilling
    driver.message(writer, GetObject(7, numbered(1)))
    assert driver.said(ObjectFound, writer), "it is in memory, and nobody waits for the disk"
    driver.finish_spill(file_id)
    assert spilled(driver) == [1, 1], "so another one is copied"
    driver.work_disk()
    assert driver.said(ObjectCreated, writer)
    assert next(o for o in driver.core.store.objects() if o.object_id == numbered(1)).placement is not None


def test_small_objects_are_written_together_and_read_alone(driver: CoreDriver) -> None:
    writer = driver.connect()
    for number in range(100, 140):
        put(driver, writer, number, 100_000)
    for number in (1, 2, 3):
        driver.message(writer, CreateObject(number, numbered(number), 21 * MIB))
    driver.work_disk()
    files = driver.take(SpillObjects)
    assert len(files) == 1
    assert len(files[0].pieces) == 40
    driver.message(writer, AbortObject(numbered(3)))
    driver.message(writer, GetObject(7, numbered(121)))
    (restore,) = driver.restoring.values()
    assert (restore.file_offset, restore.checksum) == (21 * 100_000, b"sum21")
    driver.work_disk()
    assert driver.said(ObjectFound, writer)
    driver.message(writer, DeleteObjects([numbered(number) for number in range(100, 139)]))
    driver.message(writer, ReleaseObjects([numbered(121)]))
    assert driver.take(DeleteSpillFile) == [], "one is left in it"
    driver.message(writer, DeleteObjects([numbered(139)]))
    assert len(driver.take(DeleteSpillFile)) == 1


def test_those_who_only_have_objects_at_hand_are_asked_back_oldest_first(driver: CoreDriver) -> None:
    writer = full(driver, pin=True)
    driver.message(writer, CreateObject(4, numbered(4), 20 * MIB))
    assert spilled(driver) == []
    assert driver.said(ReturnPins, writer) == [ReturnPins([numbered(1)])]
    driver.advance(0.2)
    assert driver.said(ReturnPins, writer) == [ReturnPins([numbered(2)]), ReturnPins([numbered(3)])], (
        "nothing came back, so the next are asked for"
    )
    driver.message(writer, ReleaseObjects([numbered(2)]))
    driver.work_disk()
    assert driver.said(ObjectCreated, writer)
    assert driver.said(ReturnPins, writer) == []


def test_r9_a_full_disk_loses_nothing_and_is_an_error_in_time(driver: CoreDriver) -> None:
    writer = full(driver)
    driver.message(writer, CreateObject(4, numbered(4), 30 * MIB))
    tries = 0
    begin = driver.now
    while not (failed := driver.said(Failed, writer)):
        for file_id in list(driver.spilling):
            tries += 1
            driver.finish_spill(file_id, "the disk of /spill is full")
        driver.advance(0.25)
        assert driver.now < begin + 10.0
    assert failed[0].kind == "ObjectStoreFullError"
    assert "the object needs 30 MiB; the store holds at most 64 MiB (4 MiB free)" in failed[0].text
    assert "the disk of /spill is full" in failed[0].text
    assert 2 <= tries <= 12, "it is tried again, and not all the time"
    assert driver.files == {}
    for number in (1, 2, 3):
        driver.message(writer, GetObject(number, numbered(number)))
        assert driver.said(ObjectFound, writer)


def test_r9_who_waits_goes_on_when_the_disk_has_room_again(driver: CoreDriver) -> None:
    writer = full(driver)
    driver.message(writer, CreateObject(4, numbered(4), 20 * MIB))
    (file_id,) = driver.spilling
    driver.finish_spill(file_id, "the disk is full")
    driver.advance(1.1)
    driver.work_disk()
    assert driver.said(ObjectCreated, writer)


def test_a_slow_disk_is_waited_for(driver: CoreDriver) -> None:
    writer = full(driver)
    driver.message(writer, CreateObject(4, numbered(4), 20 * MIB))
    driver.advance(50.0)
    assert driver.said(Failed, writer) == []
    driver.work_disk()
    assert driver.said(ObjectCreated, writer)


def test_r10_an_object_whose_file_is_damaged_is_lost_and_named_so(driver: CoreDriver) -> None:
    writer = full(driver)
    driver.message(SCHEDULER, AdoptObject(numbered(1), "flights"))
    put_more(driver, writer)
    driver.message(writer, GetObject(7, numbered(1)))
    driver.make_segments()
    while not driver.restoring:
        driver.finish_spill(next(iter(driver.spilling)))
        driver.make_segments()
    driver.finish_restore(numbered(1), "its spill file is damaged")
    (failed,) = driver.said(Failed, writer)
    assert (failed.request, failed.kind) == (7, "ObjectLostError")
    assert "its spill file is damaged" in failed.text
    assert driver.said(ObjectGone) == [ObjectGone(numbered(1))]
    assert numbered(1) not in {o.object_id for o in driver.core.store.objects()}


def test_an_object_given_up_while_it_is_copied_or_read_leaves_nothing(driver: CoreDriver) -> None:
    writer = full(driver)
    driver.message(writer, CreateObject(4, numbered(4), 20 * MIB))
    driver.message(writer, DeleteObjects([numbered(1)]))
    driver.work_disk()
    assert driver.files == {}, "nobody wants the copy"
    assert driver.said(ObjectCreated, writer)
    driver.message(writer, SealObject(4, numbered(4), b"", pin=False))
    driver.message(writer, CreateObject(5, numbered(5), 20 * MIB))
    driver.work_disk()
    driver.message(writer, AbortObject(numbered(5)))
    (gone,) = (o.object_id for o in driver.core.store.objects() if o.placement is None)
    reader = driver.connect(process_id=b"client-2")
    driver.message(reader, GetObject(7, gone))
    driver.make_segments()
    assert driver.restoring
    driver.message(writer, DeleteObjects([gone]))
    driver.lose(reader)
    assert gone in {o.object_id for o in driver.core.store.objects()}, "its memory is being written to"
    driver.work_disk()
    assert gone not in {o.object_id for o in driver.core.store.objects()}
    assert driver.files == {}


def test_who_waits_for_room_can_give_up(driver: CoreDriver) -> None:
    writer = full(driver, pin=True)
    driver.message(writer, CreateObject(4, numbered(4), 30 * MIB))
    driver.message(writer, AbortObject(numbered(4)))
    assert driver.core.statistics().waiting_for_room == 0
    driver.advance(10.0)
    assert driver.said(Failed, writer) == []


def test_who_fits_goes_ahead_of_who_does_not(driver: CoreDriver) -> None:
    writer = full(driver, pin=True)
    driver.message(writer, CreateObject(4, numbered(4), 30 * MIB))
    driver.message(writer, CreateObject(5, numbered(5), 2 * MIB))
    driver.work_disk()
    assert [created.request for created in driver.said(ObjectCreated, writer)] == [5]


def test_who_has_mapped_a_segment_hears_that_it_is_gone(driver: CoreDriver) -> None:
    writer, reader = driver.connect(), driver.connect(process_id=b"client-2")
    stranger = driver.connect(process_id=b"client-3")
    put(driver, writer, 1, 40 * MIB)
    driver.message(reader, GetObject(1, numbered(1)))
    driver.message(reader, ReleaseObjects([numbered(1)]))
    driver.message(writer, DeleteObjects([numbered(1)]))
    (destroyed,) = driver.take(DestroySegment)
    for peer in (writer, reader):
        assert driver.said(SegmentsDestroyed, peer) == [SegmentsDestroyed([destroyed.segment_id])]
    assert driver.said(SegmentsDestroyed, stranger) == []


def test_memory_is_prepared_when_somebody_comes_and_given_back_when_nobody_does_anything() -> None:
    driver = CoreDriver(capacity=256 * MIB, prepared_bytes=48 * MIB)
    assert driver.making == {}
    driver.connect()
    assert driver.making == {}, "who comes has other things to do first"
    driver.advance(0.2)
    assert sorted(driver.making.values()) == [8 * MIB] * 4 + [16 * MIB]
    assert driver.core.statistics().warm_bytes == 48 * MIB
    driver.make_segments()
    driver.advance(30.0)
    assert driver.core.statistics().warm_bytes == 48 * MIB
    driver.advance(31.0)
    assert driver.core.statistics().segment_bytes == 0


def test_the_first_object_takes_prepared_memory_cut_to_its_size() -> None:
    driver = CoreDriver(capacity=256 * MIB, prepared_bytes=48 * MIB)
    writer = driver.connect()
    driver.advance(0.2)
    driver.message(writer, CreateObject(1, numbered(1), 10 * MIB))
    assert driver.said(ObjectCreated, writer) == [], "what is not ready yet is not waited for: it is made at leisure"
    driver.message(writer, AbortObject(numbered(1)))
    driver.make_segments()
    driver.message(writer, CreateObject(2, numbered(2), 12 * MIB))
    (created,) = driver.said(ObjectCreated, writer)
    assert driver.segments[created.segment_id] == created.segment_bytes


def test_prepared_memory_yields_to_who_needs_it() -> None:
    driver = CoreDriver(capacity=64 * MIB, prepared_bytes=16 * MIB)
    writer = driver.connect()
    driver.advance(0.2)
    driver.make_segments()
    assert driver.core.statistics().warm_bytes == 16 * MIB
    put(driver, writer, 1, 64 * MIB)
    assert driver.core.statistics().warm_bytes == 0
