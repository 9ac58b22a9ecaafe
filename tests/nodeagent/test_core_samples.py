"""What the scheduler is told of the node now and then, as the agent's core decides it."""

from __future__ import annotations

import pytest

from atoll.nodeagent.core.events import NodeObserved, ObserveNode
from atoll.protocol.messages import NodeSampled
from tests.nodeagent.core_driver import CoreDriver


@pytest.fixture
def driver() -> CoreDriver:
    return CoreDriver()


def test_samples_are_frequent_while_leases_run_and_rare_otherwise(driver: CoreDriver) -> None:
    def observed_in(seconds: int) -> int:
        looks = 0
        for _tenth in range(10 * seconds):
            driver.advance(0.1)
            for _look in driver.take(ObserveNode):
                looks += 1
                driver.event(NodeObserved(1.0, 1, 2, [], []))
        return looks

    observed_in(1)
    assert observed_in(20) <= 5
    driver.define()
    driver.start_lease(1)
    driver.run_all()
    driver.said(NodeSampled)
    assert 16 <= observed_in(10) <= 25
    assert len(driver.said(NodeSampled)) >= 16
