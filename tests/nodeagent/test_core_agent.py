"""The agent's core as a whole: who may speak, and when it ends."""

from __future__ import annotations

import pytest

from atoll.nodeagent.core.events import Exit, StopRequested
from atoll.protocol.machine import ClosePeer
from atoll.protocol.messages import EndLease, Failed, GetObject, StopNode, WorkerStarted
from tests.nodeagent.core_driver import SCHEDULER, CoreDriver


@pytest.fixture
def driver() -> CoreDriver:
    return CoreDriver()


def test_s19_who_says_what_it_must_not_is_refused_and_nothing_changes(driver: CoreDriver) -> None:
    driver.define()
    stranger = driver.connect(attach=False)
    driver.message(stranger, GetObject(5, b"x" * 20))
    assert [failed.request for failed in driver.said(Failed, stranger)] == [5]
    driver.message(stranger, EndLease(1, kill=True))
    assert [closed.peer for closed in driver.take(ClosePeer)] == [stranger]
    assert driver.message(stranger, EndLease(1, kill=True)) == []
    impostor = driver.connect("worker", b"no-fork!")
    driver.message(impostor, WorkerStarted("/x", 1))
    assert [closed.peer for closed in driver.take(ClosePeer)] == [impostor]


def test_stop_node_and_signals_end_the_agent(driver: CoreDriver) -> None:
    driver.message(SCHEDULER, StopNode())
    assert driver.take(Exit)
    other = CoreDriver()
    other.event(StopRequested("SIGTERM came"))
    assert other.take(Exit)
    assert other.message(SCHEDULER, StopNode()) == []
