"""Actors of the agent's core, event by event. How idle ones leave their devices: `test_core_device_leave.py`."""

from __future__ import annotations

import pytest

from atoll.nodeagent.core.events import ProcessExited
from atoll.protocol.machine import PeerConnected
from atoll.protocol.messages import (
    ActorConstructed,
    ActorFailed,
    ActorStarted,
    ConstructActor,
    EndLease,
    LeaseEnded,
    RegisterNode,
    StartActor,
)
from atoll.protocol.values import ActorSpec, SchedulingClass
from tests.nodeagent.core_driver import SCHEDULER, CoreDriver


@pytest.fixture
def driver() -> CoreDriver:
    return CoreDriver()


def spec() -> ActorSpec:
    return ActorSpec(b"a" * 16, "", "", "Counter", SchedulingClass({}, "e1"), b"")


def test_an_actor_is_made_in_its_lease_and_told_of(driver: CoreDriver) -> None:
    driver.define()
    driver.start_lease(1, dedicated=True)
    ((_worker_id, peer),) = driver.run_all().items()
    driver.message(SCHEDULER, StartActor(1, spec(), 0))
    assert driver.said(ConstructActor, peer)
    driver.message(peer, ActorConstructed(b"b" * 16))
    assert driver.said(ActorStarted) == [], "it is another actor that the worker speaks of"
    driver.message(peer, ActorConstructed(b"a" * 16))
    assert driver.said(ActorStarted) == [ActorStarted(b"a" * 16, 1)]


def test_an_actor_whose_worker_has_just_died_is_told_of_by_the_end_of_its_lease(driver: CoreDriver) -> None:
    """Else it would be taken for one that is refused, and not be made again."""
    driver.define()
    driver.start_lease(1)
    ((worker_id, peer),) = driver.run_all().items()
    driver.lose(peer)
    driver.message(SCHEDULER, StartActor(1, spec(), 0))
    assert driver.said(ActorFailed) == []
    driver.event(ProcessExited(worker_id, None, 9))
    (ended,) = driver.said(LeaseEnded)
    assert (ended.lease_id, ended.kind) == (1, "WorkerCrashedError")


def test_an_actor_whose_lease_is_gone_fails(driver: CoreDriver) -> None:
    driver.message(SCHEDULER, StartActor(1, spec(), 0))
    (failed,) = driver.said(ActorFailed)
    assert failed.lease_id == 1


def test_a_scheduler_that_comes_back_hears_of_actors_that_are_made_and_go_on(driver: CoreDriver) -> None:
    driver.define()
    for lease_id in (1, 2, 3):
        driver.start_lease(lease_id, dedicated=True)
    peers = list(driver.run_all().values())
    for lease_id, peer in enumerate(peers, 1):
        driver.message(SCHEDULER, StartActor(lease_id, spec(), 0))
        if lease_id != 2:
            driver.message(peer, ActorConstructed(b"a" * 16))
    driver.message(SCHEDULER, EndLease(3, kill=True))
    driver.lose(SCHEDULER)
    driver.said(RegisterNode)
    driver.event(PeerConnected(SCHEDULER, "scheduler", b"schedule"))
    (registered,) = driver.said(RegisterNode)
    assert registered.actors == [(b"a" * 16, 1)], "the second is not made yet, the third ends"
    assert [lease_id for lease_id, *_place in registered.leases] == [1, 2, 3]
