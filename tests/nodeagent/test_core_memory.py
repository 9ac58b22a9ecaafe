"""Claim R13 in the agent's core: who uses more memory than it may ends, and who ends when the host is full."""

from __future__ import annotations

import pytest

from atoll.nodeagent.core.events import (
    KillWorker,
    MeasureMemory,
    MemoryMeasured,
    NodeObserved,
    ProcessExited,
    WorkerMemory,
)
from atoll.nodeagent.core.memory_watch import (
    LONGEST_PAUSE_S,
    SHORTEST_PAUSE_S,
    Use,
    choose_victim,
    kept_free,
)
from atoll.protocol.messages import EndLease, LeaseEnded, ReportSpans, SpansRecorded
from atoll.protocol.values import MemoryLoss, Span, WorkerSample
from tests.nodeagent.core_driver import SCHEDULER, CoreDriver

MIB, GIB = 2**20, 2**30
BASE = 40 * MIB
"""What a worker has when its lease begins."""


class Host:
    """A host for a core: what each worker has, and what is left."""

    def __init__(self, driver: CoreDriver) -> None:
        self.driver = driver
        self.used: dict[bytes, int] = {}
        self.shared: dict[bytes, int] = {}
        self.available = 32 * GIB
        self.looks = 0
        self.exact_looks = 0

    def look(self) -> None:
        """Answer the looks that were asked for."""
        for action in self.driver.take(MeasureMemory):
            self.looks += 1
            found = []
            for worker_id, _pid, exactly in action.workers:
                self.exact_looks += exactly
                used = self.used.get(worker_id, BASE)
                quick = used + self.shared.get(worker_id, 0)
                found.append(WorkerMemory(worker_id, quick, used if exactly else None))
            self.driver.event(MemoryMeasured(found, 64 * GIB, self.available))

    def run(self, seconds: float) -> None:
        end = self.driver.now + seconds
        while (at := self.driver.core.next_deadline()) is not None and at <= end:
            self.driver.advance(max(0.0, at - self.driver.now))
            self.look()
        self.driver.advance(end - self.driver.now)


@pytest.fixture
def driver() -> CoreDriver:
    made = CoreDriver(cpus=8)
    made.define()
    return made


@pytest.fixture
def host(driver: CoreDriver) -> Host:
    return Host(driver)


def begin(driver: CoreDriver, lease_id: int, memory_bytes: int = 0, preemptible: bool = False) -> bytes:
    driver.start_lease(lease_id, memory_bytes=memory_bytes, preemptible=preemptible)
    (urgent,) = [fork for fork in driver.forks() if fork.urgent]
    driver.run_worker(urgent.worker_id, 4000 + lease_id)
    return urgent.worker_id


def killed(driver: CoreDriver) -> list[bytes]:
    return [action.worker_id for action in driver.take(KillWorker)]


def test_who_takes_more_than_it_asked_for_ends_and_hears_why(driver: CoreDriver, host: Host) -> None:
    first, second = begin(driver, 1, 2 * GIB), begin(driver, 2, 2 * GIB)
    host.run(0.2)
    host.used[first], host.used[second] = BASE + 3 * GIB, BASE + 2 * GIB
    host.run(LONGEST_PAUSE_S + SHORTEST_PAUSE_S)
    assert killed(driver) == [first], "only the offender"
    driver.event(ProcessExited(first, None, 9))
    (ended,) = driver.said(LeaseEnded)
    assert ended.lease_id == 1
    assert ended.kind == "OutOfMemoryError"
    assert ended.text == (
        'its process used 3 GiB of memory at its peak, it asked for 2 GiB. Ask for more: memory="4G" (mem=4G)'
    )
    assert ended.memory == MemoryLoss(3 * GIB, 2 * GIB, 4 * GIB), "it would do so again: it is not repeated"


def test_more_than_the_node_has_is_not_advised(host: Host, driver: CoreDriver) -> None:
    worker = begin(driver, 1, 12 * GIB)
    host.run(0.2)
    host.used[worker] = 13 * GIB
    host.run(2.0)
    killed(driver)
    driver.event(ProcessExited(worker, None, 9))
    assert "This node has 16 GiB in all: let it take less at a time" in driver.said(LeaseEnded)[0].text


def test_what_a_worker_had_before_is_not_counted(driver: CoreDriver, host: Host) -> None:
    driver.start_lease(1, memory_bytes=GIB)
    (fork,) = [fork for fork in driver.forks() if fork.urgent]
    host.used[fork.worker_id] = 3 * GIB  # an earlier lease has left that, or its zygote has imported much
    driver.run_worker(fork.worker_id)
    host.run(0.2)
    host.used[fork.worker_id] = 3 * GIB + 1000 * MIB
    host.run(2.0)
    assert killed(driver) == []
    host.used[fork.worker_id] = 4 * GIB + MIB
    host.run(2.0)
    assert killed(driver) == [fork.worker_id]


def test_pages_that_forks_share_are_not_counted_for_each(driver: CoreDriver, host: Host) -> None:
    worker = begin(driver, 1, GIB)
    host.run(0.2)
    exact_before = host.exact_looks
    host.used[worker], host.shared[worker] = 500 * MIB, 8 * GIB
    host.run(5.0)
    assert killed(driver) == [], "an exact look was asked for before anything ended"
    assert host.exact_looks == exact_before + 1, "and not again while nothing changed"


