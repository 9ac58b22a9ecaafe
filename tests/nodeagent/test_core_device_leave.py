"""Idle actors give their devices up and take them back, event by event, in the agent's core."""

from __future__ import annotations

import pytest

from atoll.nodeagent.core.events import (
    CheckpointDevices,
    DeviceMemory,
    DeviceMemoryMeasured,
    DevicesCheckpointed,
    KillWorker,
    MeasureDeviceMemory,
    ProcessExited,
    RestoreCheckpoint,
)
from atoll.protocol.leave_messages import (
    DevicesKept,
    DevicesOffloaded,
    DevicesReleased,
    DevicesRestored,
    DevicesReturned,
    DevicesWanted,
    OffloadDevices,
    RestoreDevices,
    WantDevices,
)
from atoll.protocol.machine import Peer, PeerConnected
from atoll.protocol.messages import (
    ActorConstructed,
    ActorFailed,
    ActorStarted,
    LeaseEnded,
    RegisterNode,
    ReportSpans,
    StartActor,
)
from atoll.protocol.values import ActorSpec, SchedulingClass, Span
from tests.nodeagent.core_driver import SCHEDULER, CoreDriver, share

GIB = 2**30
ACTOR = b"actor-0000000001"
SPEC = ActorSpec(ACTOR, "llm", "", "Llm", SchedulingClass({}, "e1"), b"", idle_s=60.0)


class Home:
    """An actor's worker that holds GPU 0."""

    def __init__(self, driver: CoreDriver, *, own: bool, lease_id: int = 1) -> None:
        self.driver = driver
        driver.define()
        driver.start_lease(lease_id, [share(0)], dedicated=True)
        (fork,) = [fork for fork in driver.forks() if fork.devices]
        self.worker_id = fork.worker_id
        self.peer: Peer = driver.run_worker(fork.worker_id, 4001)
        driver.message(SCHEDULER, StartActor(lease_id, SPEC, 0))
        driver.message(self.peer, ActorConstructed(ACTOR, offloads=own))

    def say(self, message: object) -> None:
        self.driver.message(self.peer, message)  # type: ignore[arg-type]

    def measure(self, left: int = 0) -> None:
        (action,) = self.driver.take(MeasureDeviceMemory)
        memory = [DeviceMemory(uuid, left, left, 0) for uuid in action.uuids]
        self.driver.event(DeviceMemoryMeasured(action.lease_id, memory))

    def go_away(self) -> None:
        """It has been idle, and gives its device up itself."""
        self.driver.advance(61.0)
        assert self.driver.said(OffloadDevices, self.peer) == [OffloadDevices(1)]
        self.say(DevicesOffloaded(1, own=True))
        self.measure()
        assert self.driver.said(DevicesReleased) == [DevicesReleased(1)]


@pytest.fixture
def driver() -> CoreDriver:
    return CoreDriver()


@pytest.fixture
def home(driver: CoreDriver) -> Home:
    return Home(driver, own=True)


def test_an_idle_actor_gives_its_device_up_and_takes_it_back_at_the_next_call(driver: CoreDriver, home: Home) -> None:
    driver.advance(50.0)
    home.say(ReportSpans([Span(b"w", b"j", "f", 0.0, 1.0, 1, "finished", 1)]))
    driver.advance(50.0)
    assert driver.said(OffloadDevices, home.peer) == [], "it was called fifty seconds ago"
    home.go_away()
    driver.advance(1000.0)
    assert driver.said(OffloadDevices, home.peer) == []
    home.say(WantDevices(1))
    assert driver.said(DevicesWanted) == [DevicesWanted(1)]
    assert driver.said(RestoreDevices, home.peer) == [], "it waits for a device that may be another's now"
    driver.message(SCHEDULER, DevicesReturned(1))
    assert driver.said(RestoreDevices, home.peer) == [RestoreDevices(1)]
    home.say(DevicesRestored(1))
    driver.advance(61.0)
    assert driver.said(OffloadDevices, home.peer) == [OffloadDevices(1)], "and so on"


def test_the_driver_does_it_for_an_actor_that_does_not(driver: CoreDriver) -> None:
    home = Home(driver, own=False)
    driver.advance(61.0)
    home.say(DevicesOffloaded(1, own=False))
    assert driver.take(CheckpointDevices) == [CheckpointDevices(1, 4001)]
    driver.event(DevicesCheckpointed(1))
    home.measure()
    assert driver.said(DevicesReleased)
    home.say(WantDevices(1))
    driver.message(SCHEDULER, DevicesReturned(1))
    assert driver.take(RestoreCheckpoint) == [RestoreCheckpoint(1, 4001)]
    assert driver.said(RestoreDevices, home.peer) == [], "no call runs before its memory is there"
    driver.event(DevicesCheckpointed(1))
    assert driver.said(RestoreDevices, home.peer)


def test_an_actor_that_has_neither_way_is_refused_when_it_is_made() -> None:
    driver = CoreDriver(no_checkpoint="the driver is older than 550")
    Home(driver, own=False)
    (failed,) = driver.said(ActorFailed)
    assert "give its class methods offload() and restore(), or leave the option out" in failed.text
    assert "the driver is older than 550" in failed.text
    assert driver.said(ActorStarted) == []


