"""The link to the scheduler, as the agent's core sees it: made, lost and made again."""

from __future__ import annotations

import pytest

from atoll.nodeagent.core.events import DialScheduler, Exit
from atoll.protocol.machine import PeerConnected
from atoll.protocol.messages import EndLease, RegisterNode
from tests.nodeagent.core_driver import SCHEDULER, CoreDriver, share


@pytest.fixture
def driver() -> CoreDriver:
    return CoreDriver()


def test_the_agent_dials_and_registers() -> None:
    driver = CoreDriver(connected=False)
    assert driver.take(DialScheduler)
    driver.event(PeerConnected(SCHEDULER, "scheduler", b"schedule"))
    (registered,) = driver.said(RegisterNode)
    assert registered.node_id == b"node-001"
    assert len(registered.devices) == 2
    assert registered.leases == []


def test_without_a_scheduler_what_runs_goes_on_and_is_registered_again(driver: CoreDriver) -> None:
    driver.define()
    driver.start_lease(1, dedicated=True)
    driver.run_all()
    (worker,) = driver.core.pool.workers()
    driver.start_lease(2)
    driver.take(DialScheduler)
    driver.lose(SCHEDULER)
    assert driver.take(DialScheduler)
    driver.advance(5.0)
    assert driver.take(Exit) == []
    driver.said(RegisterNode)
    driver.event(PeerConnected(SCHEDULER, "scheduler", b"schedule"))
    (registered,) = driver.said(RegisterNode)
    assert registered.leases == [(1, worker.worker_id, worker.address)]
    driver.advance(20.0)
    assert driver.take(Exit) == []


def test_what_is_ending_is_registered_again_too_for_what_it_still_holds(driver: CoreDriver) -> None:
    driver.define()
    driver.start_lease(1, devices=[share(0)])
    driver.run_all()
    driver.message(SCHEDULER, EndLease(1, True))
    driver.lose(SCHEDULER)
    driver.said(RegisterNode)
    driver.event(PeerConnected(SCHEDULER, "scheduler", b"schedule"))
    (registered,) = driver.said(RegisterNode)
    assert registered.leases == [(1, b"", "")]
    assert [start.devices for start in registered.started] == [[share(0)]]


def test_ten_seconds_without_a_scheduler_end_the_agent(driver: CoreDriver) -> None:
    driver.lose(SCHEDULER)
    driver.advance(9.9)
    assert driver.take(Exit) == []
    driver.advance(0.2)
    assert len(driver.take(Exit)) == 1