def test_looks_are_rare_far_from_the_limit_frequent_near_it_and_none_when_nothing_runs(
    driver: CoreDriver, host: Host
) -> None:
    host.run(10.0)
    assert host.looks == 0
    worker = begin(driver, 1, 8 * GIB)
    host.run(10.0)
    assert 10 <= host.looks <= 13
    host.looks = 0
    host.used[worker] = 8 * GIB - 10 * MIB
    host.run(10.0)
    assert 150 <= host.looks <= 200
    driver.event(ProcessExited(worker, 0, None))
    host.look()
    host.looks = 0
    host.run(10.0)
    assert host.looks == 0


def test_on_a_full_host_the_one_that_is_furthest_beyond_its_request_ends_and_may_be_run_again_with_more(
    driver: CoreDriver, host: Host
) -> None:
    free, large, small = begin(driver, 1), begin(driver, 2, 12 * GIB), begin(driver, 3)
    host.run(1.5)
    host.used = {free: 3 * GIB, large: 10 * GIB, small: GIB}
    host.available = GIB
    host.run(1.2)
    assert killed(driver) == [free], "the largest is within what was set aside for it"
    host.run(3.0)
    assert killed(driver) == [], "one at a time: its memory is not back yet"
    driver.event(ProcessExited(free, None, 9))
    (ended,) = driver.said(LeaseEnded)
    assert ended.kind == "OutOfMemoryError"
    assert "ran out of memory (1 GiB of 64 GiB were left)" in ended.text
    assert ended.memory == MemoryLoss(3 * GIB, 0, 4 * GIB, 4 * GIB)
    host.run(2.0)
    assert killed(driver) == [small], "and the next, since the host is still full"


def test_a_full_host_ends_nobody_who_would_not_help(driver: CoreDriver, host: Host) -> None:
    begin(driver, 1)
    host.run(1.5)
    host.available = 100 * MIB
    host.run(5.0)
    assert killed(driver) == [], "somebody else has filled it"


def test_a_full_host_takes_idle_workers_first(driver: CoreDriver, host: Host) -> None:
    idle, busy = begin(driver, 1), begin(driver, 2)
    driver.message(SCHEDULER, EndLease(1, kill=False))
    host.run(1.5)
    host.used[busy] = 20 * GIB
    host.available = 100 * MIB
    waiting = driver.core.pool.worker(idle)
    assert waiting is not None
    while waiting.state == "idle":
        host.run(0.02)
    assert killed(driver) == []
    host.run(0.3)
    assert killed(driver) == [busy], "that was not enough"


def test_work_that_may_be_preempted_goes_first() -> None:
    uses = {
        1: Use(b"1", 1, 0, 1, used_bytes=10 * GIB),
        2: Use(b"2", 2, 0, 1, used_bytes=GIB, preemptible=True),
        3: Use(b"3", 3, 4 * GIB, 1, used_bytes=4 * GIB),
    }
    assert choose_victim(uses.items()) == 2
    del uses[2]
    assert choose_victim(uses.items()) == 1
    del uses[1]
    assert choose_victim(uses.items()) is None, "nobody is ended who keeps to what was set aside"


@pytest.mark.parametrize(
    ("total", "kept"), [(2 * GIB, 128 * MIB), (24 * GIB, int(24 * GIB * 0.04)), (512 * GIB, 2 * GIB)]
)
def test_what_is_kept_free(total: int, kept: int) -> None:
    assert kept_free(total) == kept


def report(driver: CoreDriver, worker: bytes, *spans: Span) -> list[Span]:
    held = driver.core.pool.worker(worker)
    assert held is not None
    assert held.peer is not None
    driver.message(held.peer, ReportSpans(list(spans)))
    (recorded,) = driver.said(SpansRecorded)
    return recorded.spans


def ran(key: int, peak: int, code: bytes = b"code", state: str = "finished") -> Span:
    return Span(b"w", b"job", "f", 0.0, 1.0, 1, state, key, b"", code, peak)


def test_what_a_worker_has_started_counts_for_its_peak(driver: CoreDriver, host: Host) -> None:
    worker = begin(driver, 1, 8 * GIB)
    host.run(0.2)
    (span,) = report(driver, worker, ran(1, BASE + 100 * MIB))
    assert span.peak_bytes == 100 * MIB, "what it had before is not counted"
    host.used[worker] = BASE + 2 * GIB
    host.run(1.5)
    assert [s.peak_bytes for s in report(driver, worker, ran(2, BASE + MIB, state="running"))] == [2 * GIB]
    host.used[worker] = BASE
    host.run(1.5)
    report(driver, worker, ran(2, BASE + MIB, state="running"))
    assert [s.peak_bytes for s in report(driver, worker, ran(2, BASE + MIB))] == [2 * GIB], "of the whole run"
    assert [s.peak_bytes for s in report(driver, worker, ran(3, BASE + MIB))] == [MIB], "and not of the next"


def test_the_peak_of_several_codes_is_nobodys(driver: CoreDriver, host: Host) -> None:
    worker = begin(driver, 1)
    host.used[worker] = 2 * GIB
    host.run(1.5)
    found = report(driver, worker, ran(1, 0, b"f"), ran(2, 0, b"g"))
    assert [span.peak_bytes for span in found] == [0, 0]


def test_memory_of_devices_counts_too(driver: CoreDriver, host: Host) -> None:
    worker = begin(driver, 1)
    driver.advance(0.5)
    sample = WorkerSample(worker, 4001, 0.0, 0, 0.0, 5 * GIB)
    driver.event(NodeObserved(0.0, 0, 0, [], [sample]))
    assert [span.device_peak_bytes for span in report(driver, worker, ran(1, 0))] == [5 * GIB]