def test_one_that_does_it_itself_needs_no_driver() -> None:
    driver = CoreDriver(no_checkpoint="there is no driver")
    Home(driver, own=True).go_away()


def test_a_call_that_comes_meanwhile_ends_it(driver: CoreDriver, home: Home) -> None:
    driver.advance(61.0)
    driver.said(OffloadDevices, home.peer)
    home.say(DevicesOffloaded(1, own=True, busy=True))
    driver.advance(30.0)
    assert driver.said(OffloadDevices, home.peer) == [], "it was not idle after all"
    driver.advance(31.0)
    assert driver.said(OffloadDevices, home.peer)
    home.say(DevicesOffloaded(1, own=True))
    home.say(WantDevices(1))
    home.measure()
    assert driver.said(DevicesReleased) == [], "nobody else is to have it first"
    assert driver.said(RestoreDevices, home.peer) == [RestoreDevices(1)]


def test_what_is_not_given_up_is_kept_and_not_asked_for_again(driver: CoreDriver, home: Home) -> None:
    driver.advance(61.0)
    home.say(DevicesOffloaded(1, own=True, text="ValueError: no"))
    driver.advance(1000.0)
    assert driver.said(DevicesReleased) == []
    assert len(driver.said(OffloadDevices, home.peer)) == 1
    assert driver.said(DevicesKept) == [DevicesKept(1, "offload() raised ValueError: no")]
    driver.lose(SCHEDULER)
    again = Peer(900)
    driver.event(PeerConnected(again, "scheduler", b"schedule"))
    assert driver.said(DevicesKept, again) == [DevicesKept(1, "offload() raised ValueError: no")], "it does not know it"


def test_too_much_that_is_left_on_the_device_keeps_it(driver: CoreDriver, home: Home) -> None:
    driver.advance(61.0)
    home.say(DevicesOffloaded(1, own=True))
    home.measure(left=3 * GIB)
    assert driver.said(DevicesReleased) == []
    assert driver.said(RestoreDevices, home.peer) == [RestoreDevices(1)]
    home.say(DevicesRestored(1))
    driver.advance(1000.0)
    assert len(driver.said(OffloadDevices, home.peer)) == 1, "it would be so again"
    assert driver.said(DevicesKept) == [DevicesKept(1, "it left 3 GiB on a device")]


def test_a_checkpoint_that_fails_leaves_the_process_as_it_was(driver: CoreDriver) -> None:
    home = Home(driver, own=False)
    driver.advance(61.0)
    home.say(DevicesOffloaded(1, own=False))
    driver.event(DevicesCheckpointed(1, "Checkpoint: not supported"))
    assert driver.said(RestoreDevices, home.peer), "it holds calls, and is told to go on"
    home.say(DevicesRestored(1))
    assert driver.said(DevicesReleased) == []
    assert driver.take(KillWorker) == []


@pytest.mark.parametrize("own", [True, False])
def test_what_cannot_be_restored_ends_the_process_and_says_why(driver: CoreDriver, own: bool) -> None:
    home = Home(driver, own=own)
    driver.advance(61.0)
    home.say(DevicesOffloaded(1, own=own))
    if not own:
        driver.event(DevicesCheckpointed(1))
    home.measure()
    home.say(WantDevices(1))
    driver.message(SCHEDULER, DevicesReturned(1))
    if own:
        home.say(DevicesRestored(1, "RuntimeError: no room"))
    else:
        driver.event(DevicesCheckpointed(1, "Restore: out of memory"))
    assert driver.exit_killed() == [home.worker_id]
    home.measure()
    (ended,) = driver.said(LeaseEnded)
    assert ended.kind == "WorkerCrashedError"
    assert ("restore() raised RuntimeError: no room" if own else "Restore: out of memory") in ended.text


def test_another_has_the_device_meanwhile_and_a_process_that_dies_gives_nothing_back_twice(
    driver: CoreDriver, home: Home
) -> None:
    home.go_away()
    driver.start_lease(2, [share(0)])
    (fork,) = [fork for fork in driver.forks() if fork.devices]
    driver.run_worker(fork.worker_id, 4002)
    driver.event(ProcessExited(home.worker_id, None, 9))
    (ended,) = driver.said(LeaseEnded)
    assert ended.lease_id == 1, "at once: the device is another's, whose memory need not be free"
    assert driver.core.leases.lease(2) is not None


def test_a_scheduler_that_comes_back_hears_who_is_away_and_who_waits(driver: CoreDriver, home: Home) -> None:
    home.go_away()
    driver.lose(SCHEDULER)
    again = Peer(900)
    driver.event(PeerConnected(again, "scheduler", b"schedule"))
    assert driver.said(RegisterNode, again)[0].away == [(1, False)]
    driver.lose(again)
    home.say(WantDevices(1))
    third = Peer(901)
    driver.event(PeerConnected(third, "scheduler", b"schedule"))
    assert driver.said(RegisterNode, third)[0].away == [(1, True)]
