"""Leases, workers and zygotes of the agent's core, event by event."""

from __future__ import annotations

import pytest

from atoll.nodeagent.core.events import ForkFailed, KillWorker, ProcessExited, StartZygote, StopZygote, ZygoteDied
from atoll.protocol.messages import (
    BeginLease,
    EndLease,
    FinishLease,
    JobEnded,
    LeaseEnded,
    LeaseFailed,
    LeaseStarted,
    StopWorker,
)
from tests.nodeagent.core_driver import SCHEDULER, CoreDriver


@pytest.fixture
def driver() -> CoreDriver:
    return CoreDriver()


def test_a_lease_of_an_unknown_environment_fails(driver: CoreDriver) -> None:
    driver.start_lease(1)
    (failed,) = driver.said(LeaseFailed)
    assert failed.kind == "RuntimeEnvSetupError"


def test_a_prepared_environment_has_idle_workers_and_a_lease_begins_at_once(driver: CoreDriver) -> None:
    driver.define(prepare=True)
    assert [action.digest for action in driver.take(StartZygote)] == ["e1"]
    forks = driver.forks()
    assert [fork.urgent for fork in forks] == [True, False], "the first is wanted soon, the others can wait"
    for fork in forks:
        driver.run_worker(fork.worker_id)
    driver.start_lease(1)
    (started,) = driver.said(LeaseStarted)
    assert started.lease_id == 1
    assert driver.forks() == [], "nothing competes with the task that begins now"
    driver.advance(0.2)
    assert len(driver.forks()) == 1, "the idle worker that was taken is replaced a little later"


def test_a_lease_that_finds_a_starting_worker_waits_for_it(driver: CoreDriver) -> None:
    driver.define(prepare=True)
    forks = driver.forks()
    driver.start_lease(7)
    assert driver.forks() == []
    peer = driver.run_worker(forks[0].worker_id)
    (started,) = driver.said(LeaseStarted)
    assert (started.lease_id, started.worker_id) == (7, forks[0].worker_id)
    assert [message.lease_id for message in driver.said(BeginLease, peer)] == [7]


def test_a_worker_goes_on_after_its_lease_and_serves_its_job_only(driver: CoreDriver) -> None:
    driver.define()
    driver.start_lease(1)
    ((worker_id, peer),) = driver.run_all().items()
    driver.message(SCHEDULER, EndLease(1, kill=False))
    assert driver.said(FinishLease, peer)
    assert driver.said(LeaseEnded) == [LeaseEnded(1)]
    driver.said(LeaseStarted)
    driver.start_lease(2)
    assert driver.said(LeaseStarted)[0].worker_id == worker_id
    driver.message(SCHEDULER, EndLease(2, kill=False))
    driver.start_lease(3, job=b"job-0002")
    assert driver.said(LeaseStarted) == []
    assert len(driver.forks()) == 1


def test_ending_a_lease_before_its_worker_is_there_keeps_the_worker_for_anybody(driver: CoreDriver) -> None:
    driver.define()
    driver.start_lease(1)
    driver.message(SCHEDULER, EndLease(1, kill=False))
    assert driver.said(LeaseEnded) == [LeaseEnded(1)]
    driver.run_all()
    assert driver.said(LeaseStarted) == []
    driver.start_lease(2, job=b"job-0002")
    assert [started.lease_id for started in driver.said(LeaseStarted)] == [2]


def test_a_killed_lease_ends_when_the_process_is_gone(driver: CoreDriver) -> None:
    driver.define()
    driver.start_lease(1)
    ((worker_id, _peer),) = driver.run_all().items()
    driver.message(SCHEDULER, EndLease(1, kill=True))
    assert driver.said(LeaseEnded) == []
    driver.message(SCHEDULER, EndLease(1, kill=True))
    assert driver.exit_killed() == [worker_id]
    assert driver.said(LeaseEnded) == [LeaseEnded(1)]


def test_r1_a_dead_worker_ends_its_lease_with_its_signal(driver: CoreDriver) -> None:
    driver.define()
    driver.start_lease(1)
    ((worker_id, peer),) = driver.run_all().items()
    driver.lose(peer)
    assert driver.said(LeaseEnded) == []
    assert driver.take(KillWorker) == [], "it is in the midst of its exit, which will say why"
    driver.event(ProcessExited(worker_id, None, 11))
    (ended,) = driver.said(LeaseEnded)
    assert ended.kind == "WorkerCrashedError"
    assert "SIGSEGV" in ended.text
    assert "pid 4000" in ended.text


