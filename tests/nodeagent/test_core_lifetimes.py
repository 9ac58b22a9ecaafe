"""How long objects of the agent's core live, event by event: owners, names, pins."""

from __future__ import annotations

import pytest

from atoll.protocol.machine import PeerConnected
from atoll.protocol.messages import (
    AbortObject,
    AdoptObject,
    DeleteObjects,
    DropObject,
    Failed,
    JobEnded,
    NodeRegistered,
    ReleaseObjects,
    StartLease,
)
from atoll.protocol.values import SchedulingClass
from tests.nodeagent.core_driver import MIB, MINE, SCHEDULER, CoreDriver, create, get, object_id, put


@pytest.fixture
def driver() -> CoreDriver:
    return CoreDriver()


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