def test_a_worker_that_has_lost_its_connection_and_lives_on_is_killed(driver: CoreDriver) -> None:
    driver.define()
    driver.start_lease(1)
    ((worker_id, peer),) = driver.run_all().items()
    driver.lose(peer)
    driver.advance(0.6)
    assert driver.exit_killed() == [worker_id]
    assert [ended.kind for ended in driver.said(LeaseEnded)] == ["WorkerCrashedError"]


def test_a_worker_that_dies_while_starting_is_replaced_once(driver: CoreDriver) -> None:
    driver.define()
    driver.start_lease(1)
    driver.event(ProcessExited(driver.forks()[0].worker_id, 1, None, "ImportError: no"))
    assert driver.said(LeaseFailed) == []
    driver.event(ForkFailed(driver.forks()[0].worker_id, "the system forks no more"))
    (failed,) = driver.said(LeaseFailed)
    assert failed.kind == "RuntimeEnvSetupError"
    assert "the system forks no more" in failed.text


def test_workers_that_always_die_are_not_forked_for_ever(driver: CoreDriver) -> None:
    driver.define(prepare=True)
    forked = 0
    for _turn in range(50):
        for fork in driver.forks():
            forked += 1
            driver.event(ProcessExited(fork.worker_id, 1, None))
        driver.advance(1.0)
    assert forked <= 8


def test_a_zygote_that_cannot_start_fails_the_leases_that_wait(driver: CoreDriver) -> None:
    driver.define()
    driver.start_lease(1)
    driver.start_lease(2)
    driver.event(ZygoteDied("e1", "RuntimeEnvSetupError", "has no Atoll"))
    assert [(failed.lease_id, failed.text) for failed in driver.said(LeaseFailed)] == [
        (1, "has no Atoll"),
        (2, "has no Atoll"),
    ]
    driver.take(StartZygote)
    driver.start_lease(3)
    assert driver.take(StartZygote), "the next lease tries again: the user may have installed what was missing"


def test_a_zygote_that_dies_takes_its_workers_and_waiting_leases_get_another(driver: CoreDriver) -> None:
    driver.define()
    driver.start_lease(1)
    driver.run_all()
    driver.start_lease(2)
    driver.forks()
    driver.event(ZygoteDied("e1", "RuntimeEnvSetupError", "killed", transient=True))
    (ended,) = driver.said(LeaseEnded)
    assert (ended.lease_id, ended.kind) == (1, "WorkerCrashedError")
    assert driver.said(LeaseFailed) == []
    assert len(driver.forks()) == 1


def test_idle_workers_that_ran_something_are_trimmed(driver: CoreDriver) -> None:
    driver.define()
    driver.start_lease(1)
    peers = driver.run_all()
    driver.message(SCHEDULER, EndLease(1, kill=False))
    driver.advance(29.0)
    assert not any(driver.said(StopWorker, peer) for peer in peers.values())
    driver.advance(2.0)
    assert [bool(driver.said(StopWorker, peer)) for peer in peers.values()] == [True]
    driver.advance(3.0)
    assert set(driver.exit_killed()) == set(peers), "one that does not stop is killed"


def test_an_environment_that_nobody_uses_is_given_up_and_comes_back(driver: CoreDriver) -> None:
    driver.define(prepare=True)
    driver.take(StartZygote)
    peers = driver.run_all()
    driver.advance(601.0)
    for worker_id, peer in peers.items():
        assert driver.said(StopWorker, peer)
        driver.event(ProcessExited(worker_id, 0, None))
    driver.advance(10.0)
    assert driver.take(StopZygote)
    assert driver.forks() == []
    driver.start_lease(1)
    assert driver.take(StartZygote)
    assert len(driver.forks()) == 1


def test_the_end_of_a_job_ends_its_idle_workers(driver: CoreDriver) -> None:
    driver.define()
    driver.start_lease(1)
    ((_worker_id, peer),) = driver.run_all().items()
    driver.message(SCHEDULER, EndLease(1, kill=False))
    driver.message(SCHEDULER, JobEnded(b"job-0001"))
    assert driver.said(StopWorker, peer)
